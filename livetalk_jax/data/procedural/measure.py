"""Measurements on pixels, for pictures of a person of this data set, whoever made them.

Nothing is learned beforehand. The person is drawn anew, once at rest and a few hundred times speaking; frames are laid onto the
face at rest by the drawing's own way of moving heads (Lucas and Kanade, 1981, with weights that pass over what does not fit), and
the mouth in them is measured by kernel ridge regression from the drawn mouths, most of them blurred, noisy or coded.
docs/procedural.md says how well that does; tools/check_measure.py measures it.
"""

import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from livetalk_jax.data.procedural import motion, phonemes
from livetalk_jax.data.procedural.backdrop import draw_wall
from livetalk_jax.data.procedural.face import FACE_UNIT, REST, Mouth, mouth_gap, mouth_span
from livetalk_jax.data.procedural.identity import Identity, Scene, make_identity, make_scene
from livetalk_jax.data.procedural.render import PIVOT, Pose, Puppet, view
from livetalk_jax.data.procedural.speech import split_of
from livetalk_jax.data.procedural.style import EYES

SIDE = 128  # pictures are measured as squares of this many pixels
NOMINAL = (0.57, 0.70)  # of the drawing, across and down: what a picture shows at least (`render.view`)
CLOSED = 0.02  # lips touch when their gap is less, in face units: half a pixel
BATCH = 64  # frames at a time

DRAWN = 500  # mouths that the regression is fitted to
KEPT = 80  # principal components of the mouth's crop
PLAYED = 60  # principal components of what a face does, which are not who it is
RIDGE = 3e-3

# Blur in pixels and steps: first roughly, as heads move by up to eight pixels.
PYRAMID = ((2.5, 8), (1.0, 6))
FARTHEST = np.array([0.35, 0.25, 0.15, 0.05, 0.05, 0.1])  # sine of yaw, of pitch, roll, x, y, log scale


class Faces(NamedTuple):
    """What is seen in each frame, float32 [F] but for the last.

    Attributes:
        openness, width: as in `dataset.Truth`, in face units.
        x, y: where the middle of the closed mouth's line is, in pixels of the frame.
        unit: pixels of a face unit.
        looks: [F, D] the face but for eyes and mouth, for `FaceMeasure.identity_distance`.
    """

    openness: np.ndarray
    width: np.ndarray
    x: np.ndarray
    y: np.ndarray
    unit: np.ndarray
    looks: np.ndarray

    @property
    def closed(self) -> np.ndarray:
        """bool [F]: the lips touch."""
        return self.openness < CLOSED


def square(frames: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """Frames of any size as squares that show what a picture of 128×128 shows.

    Args:
        frames: uint8 [F, Y, X, 3].

    Returns:
        uint8 [F, 128, 128, 3], and where they lie in the frames: left, top, and frame pixels of a square's pixel.
    """
    height, width = frames.shape[1:3]
    if (height, width) == (SIDE, SIDE):
        return frames, 0.0, 0.0, 1.0
    side = max(NOMINAL[0] / width, NOMINAL[1] / height) ** -1 * NOMINAL[1]
    left, top = (width - side) / 2, (height - side) / 2
    margin = int(np.ceil(max(0.0, -left, -top)))
    frames = np.pad(frames, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    box = (left + margin, top + margin, left + margin + side, top + margin + side)
    squares = [np.asarray(Image.fromarray(f).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)) for f in frames]
    return np.stack(squares), left, top, side / SIDE


def _sample(pictures: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear: [F, 128, 128, …] at pixels [F, points] -> [F, points, …]."""
    x, y = np.clip(x, 0, SIDE - 1.001), np.clip(y, 0, SIDE - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    across, down = (x - left).astype(np.float32), (y - top).astype(np.float32)
    if pictures.ndim == 4:
        across, down = across[..., None], down[..., None]
    flat = pictures.reshape(len(pictures) * SIDE * SIDE, *pictures.shape[3:])
    index = (np.arange(len(pictures))[:, None] * SIDE + top) * SIDE + left
    upper = flat[index] * (1 - across) + flat[index + 1] * across
    lower = flat[index + SIDE] * (1 - across) + flat[index + SIDE + 1] * across
    return upper + (lower - upper) * down


class _Points:
    """Points of the head as the drawing has them at rest, and where a head in motion shows them.

    Motion is [F, 6]: sines of yaw and pitch, roll, x, y, and the logarithm of the scale; as `render.Pose`.
    """

    def __init__(self, puppet: Puppet, x: np.ndarray, y: np.ndarray):
        self.screen, self.x, self.y, self.depth = puppet.screen, x, y, puppet.depth(x, y)

    def seen(self, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [F, points], across and down; 0 is the middle of the first pixel."""
        yaw, pitch, roll, x, y, scale = moved.T[..., None]
        across, down = self.x + self.depth * yaw - PIVOT[0], self.y + self.depth * pitch - PIVOT[1]
        c, s = np.cos(roll) * np.exp(scale), np.sin(roll) * np.exp(scale)
        at_x, at_y = PIVOT[0] + x + c * across - s * down, PIVOT[1] + y + s * across + c * down
        return (at_x - self.screen.left) / self.screen.step - 0.5, (at_y - self.screen.top) / self.screen.step - 0.5

    def sample(self, pictures: np.ndarray, moved: np.ndarray) -> np.ndarray:
        return _sample(pictures, *self.seen(moved))


def _grid(left: float, top: float, right: float, bottom: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(left, right, step), np.arange(top, bottom, step))
    return x.ravel(), y.ravel()


def _steady(step: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of the face that move with the head alone: neither eyes nor mouth."""
    x, y = _grid(0.33, 0.25, 0.67, 0.63, step)
    kept = ((x - 0.5) / 0.165) ** 2 + ((y - 0.44) / 0.19) ** 2 < 1
    kept &= (np.abs(x - 0.5) > 0.085) | (y < 0.545)
    for eye in (0.43, 0.57):
        kept &= (np.abs(x - eye) > 0.05) | (np.abs(y - EYES) > 0.022)
    return x[kept], y[kept]


STILL = np.zeros((1, 6))


class _Tracker:
    """Finds how a head has moved."""

    def __init__(self, puppet: Puppet, portrait: np.ndarray):
        self.points = points = _Points(puppet, *_steady(puppet.screen.step))
        across, down = points.x - PIVOT[0], points.y - PIVOT[1]
        self._templates = []
        for blur, steps in PYRAMID:
            grey = gaussian_filter(portrait.mean(-1, dtype=np.float32), blur)[None]
            slope_y, slope_x = (points.sample(g[None], STILL)[0] / puppet.screen.step for g in np.gradient(grey[0]))
            parts = [slope_x * points.depth, slope_y * points.depth, slope_y * across - slope_x * down, slope_x, slope_y]
            slopes = np.stack([*parts, slope_x * across + slope_y * down], 1)
            self._templates.append((blur, steps, points.sample(grey, STILL), slopes))

    def motion(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 [F, 128, 128, 3] -> [F, 6]."""
        grey = pictures.mean(-1, dtype=np.float32)
        moved = np.zeros((len(pictures), 6))
        for blur, steps, template, slopes in self._templates:
            soft = gaussian_filter(grey, (0, blur, blur))
            keeping = 1e-6 * np.square(slopes).sum() * np.eye(6)
            for _ in range(steps):
                values = self.points.sample(soft, moved)
                values = (values - values.mean(1, keepdims=True)) / (values.std(1, keepdims=True) + 1e-3)
                error = values * template.std() + template.mean() - template
                usual = 1.5 * np.median(np.abs(error), 1, keepdims=True) + 1
                weight = 1 / (1 + (error / usual) ** 2)
                normal = np.einsum("fn,ni,nj->fij", weight, slopes, slopes, optimize=True) + keeping
                step = np.linalg.solve(normal, np.einsum("fn,ni->fi", weight * error, slopes)[..., None])[..., 0]
                moved = np.clip(moved - step, -FARTHEST, FARTHEST)
        return moved


def _under_one_light(values: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Colours [F, N, 3] as they would be if the face's points [F, M, 3] had mean zero and deviation one in each channel: [F, N · 3]."""
    values = (values - face.mean(1, keepdims=True)) / (face.std(1, keepdims=True) + 1e-3)
    return values.reshape(len(values), -1)


class _Looks:
    """The face, coarsely."""

    def __init__(self, puppet: Puppet):
        self._points = _Points(puppet, *_steady(3 * NOMINAL[1] / SIDE))

    def __call__(self, pictures: np.ndarray, moved: np.ndarray, face: np.ndarray) -> np.ndarray:
        soft = gaussian_filter(pictures.astype(np.float32), (0, 2, 2, 0))
        return _under_one_light(self._points.sample(soft, moved), face)


def _babble(rng: np.random.Generator, count: int) -> np.ndarray:
    """Mouths [count, PARTS] of all phonemes in no order."""
    names, said, at = list(phonemes.SHAPES), [], 0.0
    while at < count / 25 + 1:
        if rng.random() < 0.12:
            at += rng.uniform(0.1, 0.5)
            continue
        name = "mbp"[int(rng.integers(3))] if rng.random() < 0.2 else names[int(rng.integers(len(names)))]
        end = at + rng.uniform(0.04, 0.16)
        said.append(phonemes.Phoneme(name, at, end))
        at = end
    return phonemes.mouth_track(said, (np.arange(count) + 0.5) / 25)


def _spoilt(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """What coders and networks do to pictures."""
    values = picture.astype(np.float32)
    if rng.random() < 0.6:
        values = gaussian_filter(values, (s := rng.uniform(0.2, 1.3), s, 0))
    if rng.random() < 0.6:
        values = values + rng.normal(0, rng.uniform(1, 6), values.shape).astype(np.float32)
    picture = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        coded = io.BytesIO()
        Image.fromarray(picture).save(coded, "JPEG", quality=int(rng.integers(30, 92)))
        picture = np.asarray(Image.open(coded))
    return picture


@functools.cache
def other_looks() -> np.ndarray:
    """Looks [16, D] of persons of the test split at rest, in one scene."""
    scene, looks = make_scene(0), []
    for number in [number for number in range(200) if split_of(f"person/{number}") == "test"][:16]:
        puppet = Puppet(make_identity(number), scene, SIDE, SIDE)
        portrait = puppet.frame(REST, Pose())
        face = _Tracker(puppet, portrait).points.sample(portrait[None], STILL)
        looks.append(_Looks(puppet)(portrait[None], STILL, face)[0])
    return np.stack(looks)


class FaceMeasure:
    """Measures one person in one scene; making it takes about 5 s of one core, measuring about 300 frames a second.

    The same person and scene give the same numbers.
    """

    def __init__(self, who: Identity, scene: Scene):
        rng = np.random.default_rng([0xFACE, who.number])
        puppet = Puppet(who, scene, SIDE, SIDE)
        step, row = puppet.screen.step, who.mouth_y
        self._tracker = _Tracker(puppet, puppet.frame(REST, Pose()))
        self._looks = _Looks(puppet)
        self._middle = _Points(puppet, np.array([0.5]), np.array([row]))
        self._mouth = _Points(puppet, *_grid(0.4, row - 0.045, 0.6, row + 0.1, step))
        self._unit = FACE_UNIT / step

        mouths = [Mouth(*map(float, parts)) for parts in _babble(rng, DRAWN)]
        poses = motion.make_poses(rng, DRAWN, 3)  # few frames a second: poses of every kind
        drawn = [_spoilt(rng, puppet.frame(mouth, motion.pose_of(pose))) for mouth, pose in zip(mouths, poses, strict=True)]
        seen = [(pictures, *self._crops(pictures)) for pictures in _batches(np.stack(drawn))]
        crops = np.concatenate([part for _, part, _, _ in seen])
        targets = np.array([(mouth_gap(who, mouth), mouth_span(who, mouth)) for mouth in mouths])
        self._mean, self._usual = crops.mean(0), targets.mean(0)
        _, sizes, axes = np.linalg.svd(crops - self._mean, full_matrices=False)
        self._axes = axes[:KEPT].T * np.sqrt(DRAWN) / sizes[0]
        self._known = (crops - self._mean) @ self._axes
        apart = _squared_distances(self._known, self._known)
        self._reach = 4 * np.median(apart)
        self._numbers = np.linalg.solve(np.exp(-apart / self._reach) + RIDGE * np.eye(DRAWN), targets - self._usual)

        looks = np.concatenate([self._looks(pictures, moved, face) for pictures, _, moved, face in seen])
        self._played = np.linalg.svd(looks - looks.mean(0), full_matrices=False)[2][:PLAYED].T
        self._two_persons = float(np.linalg.norm(self._still(other_looks() - looks.mean(0)), axis=1).mean())

    def _still(self, looks: np.ndarray) -> np.ndarray:
        """Looks [N, D] without what the person's face does."""
        return looks - looks @ self._played @ self._played.T

    def identity_distance(self, a: np.ndarray, b: np.ndarray) -> float:
        """How far apart two stretches of video look, between the means of `Faces.looks` over each, [F, D].

        1 is the mean distance of other persons of the test split; what the face does and how it is lit counts little.
        """
        return float(np.linalg.norm(a.mean(0) - b.mean(0)) / self._two_persons)

    def _crops(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mouths, upright and under one light [F, D]; how the head moved [F, 6]; colours of the face [F, points, 3]."""
        moved = self._tracker.motion(pictures)
        face = self._tracker.points.sample(pictures, moved)
        return _under_one_light(self._mouth.sample(pictures, moved), face), moved, face

    def __call__(self, frames: np.ndarray) -> Faces:
        """Measure each frame on its own: nothing is known of the frame before.

        Args:
            frames: uint8 [F, Y, X, 3] of any size, framed as the data set frames persons.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
            raise ValueError(f"frames must be uint8 [F, Y, X, 3], not {frames.dtype} {list(frames.shape)}")
        return Faces(*map(np.concatenate, zip(*map(self._measure, _batches(frames)), strict=True)))

    def _measure(self, frames: np.ndarray) -> Faces:
        pictures, left, top, size = square(frames)
        crops, moved, face = self._crops(pictures)
        apart = _squared_distances((crops - self._mean) @ self._axes, self._known)
        openness, width = (np.exp(-apart / self._reach) @ self._numbers + self._usual).T
        x, y = (at[:, 0] + 0.5 for at in self._middle.seen(moved))
        unit = self._unit * np.exp(moved[:, 5])
        found = (
            np.maximum(openness, 0),
            width,
            left + x * size,
            top + y * size,
            unit * size,
            self._still(self._looks(pictures, moved, face)),
        )
        return Faces(*(values.astype(np.float32) for values in found))


def _batches(frames: np.ndarray) -> list[np.ndarray]:
    return [frames[k : k + BATCH] for k in range(0, len(frames), BATCH)]


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N, D], [M, D] -> [N, M]."""
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T, 0)


# Comparisons


def background_mask(height: int, width: int) -> np.ndarray:
    """bool [Y, X]: pixels beside and above the head, which hardly anybody of this style covers, and then not for long."""
    step = max(NOMINAL[0] / width, NOMINAL[1] / height)
    x = np.abs((np.arange(width) + 0.5 - width / 2) * step)[None]
    y = 0.425 + ((np.arange(height) + 0.5 - height / 2) * step)[:, None]
    return ((x > 0.335) & (y < 0.5)) | ((x > 0.30) & (y < 0.14)) | (y < -0.01)


@functools.cache
def two_walls() -> float:
    """The mean absolute difference of two scenes' walls, 0 to 255: sixteen scenes."""
    mask = background_mask(SIDE, SIDE)
    walls = [draw_wall(view(SIDE, SIDE, scene), scene)[mask][:, :3] for scene in map(make_scene, range(16))]
    return float(np.mean([np.abs(a - b).mean() for k, a in enumerate(walls) for b in walls[:k]]))


def background_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of the walls, 0 to 255, of two videos uint8 [F, Y, X, 3].

    Each is taken as its median over time, so that a head which passes by does not count.
    """
    mask = background_mask(*a.shape[1:3])
    return float(np.abs(np.median(a[:, mask], 0) - np.median(b[:, mask], 0)).mean())


class Sync(NamedTuple):
    """How a measured track follows another.

    Attributes:
        correlation: at lag zero.
        error: mean absolute difference at lag zero.
        lag: frames by which the measured track is late, where it correlates best.
        best: the correlation there.
    """

    correlation: float
    error: float
    lag: int
    best: float


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where either does not change."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def synchrony(measured: np.ndarray, truth: np.ndarray, reach: int = 12) -> Sync:
    """Compare a track of each frame with the truth, [F] each.

    Args:
        reach: lags of so many frames to either side are tried.
    """
    if measured.shape != truth.shape or len(truth) <= 2 * reach:
        raise ValueError(f"tracks of one length above {2 * reach} frames are needed, not {measured.shape} and {truth.shape}")
    lags = range(-reach, reach + 1)
    count = len(truth)
    values = [correlation(measured[max(lag, 0) : count + min(lag, 0)], truth[max(-lag, 0) : count - max(lag, 0)]) for lag in lags]
    best = int(np.argmax(values))
    return Sync(values[reach], float(np.abs(measured - truth).mean()), lags[best], values[best])
