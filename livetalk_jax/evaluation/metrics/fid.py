"""FID (Heusel et al., NeurIPS 2017, arXiv 1706.08500) of frames, with pytorch-fid's network and stretching.

Frames five a second: neighbours say nothing new. The frames of all our videos against those of all references.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from livetalk_jax.evaluation.metric import Clip, Scores, weight_file
from livetalk_jax.evaluation.metrics.frechet import distance
from livetalk_jax.evaluation.networks.inception import TABLE, Inception, preprocess
from livetalk_jax.evaluation.networks.running import Windows, evaluate, published

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
BATCH = 16


class Meter:
    def __init__(self, network: Inception):
        self._windows = Windows(lambda frames: evaluate(network, preprocess(frames)), BATCH, BATCH)
        self.add = self._windows.add

    def scores(self) -> Scores:
        return Scores(features=self._windows.all(self._windows.count))


def begin(clip: Clip, weights: Path | None) -> Meter:
    return Meter(published(Inception, TABLE, weight_file(weights, WEIGHTS)))


def compare(ours: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> dict[str, float]:
    return {"FID": distance(ours, references)}
