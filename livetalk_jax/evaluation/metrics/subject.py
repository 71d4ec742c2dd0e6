"""VBench's subject consistency: features of DINO ViT-B/16 (`vbench/subject_consistency.py`), of whole frames."""

from pathlib import Path

from livetalk_jax.evaluation.metric import Clip, weight_file
from livetalk_jax.evaluation.metrics.consistency import Meter
from livetalk_jax.evaluation.networks.running import evaluate, published
from livetalk_jax.evaluation.networks.vit import DINO_TABLE, dino_b16, preprocess_dino

WEIGHTS = "dino_vitbase16_pretrain.pth"


def begin(clip: Clip, weights: Path | None) -> Meter:
    network = published(dino_b16, DINO_TABLE, weight_file(weights, WEIGHTS))
    return Meter(clip, "Subject-C", lambda frames: evaluate(network, preprocess_dino(frames)))
