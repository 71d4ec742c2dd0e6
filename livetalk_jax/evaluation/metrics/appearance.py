"""Colour and sharpness of each frame against the portrait, and how they drift from the first ten seconds to the last.

Colour: mean absolute difference of the six numbers "mean and deviation of a channel" from the portrait's, in grey levels.
Sharpness: variance of the Laplacian (Pech-Pacheco et al., 2000) over that of the brightness, so that contrast does not count, as a
share of the portrait's.
Drift is the last ten seconds less the first ten (of a short video, thirds).
"""

from pathlib import Path

import numpy as np
from scipy.ndimage import laplace

from livetalk_jax.evaluation.metric import Clip, Scores, curve, ends


def colors(frame: np.ndarray) -> np.ndarray:
    """uint8 [Y, X, 3] -> mean and deviation of each channel, [6]."""
    pixels = frame.reshape(-1, 3).astype(np.float32)
    return np.concatenate([pixels.mean(0), pixels.std(0)])


def sharpness(frame: np.ndarray) -> float:
    grey = frame @ np.array([0.299, 0.587, 0.114], np.float32)
    return float(laplace(grey).var() / max(grey.var(), 1e-3))


class Meter:
    def __init__(self, clip: Clip):
        self.clip = clip
        self._portrait = colors(clip.portrait), sharpness(clip.portrait)
        self._colors: list[np.ndarray] = []
        self._sharpness: list[float] = []

    def add(self, frames: np.ndarray) -> None:
        self._colors += [colors(frame) for frame in frames]
        self._sharpness += [sharpness(frame) for frame in frames]

    def scores(self) -> Scores:
        found = np.array(self._colors)
        color = np.abs(found - self._portrait[0]).mean(1)
        sharp = np.array(self._sharpness) / max(self._portrait[1], 1e-6)
        fps = self.clip.fps
        seconds = np.stack([curve(channel, fps).values for channel in found.T], 1)
        first, last = ends(seconds)
        before, after = ends(curve(sharp, fps).values)
        numbers = {
            "Colour": float(color.mean()),
            "Colour drift": float(np.abs(last.mean(0) - first.mean(0)).mean()),
            "Sharpness": float(sharp.mean()),
            "Sharpness drift": float(after.mean() - before.mean()),
        }
        return Scores(numbers, {"Colour": curve(color, fps), "Sharpness": curve(sharp, fps)})


def begin(clip: Clip, weights: Path | None) -> Meter:
    return Meter(clip)
