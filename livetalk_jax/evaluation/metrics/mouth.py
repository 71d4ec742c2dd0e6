"""Sound against the motion of the mouth, without a network: who moves with the sound, how late, and does he rest in silence?

The picture's middle is cut into cells. How the brightness of each goes up and down is correlated with how the sound's loudness
does, at every lag up to half a second; both are taken relative to a second around. A mouth's cells darken as it opens with the
sound; other cells correlate with nothing and add the same at all lags. The squares of the correlations, summed over the cells,
peak at the offset, to a fraction of a frame by a parabola. The cells that correlate there are the mouth; their change from frame to
frame in silence, against that in speech, says whether it rests.

Correlations of products are not robust: one cut outweighs minutes of a mouth, and has a peak at some lag with any sound. So changes of
frames at which the whole picture jumps are replaced first by those of the frames around (`without_cuts`).
"""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter, minimum_filter1d

from livetalk_jax.evaluation.metric import SAMPLE_RATE, Absent, Clip, Scores

ROWS, COLUMNS = 24, 24  # cells
MIDDLE = (slice(8, 21), slice(6, 18))  # rows and columns of cells where mouths are
CUT = 4.0  # a change so many times that of the frames around is no motion
LEAST = 0.2  # grey levels that count as motion, so that a coder's pulses in still pictures are no cuts
REACH = 0.5  # seconds
SURE = 2.0  # a peak so many times the median makes an offset; what is less may be chance
QUIET = -35.0  # decibels below speech
REST = 0.24  # seconds around that must be quiet as well, as mouths move before they are heard


def loudness(waveform: np.ndarray, fps: float, count: int) -> np.ndarray:
    """Of the sound that belongs to each frame, in decibels, [count]."""
    edges = np.round(np.arange(count + 1) * SAMPLE_RATE / fps).astype(int)
    sound = np.pad(waveform, (0, max(edges[-1] - len(waveform), 0)))
    power = np.add.reduceat(np.concatenate([sound[: edges[-1]] ** 2, [0]]), edges)[:-1] / np.diff(edges)
    return 10 * np.log10(power + 1e-10)


def cells(frame: np.ndarray) -> np.ndarray:
    """Mean brightness of the middle cells, uint8 [Y, X, 3] -> [cells]."""
    height, width = frame.shape[:2]
    rows, columns = np.arange(ROWS) * height // ROWS, np.arange(COLUMNS) * width // COLUMNS
    sums = np.add.reduceat(np.add.reduceat(frame.sum(2, dtype=np.float32), rows, 0), columns, 1)
    size = np.diff(np.append(rows, height))[:, None] * np.diff(np.append(columns, width))[None]
    return (sums / (3 * size))[MIDDLE].ravel()


def without_cuts(changes: np.ndarray) -> np.ndarray:
    """Changes of cells from frame to frame in grey levels, [F, cells], those of cuts interpolated from the frames around.

    A cut is a frame at which the median cell changes `CUT` times as much as in the median of five frames, two before and two behind.
    This is how PySceneDetect's AdaptiveDetector finds cuts, by a mean of the four around and a ratio of 3. A mouth is fewer than half
    of the cells, so it is never a cut, and heads move smoothly. Measured on 12 times 10 s: at most 1.4 in drawn videos, also with
    noise of five levels, 3.4 behind H.264, 2.3 in those of the small model; at least 5.1 where three levels jump.
    """
    levels = np.median(np.abs(changes), axis=1) + LEAST
    kept = np.flatnonzero(levels <= CUT * median_filter(levels, 5, mode="mirror"))
    return np.stack([np.interp(np.arange(len(changes)), kept, track) for track in changes[kept].T], 1)


def _swings(track: np.ndarray, fps: float) -> np.ndarray:
    """A track [F, …] less its mean over a second around."""
    return track - gaussian_filter1d(track, 0.4 * fps, axis=0, mode="nearest")


def correlations(cell: np.ndarray, sound: np.ndarray, lag: int) -> np.ndarray:
    """Of each cell [F, cells], taken `lag` frames later, with the sound [F]: [cells]."""
    count = len(sound)
    a, b = cell[max(lag, 0) : count + min(lag, 0)], sound[max(-lag, 0) : count - max(lag, 0)]
    a, b = a - a.mean(0), b - b.mean()
    return (a * b[:, None]).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum() + 1e-6)


class Meter:
    def __init__(self, clip: Clip):
        self.clip = clip
        self._cells: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        self._cells += [cells(frame) for frame in frames]

    def scores(self) -> Scores:
        fps, bright = self.clip.fps, np.array(self._cells)
        reach = round(REACH * fps)
        if len(bright) < 8 * reach:
            raise Absent(f"needs {8 * reach / fps:.0f} s")
        level = loudness(self.clip.waveform, fps, len(bright))
        speech = np.percentile(level, 90)
        sound = _swings(np.maximum(level, speech + QUIET), fps)
        changes = without_cuts(np.diff(bright, axis=0))
        swings = _swings(np.cumsum(np.concatenate([bright[:1], changes]), axis=0), fps)
        lags = range(-reach, reach + 1)
        squares = np.array([np.square(correlations(swings, sound, lag)).sum() for lag in lags])
        best = int(squares.argmax())
        if not squares[best] > 0:
            raise Absent("nothing moves, or nothing is heard")
        numbers = {"A/V match": float(squares[best] / np.median(squares))}
        if numbers["A/V match"] >= SURE and 0 < best < len(squares) - 1:
            before, at, after = squares[best - 1 : best + 2]
            numbers["A/V offset"] = float(best - reach + 0.5 * (before - after) / min(before - 2 * at + after, -1e-9))

        belongs = np.square(correlations(swings, sound, best - reach))
        belongs = np.where(belongs > 0.5 * belongs.max(), belongs, 0)
        change = np.abs(changes) @ belongs / belongs.sum()
        quiet = level < speech + QUIET
        silent = minimum_filter1d(quiet.astype(np.uint8), 2 * round(REST * fps) + 1, mode="nearest")[1:].astype(bool)
        if silent.sum() >= 5 and not quiet.all():
            numbers["Silent mouth"] = float(change[silent].mean() / change[~quiet[1:]].mean())
        return Scores(numbers)


def begin(clip: Clip, weights: Path | None) -> Meter:
    if not clip.waveform.any():
        raise Absent("there is no sound")
    return Meter(clip)
