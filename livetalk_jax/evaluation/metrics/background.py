"""VBench's background consistency: features of CLIP ViT-B/32 (`vbench/background_consistency.py`), of the middle of frames."""

from pathlib import Path

from livetalk_jax.evaluation.metric import Clip, weight_file
from livetalk_jax.evaluation.metrics.consistency import Meter
from livetalk_jax.evaluation.networks.running import evaluate, published
from livetalk_jax.evaluation.networks.vit import CLIP_TABLE, clip_b32, preprocess_clip

WEIGHTS = "ViT-B-32.pt"


def begin(clip: Clip, weights: Path | None) -> Meter:
    network = published(clip_b32, CLIP_TABLE, weight_file(weights, WEIGHTS))
    return Meter(clip, "Background-C", lambda frames: evaluate(network, preprocess_clip(frames)))
