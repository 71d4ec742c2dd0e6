"""VBench's motion smoothness (`vbench/motion_smoothness.py`): how well AMT-S tells a frame from the two around it.

1 − D / 255 for the mean absolute difference D of every second frame from what is interpolated between its neighbours.
"""

from pathlib import Path

import numpy as np

from livetalk_jax.evaluation.metric import Absent, Clip, Scores, curve, weight_file
from livetalk_jax.evaluation.networks.amt import AMT, MULTIPLE, SMALLEST, TABLE
from livetalk_jax.evaluation.networks.running import Windows, evaluate, published

WEIGHTS = "amt-s.pth"


class Meter:
    def __init__(self, clip: Clip, network: AMT):
        self.clip, self.network = clip, network
        # Edges are repeated to sides that fit, the odd pixel behind.
        more = (-clip.height % MULTIPLE, -clip.width % MULTIPLE)
        self._edges = [(0, 0), *((n // 2, n - n // 2) for n in more), (0, 0)]
        self._windows = Windows(self._surprise, 3, 2)
        self.add = self._windows.add

    def _surprise(self, frames: np.ndarray) -> np.ndarray:
        """Three frames -> how far the middle one is from what they let expect, [1]."""
        outer = np.pad(frames[::2].astype(np.float32) / 255, self._edges, "edge")
        middle = np.asarray(evaluate(self.network, outer[:1], outer[1:]))[0]
        (top, _), (left, _) = self._edges[1:3]
        expected = middle[top : top + self.clip.height, left : left + self.clip.width]
        # To whole levels as the published code rounds: down.
        levels = np.clip(expected * 255, 0, 255).astype(np.uint8)
        return np.array([np.abs(np.subtract(frames[1], levels, dtype=np.int16)).mean()])

    def scores(self) -> Scores:
        values = 1 - self._windows.whole() / 255
        return Scores({"Motion-S": float(values.mean())}, {"Motion-S": curve(values, self.clip.fps / 2)})


def begin(clip: Clip, weights: Path | None) -> Meter:
    network = published(AMT, TABLE, weight_file(weights, WEIGHTS))
    if min(clip.height, clip.width) <= SMALLEST - MULTIPLE:
        raise Absent(f"needs pictures of more than {SMALLEST - MULTIPLE} pixels a side, not {clip.height}×{clip.width}")
    return Meter(clip, network)
