"""Jumps where chunks join, against the motion inside chunks.

D is the mean absolute difference of two consecutive frames. A jump is D over the mean of the D before and behind, so that it does not
depend on how much moves just then: a cut detector's ratio (PySceneDetect's AdaptiveDetector) with a window of one frame. The metric is
the mean of the jumps at joins over the median of all others: about 1 where joins cannot be told from the rest. A median, because a cut
inside of a chunk is a jump of hundreds, and what stands still there jumps of 1: half of all frames would have to be such before it
goes with them (a breakdown point of 50 %; Huber, Robust Statistics, 1981). A mean at the joins, because there every jump counts: of
eight joins in ten seconds a median would not show one that is broken.
"""

from pathlib import Path

import numpy as np

from livetalk_jax.evaluation.metric import Absent, Clip, Curve, Scores
from livetalk_jax.evaluation.metrics.changes import Changes

LEAST = 0.02  # grey levels that count as motion, so that still pictures do not divide by zero


class Meter:
    def __init__(self, joins: int, fps: float):
        self.joins, self.fps = joins, fps
        self._changes = Changes()
        self.add = self._changes.add

    def scores(self) -> Scores:
        changes = np.array(self._changes.levels) + LEAST
        jumps = changes[1:-1] / (0.5 * (changes[:-2] + changes[2:]))
        at_join = (np.arange(len(jumps)) + 2) % self.joins == 0  # jump k lies between frames k + 1 and k + 2
        if at_join.all() or not at_join.any():
            raise Absent("shorter than two chunks")
        seconds = (np.flatnonzero(at_join) + 2) / self.fps
        ratio = jumps[at_join] / np.median(jumps[~at_join])
        return Scores({"Join jump": float(ratio.mean())}, {"Jump at each join": Curve(seconds, ratio)})


def begin(clip: Clip, weights: Path | None) -> Meter:
    if clip.joins is None:
        raise Absent("nothing says where the chunks join")
    return Meter(clip.joins, clip.fps)
