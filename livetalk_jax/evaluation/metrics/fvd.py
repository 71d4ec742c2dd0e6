"""FVD (Unterthiner et al., arXiv 1812.01717) of clips of 16 frames, with the I3D of the first code as StyleGAN-V ported it.

All clips of a video, one behind the other; what is left at its end is not used. Frames are stretched to 224×224.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from livetalk_jax.evaluation.metric import Clip, Scores, weight_file
from livetalk_jax.evaluation.metrics.frechet import distance
from livetalk_jax.evaluation.networks.i3d import I3D, TABLE, preprocess
from livetalk_jax.evaluation.networks.running import Windows, evaluate, published

WEIGHTS = "i3d_torchscript.pt"
FRAMES = 16


class Meter:
    def __init__(self, network: I3D):
        self._windows = Windows(lambda frames: evaluate(network, preprocess(frames)[None]), FRAMES, FRAMES)
        self.add = self._windows.add

    def scores(self) -> Scores:
        return Scores(features=self._windows.whole())


def begin(clip: Clip, weights: Path | None) -> Meter:
    return Meter(published(I3D, TABLE, weight_file(weights, WEIGHTS)))


def compare(ours: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> dict[str, float]:
    return {"FVD": distance(ours, references)}
