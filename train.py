"""Train the student: stage 1 adapts the published teacher to streamed chunks, stage 2 distils it to a few steps.

python train.py --config stage1_14b --workdir runs/one --config.checkpoint=infinitetalk --config.data.path=features
python train.py --config stage2_14b --workdir runs/two --config.checkpoint=runs/one/student --config.data.path=features

Where there is no published VAE or speech encoder, vae_tiny and audio_tiny train them first (docs/small_model.md).
The same command goes on where the last checkpoint in the folder was left. docs/training.md tells the whole way.
"""

import logging
import sys
from pathlib import Path

from absl import flags as absl_flags

from livetalk_jax import flags
from livetalk_jax.parallel.distributed import initialize
from livetalk_jax.parallel.mesh import choose_devices
from livetalk_jax.programs import keep_programs
from livetalk_jax.shapes import Geometry

with flags.failures("train.py"):  # the extra "train" may be missing
    from livetalk_jax.training.autoencoding import Autoencoding
    from livetalk_jax.training.batch import SyntheticData, TrainData
    from livetalk_jax.training.config import AutoencoderConfig, PartConfig, SpeechConfig, TrainConfig, training_config
    from livetalk_jax.training.listening import Listening
    from livetalk_jax.training.loop import train
    from livetalk_jax.training.single import SingleNetwork
    from livetalk_jax.training.stages import Stage, make_stage
    from livetalk_jax.training.state import Placement, placement_for

USAGE = "usage: python train.py --config stage1_tiny --workdir DIR [--config.KEY=VALUE …]"


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("workdir", None, "Folder of the run; from checkpoints in it, it goes on.", flag_values=values)


def open_data(config: TrainConfig | PartConfig, where: Placement) -> TrainData:
    # What reads and draws brings SciPy and grain: only those that a source needs are imported.
    data, stream = config.data, config.stream
    readers = where.readers
    if data.source != "synthetic" and not data.path:
        drawn = "procedural" if isinstance(config, PartConfig) else "encode"
        command = f"livetalk data {'prepare' if data.source == 'cache' else drawn}"
        raise flags.UsageError(f"config.data.path is missing: the folder that `{command}` wrote")
    order = {"batch": data.batch // readers.count, "seed": config.loop.seed, "process": readers.index}
    if data.source == "drawn":
        from livetalk_jax.data.procedural import feeds

    if isinstance(config, PartConfig):
        if data.source != "drawn":
            raise flags.UsageError(f"config.data.source {data.source!r} has no pictures and speech; only 'drawn' has")
        if isinstance(config, AutoencoderConfig):
            return feeds.videos(data.path, frames=config.autoencoding.frames, **order)
        return feeds.speech(data.path, stream, **order)
    if data.source == "cache":
        from livetalk_jax.data.pipeline import CachedData

        return CachedData(
            data.path, config.model, stream, chunks=data.chunks, processes=readers.count, workers=data.workers, **order
        )
    if data.source == "drawn":
        return feeds.features(data.path, config.model, stream, chunks=data.chunks, **order)
    sizes = [Geometry(*size, stream.frames, stream.motion_frames) for size in stream.buckets]
    return SyntheticData(config.model, sizes, chunks=data.chunks, **order)


def open_stage(config: TrainConfig | PartConfig, where: Placement, data: TrainData) -> Stage | SingleNetwork:
    if isinstance(config, AutoencoderConfig):
        return Autoencoding(config, where)
    if isinstance(config, SpeechConfig):
        return Listening(config, where)
    return make_stage(config, where, data.negative_text)


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE, training_config)
    if not values.workdir:
        raise flags.UsageError(f"--workdir is missing; {USAGE}")
    # Something that is imported has set it up already.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("livetalk_jax").setLevel(logging.INFO)
    initialize()
    keep_programs()
    where = placement_for(config, choose_devices(0))
    data = open_data(config, where)
    train(open_stage(config, where, data), data, Path(values.workdir))


if __name__ == "__main__":
    flags.run(main, sys.argv)
