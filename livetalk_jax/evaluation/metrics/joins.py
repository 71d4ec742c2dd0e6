"""Jumps where chunks join, against the motion inside chunks.

At a join the difference of the two frames is divided by the mean of the differences before and behind it; and the same between all
other frames. The ratio of the two means is 1 where joins cannot be told from the rest.
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
        if not at_join.any():
            raise Absent("shorter than two chunks")
        seconds = (np.flatnonzero(at_join) + 2) / self.fps
        ratio = jumps[at_join] / jumps[~at_join].mean()
        return Scores({"Join jump": float(ratio.mean())}, {"Jump at each join": Curve(seconds, ratio)})


def begin(clip: Clip, weights: Path | None) -> Meter:
    if clip.joins is None:
        raise Absent("nothing says where the chunks join")
    return Meter(clip.joins, clip.fps)
