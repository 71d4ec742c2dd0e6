"""Temporal flickering as VBench defines it, and pictures that stand still.

VBench (Huang et al., CVPR 2024, vbench/temporal_flickering.py): (255 − D) / 255 for the mean absolute difference D of consecutive
frames, 0 to 255. It means something for videos in which nothing but flicker moves; a talking person always loses a little.
"""

from pathlib import Path

import numpy as np

from livetalk_jax.evaluation.metric import Absent, Clip, Scores, curve
from livetalk_jax.evaluation.metrics.changes import Changes

STILL = 0.01  # grey levels, mean over the picture: less than any motion, and than any coder leaves of it


class Meter:
    def __init__(self, clip: Clip):
        self.clip = clip
        self._changes = Changes()
        self.add = self._changes.add

    def scores(self) -> Scores:
        if not self._changes.levels:
            raise Absent("needs two frames")
        changes = np.array(self._changes.levels)
        still = changes < STILL
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], still, [0]]).astype(np.int8))))[::2]
        numbers = {
            "Temporal-F": 1 - changes.mean() / 255,
            "Frozen": 100 * still.mean(),
            "Longest freeze": runs.max(initial=0) / self.clip.fps,
        }
        return Scores(numbers, {"Change from frame to frame": curve(changes, self.clip.fps)})


def begin(clip: Clip, weights: Path | None) -> Meter:
    return Meter(clip)
