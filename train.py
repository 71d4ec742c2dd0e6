"""Train the student: stage 1 adapts the published teacher to streamed chunks, stage 2 distils it to a few steps.

python train.py --config stage1_tiny --workdir runs/one
python train.py --config stage2_tiny --workdir runs/two --config.checkpoint=runs/one/student

The same command goes on where the last checkpoint in the folder was left. docs/training.md tells the whole way.
"""

import logging
import sys
from pathlib import Path

import jax
from absl import flags as absl_flags

from livetalk_jax import flags
from livetalk_jax.config import AdaptationConfig, TrainConfig
from livetalk_jax.data.pipeline import CachedData
from livetalk_jax.shapes import Geometry
from livetalk_jax.training.batch import SyntheticData, TrainData
from livetalk_jax.training.loop import train
from livetalk_jax.training.stages import Adaptation, Distillation
from livetalk_jax.training.state import placement_for

USAGE = "usage: python train.py --config stage1_tiny --workdir DIR [--config.KEY=VALUE …]"


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("workdir", None, "Folder of the run; from checkpoints in it, it goes on.", flag_values=values)


def open_data(config: TrainConfig) -> TrainData:
    rows = config.data.batch // jax.process_count()
    if config.data.source == "cache":
        if not config.data.path:
            raise flags.UsageError("config.data.path is missing: the folder that `livetalk data prepare` wrote")
        return CachedData(
            config.data.path, config.model, config.stream, batch=rows, chunks=config.data.chunks, seed=config.loop.seed,
            process=jax.process_index(), processes=jax.process_count(),
        )  # fmt: skip
    sizes = [Geometry(*size, config.stream.frames, config.stream.motion_frames) for size in config.stream.buckets]
    return SyntheticData(
        config.model, sizes, batch=rows, chunks=config.data.chunks, seed=config.loop.seed, process=jax.process_index()
    )  # fmt: skip


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE, TrainConfig.from_config_dict)
    if not values.workdir:
        raise flags.UsageError(f"--workdir is missing; {USAGE}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    placement, data = placement_for(config, jax.devices()), open_data(config)
    if isinstance(config, AdaptationConfig):
        stage = Adaptation(config, placement, data.negative_text)
    else:
        stage = Distillation(config, placement, data.negative_text)
    train(stage, data, Path(values.workdir))


if __name__ == "__main__":
    flags.run(main, sys.argv)
