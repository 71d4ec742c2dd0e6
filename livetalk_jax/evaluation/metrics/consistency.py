"""What VBench's subject and background consistency have in common (Huang et al., CVPR 2024, arXiv 2311.17982).

Each frame behind the first is likened to the first and to the one before it: the mean of both cosines of features, negative ones
taken as 0, and the mean of that over the frames.
"""

from collections.abc import Callable

import jax
import numpy as np

from livetalk_jax.evaluation.metric import Absent, Clip, Scores, curve
from livetalk_jax.evaluation.networks.running import Windows

BATCH = 8


def likeness(features: np.ndarray) -> np.ndarray:
    """Of each frame behind the first, features [F, D] -> [F − 1]."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    first, before = unit[1:] @ unit[0], np.sum(unit[1:] * unit[:-1], 1)
    return (np.maximum(first, 0) + np.maximum(before, 0)) / 2


class Meter:
    """Scores the column `name` by features that `run` gives of frames uint8 [B, Y, X, 3]."""

    def __init__(self, clip: Clip, name: str, run: Callable[[np.ndarray], jax.Array]):
        self.clip, self.name = clip, name
        self._windows = Windows(run, BATCH, BATCH)
        self.add = self._windows.add

    def scores(self) -> Scores:
        if self._windows.count < 2:
            raise Absent("needs two frames")
        values = likeness(self._windows.all(self._windows.count))
        return Scores({self.name: float(values.mean())}, {self.name: curve(values, self.clip.fps)})
