"""Lips, identity and background of persons of the procedural set, against the truth (data/procedural/measure.py)."""

import functools
import itertools
from pathlib import Path

import numpy as np

from livetalk_jax.data.procedural import measure
from livetalk_jax.data.procedural.identity import make_identity, make_scene
from livetalk_jax.evaluation.metric import Absent, Clip, Curve, Scores, Truth, ends

REACH = 12  # frames
PLACED = ("mouth_x", "mouth_y", "unit")  # of the truth, where `measure.Faces` has x, y and unit
STRETCH = 10.0  # seconds of a point of the correlation's curve


@functools.lru_cache(maxsize=2)  # a sample's video and the real one, or the same person once more
def _face_measure(person: int, scene: int) -> measure.FaceMeasure:
    return measure.FaceMeasure(make_identity(person), make_scene(scene))


def _roaming(x: np.ndarray, y: np.ndarray, unit: np.ndarray) -> float:
    """How far a head moves about: the deviation of its places [F] from their mean, in units of its mean size."""
    return float(np.sqrt(x.var() + y.var()) / unit.mean())


class Meter:
    def __init__(self, clip: Clip, truth: Truth):
        self.clip, self.truth = clip, truth
        self._measure = _face_measure(truth.person, truth.scene)
        self._wall = measure.background_mask(measure.SIDE, measure.SIDE)
        self._waiting: list[np.ndarray] = []
        self._tracks: list[np.ndarray] = []  # openness, width, x, y and unit of each frame, [5, F]
        self._looks: list[np.ndarray] = []  # of each second
        self._walls: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        self._waiting += list(frames.copy())
        second = round(self.clip.fps)
        while len(self._waiting) >= second:
            self._second(np.stack(self._waiting[:second]))
            del self._waiting[:second]

    def _second(self, frames: np.ndarray) -> None:
        faces = self._measure(frames)
        self._tracks.append(np.stack([faces.openness, faces.width, faces.x, faces.y, faces.unit]))
        self._looks.append(faces.looks.mean(0))
        # The median of a second: a head that passes by does not count.
        self._walls.append(np.median(measure.square(frames)[0][:, self._wall], 0).astype(np.float16).ravel())

    def scores(self) -> Scores:
        if self._waiting:
            self._second(np.stack(self._waiting))
        tracks = np.concatenate(self._tracks, 1)
        count = min(tracks.shape[1], len(self.truth.frames["openness"]))
        if count <= 2 * REACH:
            raise Absent(f"needs {2 * REACH + 1} frames")
        openness, width, *place = tracks[:, :count]
        truth = {name: values[:count] for name, values in self.truth.frames.items()}
        lips, spread = measure.synchrony(openness, truth["openness"], REACH), measure.synchrony(width, truth["width"], REACH)
        closed = openness < measure.CLOSED
        numbers = {
            "Lip r": lips.correlation,
            "Lip r best": lips.best,
            "Lip lag": float(lips.lag),
            "Lip error": lips.error,
            "Width r": spread.correlation,
            "Width error": spread.error,
        }
        if truth["closed"].any():
            numbers["m b p closed"] = 100 * float(closed[truth["closed"]].mean())
        if truth["silent"].any():
            numbers["Rest in silence"] = 100 * float(closed[truth["silent"]].mean())

        numbers["Head motion"] = 100 * _roaming(*place) / _roaming(*(truth[name] for name in PLACED))
        looks, walls = np.array(self._looks), np.array(self._walls, np.float32)
        (first, last), (wall, later) = ends(looks), ends(walls)
        numbers["Identity drift"] = 100 * self._measure.identity_distance(first, last)
        stretches = [looks[k : k + len(first)] for k in range(0, len(looks) - len(first) + 1, len(first))]
        if sways := [self._measure.identity_distance(a, b) for a, b in itertools.pairwise(stretches)]:
            numbers["Identity sway"] = 100 * float(np.mean(sways))
        numbers["Background drift"] = 100 * float(np.abs(later.mean(0) - wall.mean(0)).mean()) / measure.two_walls()
        rest = self._measure(self.clip.portrait[None]).looks
        numbers["Identity"] = 100 * self._measure.identity_distance(rest, looks)
        seconds = np.arange(len(looks)) + 0.5
        curves = {
            "Identity": Curve(seconds, np.array([100 * self._measure.identity_distance(rest, look[None]) for look in looks])),
            "Background": Curve(seconds, 100 * np.abs(walls - wall.mean(0)).mean(1) / measure.two_walls()),
        }
        step = round(STRETCH * self.clip.fps)
        begins = range(0, count - step + 1, step)
        if len(begins) > 1:
            found = [measure.correlation(openness[k : k + step], truth["openness"][k : k + step]) for k in begins]
            curves["Lip r"] = Curve((np.array(begins) + step / 2) / self.clip.fps, np.array(found))
        return Scores(numbers, curves)


def begin(clip: Clip, weights: Path | None) -> Meter:
    if clip.truth is None:
        raise Absent("needs the procedural set's truth")
    return Meter(clip, clip.truth)
