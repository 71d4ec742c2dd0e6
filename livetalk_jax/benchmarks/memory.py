"""`livetalk bench memory`: what a training stage needs on each GPU of 8, 16 and 32, from programs compiled for H200s without them.

Nothing is run. A device holds the weights and the optimisers' memory of all networks in training, what is frozen, a batch, and what
the program at work takes beside them; the most of these is what must fit. `make memory` fetches XLA's GPU compiler and runs this
for both 14B stages.
"""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from livetalk_jax import flags
from livetalk_jax.benchmarks.absent import absent_devices
from livetalk_jax.files import write_whole
from livetalk_jax.shapes import Geometry
from livetalk_jax.training.batch import TrainBatch, synthetic_batch
from livetalk_jax.training.config import AdaptationConfig, DistillationConfig, TrainConfig
from livetalk_jax.training.stages import Stage, make_stage
from livetalk_jax.training.state import placement_for

USAGE = "usage: livetalk bench memory --config stage1_14b [--devices 8,16,32] [--out DIR]"
H200_BYTES = 141e9


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_list("devices", ["8", "16", "32"], "Numbers of GPUs; above 8, hosts of 8.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Folder for memory_CONFIG.txt and .json.", flag_values=values)


def bytes_held(tree: Any) -> int:
    """Of one device, for arrays or shapes with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def abstract_batch(config: TrainConfig, stage: Stage) -> TrainBatch:
    """Shapes of a batch of the first bucket, with captions as long as they can be."""
    geometry = Geometry(*config.stream.buckets[0], config.stream.frames, config.stream.motion_frames)
    made = synthetic_batch(
        config.model, geometry, batch=1, chunks=config.data.chunks, seed=0, text_tokens=config.model.dit.text_len
    )
    rows = config.data.batch
    whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), made)
    return stage.placement.place(whole, stage.placement.rows)


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes of one device.

    Attributes:
        devices: that the stage is spread over.
        rows: of a batch, on all of them.
        learners: weights and optimisers of what is trained.
        frozen: networks that are not.
        batch: the inputs.
        programs: name → what the program takes beside these while it runs.
        compile_seconds: of all programs.
    """

    devices: int
    rows: int
    learners: int
    frozen: int
    batch: int
    programs: dict[str, int]
    compile_seconds: float

    @property
    def peak(self) -> int:
        return self.learners + self.frozen + self.batch + max(self.programs.values())


def need(config: AdaptationConfig | DistillationConfig, devices: list[jax.Device]) -> Need:
    """Compile a stage's programs for devices that need not be there."""
    text = np.zeros((config.model.dit.text_len, config.model.dit.text_dim), np.float32)
    stage = make_stage(config, placement_for(config, devices), text)
    batch = abstract_batch(config, stage)
    begin, programs = time.perf_counter(), {}
    for name, program in stage.programs(stage.abstract_state(), stage.abstract_frozen(), batch).items():
        memory = program.run.lower(*program.arguments).compile().memory_analysis()
        programs[name] = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        print(f"{len(devices)} GPUs: {name} compiled, {time.perf_counter() - begin:.0f} s", flush=True)
    return Need(
        devices=len(devices),
        rows=config.data.batch,
        learners=bytes_held(stage.abstract_state()),
        frozen=bytes_held(stage.abstract_frozen()),
        batch=bytes_held(batch),
        programs=programs,
        compile_seconds=time.perf_counter() - begin,
    )


def table(needs: list[Need]) -> str:
    """GiB a GPU, a column for each number of GPUs."""

    def line(title: str, values: list[float]) -> str:
        return f"{title:28}" + "".join(f"{value / 2**30:12.1f}" for value in values)

    lines = [f"{'GiB a GPU':28}" + "".join(f"{n.devices:>7} GPUs" for n in needs)]
    lines.append(f"{'rows of the batch a GPU':28}" + "".join(f"{n.rows / n.devices:12g}" for n in needs))
    lines.append(line("weights and optimisers", [n.learners for n in needs]))
    lines.append(line("frozen networks", [n.frozen for n in needs]))
    lines.append(line("batch", [n.batch for n in needs]))
    lines += [line(f"+ {name}", [n.programs[name] for n in needs]) for name in needs[0].programs]
    lines.append(line("peak", [n.peak for n in needs]))
    fits = "".join(f"{'yes' if n.peak < H200_BYTES else 'no':>12}" for n in needs)
    return "\n".join([*lines, f"{'fits an H200 (131 GiB)':28}{fits}"]) + "\n"


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE, TrainConfig.from_config_dict)
    out = None if values.out is None else Path(values.out)
    if out is not None and not out.is_dir():
        raise flags.UsageError(f"the folder {out} does not exist")
    if any(not count.isdigit() or not int(count) for count in values.devices):
        raise flags.UsageError(f"--devices {','.join(values.devices)} must be numbers of GPUs, such as 8,16,32")
    about = {
        **flags.invocation(argv),
        "device": "NVIDIA H200, compiled for without one; nothing was run",
        "jax": jax.__version__,
        "stage": config.stage,
        "size": "{1}x{0}".format(*config.stream.buckets[0]),
    }
    needs: list[Need] = []
    for devices in [absent_devices(int(count)) for count in values.devices]:
        needs.append(need(config, devices))
        text = "\n".join([*(f"{key}: {value}" for key, value in about.items()), "", table(needs)])
        print(f"\n{text}", flush=True)
        if out is not None:  # again after every number of GPUs: a run that is stopped keeps what it had
            record = {**about, "needs": [dataclasses.asdict(n) | {"peak": n.peak} for n in needs]}
            for suffix, content in (("txt", text), ("json", json.dumps(record, indent=2) + "\n")):
                write_whole(out / f"memory_{config.stage}.{suffix}", content)
