"""`livetalk bench training`: how fast training is, how much of the devices' arithmetic that is, and where the time goes.

Of a stage, or of a network that is trained alone. Batches are random numbers of the first bucket's size. Iterations are timed as
training runs them, one waiting for the next only where it must; then each program by itself. Nothing is saved.
"""

import functools
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags as absl_flags

from livetalk_jax import flags
from livetalk_jax.benchmarks.stages import median_seconds
from livetalk_jax.files import write_whole
from livetalk_jax.parallel.distributed import initialize
from livetalk_jax.parallel.mesh import choose_devices
from livetalk_jax.shapes import Geometry
from livetalk_jax.training.autoencoding import Autoencoding
from livetalk_jax.training.batch import SyntheticData
from livetalk_jax.training.config import (
    AdaptationConfig,
    AutoencoderConfig,
    DistillationConfig,
    PartConfig,
    SpeechConfig,
    TrainConfig,
    training_config,
)
from livetalk_jax.training.listening import Listening
from livetalk_jax.training.loop import Feed
from livetalk_jax.training.single import SingleNetwork
from livetalk_jax.training.stages import Stage, State, Work, compile_together, make_stage
from livetalk_jax.training.state import Placement, placement_for
from livetalk_jax.training.throughput import peak_flops

USAGE = "usage: livetalk bench training --config stage1_1b3 [--devices 1] [--steps 10] [--out FILE.json]"

Kind = AdaptationConfig | DistillationConfig | PartConfig


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_integer("devices", 1, "How many to train on.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_integer("steps", 10, "Iterations that are timed.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_integer("repeats", 3, "Timed runs of each program.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_string("out", None, "Write the results to this JSON file too.", flag_values=values)


def opened(config: Kind, where: Placement) -> tuple[Stage | SingleNetwork, Iterator[Any]]:
    """What is trained, and a random batch again and again: training's are read ahead, and NumPy takes 0.2 s for one."""
    if isinstance(config, PartConfig):
        parts: dict[type, Any] = {AutoencoderConfig: Autoencoding, SpeechConfig: Listening}
        part = parts[type(config)](config, where)
        return part, itertools.repeat(part.synthetic_batch())
    stream = config.stream
    geometry = Geometry(*stream.buckets[0], stream.frames, stream.motion_frames)
    data = SyntheticData(config.model, [geometry], batch=config.data.batch, chunks=config.data.chunks, seed=0)
    return make_stage(config, where, data.negative_text), itertools.repeat(next(data))


def iterations(stage: Any, state: State, frozen: Any, feed: Feed, first: int, count: int) -> tuple[State, Work, float]:
    """The state after `count` iterations, what they were worth, and their seconds."""
    jax.block_until_ready(state)
    begin, tokens, flops = time.perf_counter(), 0, 0.0
    for step in range(first, first + count):
        state, _, work = stage.step(state, frozen, step, feed)
        tokens, flops = tokens + work.tokens, flops + work.flops
    jax.block_until_ready(state)
    return state, Work(tokens, flops), time.perf_counter() - begin


def program_seconds(stage: Any, state: State, frozen: Any, batch: Any, repeats: int) -> dict[str, float]:
    """Median seconds of every program of an iteration."""

    def zeros(x):
        return jnp.zeros(x.shape, x.dtype, device=x.sharding) if isinstance(x, jax.ShapeDtypeStruct) else x

    def run(name: str):
        program = stage.programs(state, frozen, batch)[name]
        result = program.run(*jax.tree.map(zeros, program.arguments))
        if program.learner:
            state[program.learner], result = result
        return result

    state = dict(state)
    return {name: median_seconds(functools.partial(run, name), repeats) for name in stage.programs(state, frozen, batch)}


def measure(config: Kind, devices: list[jax.Device], steps: int, repeats: int) -> dict[str, Any]:
    """The results, by name."""
    where = placement_for(config, devices)
    stage, data = opened(config, where)
    feed, state, frozen = Feed(data, where), stage.start(), stage.frozen()
    alone = isinstance(stage, SingleNetwork)
    network, attention = (stage.template, None) if isinstance(stage, SingleNetwork) else (stage.dit, stage.attention)

    # A student's update comes once in so many iterations: all programs have run after one round.
    together = config.distribution_matching.fake_updates if isinstance(config, DistillationConfig) else 1
    begin = time.perf_counter()
    print("weights are there; compiling", file=sys.stderr, flush=True)
    compile_together(stage.programs(state, frozen, next(feed)).values())
    state, _, _ = iterations(stage, state, frozen, feed, 0, together)
    compiled = time.perf_counter() - begin
    print(f"compiled, and the first round run, in {compiled:.0f} s", file=sys.stderr, flush=True)
    state, work, seconds = iterations(stage, state, frozen, feed, together, steps)
    print(f"{steps} iterations in {seconds:.1f} s; each program by itself is left", file=sys.stderr, flush=True)
    peak = peak_flops(devices[0], config.runtime.dtype)
    memory = [stats["peak_bytes_in_use"] for device in devices if (stats := device.memory_stats())]
    return {
        "plan": where.plan.name,
        "attention": attention,
        "rows": config.data.batch,
        "parameters": sum(x.size for x in jax.tree.leaves(network.shapes)),
        "steps": steps,
        "seconds a step": seconds / steps,
        "frames a second" if alone else "tokens a second": work.tokens / seconds,
        "model TFLOP/s a device": None if alone else work.flops / seconds / len(devices) / 1e12,
        "model FLOP utilisation": None if alone else peak and work.flops / seconds / len(devices) / peak,
        "peak GiB a device": max(memory) / 2**30 if memory else None,
        "seconds to compile and run the first round": compiled,
        "seconds of each program": program_seconds(stage, state, frozen, next(feed), repeats),
    }


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE, training_config)
    initialize()
    out = None if values.out is None else Path(values.out)
    if out is not None and not out.parent.is_dir():
        raise flags.UsageError(f"cannot write {out}: the folder {out.parent} does not exist")
    devices = choose_devices(values.devices)
    record = {
        **flags.invocation(argv),
        "device": f"{len(devices)} × {devices[0].device_kind}",
        "jax": jax.__version__,
        "stage": config.stage,
        "size": "{1}x{0}".format(*config.stream.buckets[0]),
        "dtype": config.runtime.dtype,
        "remat": config.execution.remat if isinstance(config, TrainConfig) else None,
        **measure(config, devices, values.steps, values.repeats),
    }
    parts = record["seconds of each program"]
    for name, value in record.items():
        if value is not parts:
            print(f"{name:44}{value:,.3f}" if isinstance(value, float) else f"{name:44}{value}")
    for name, seconds in parts.items():
        print(f"  {name:42}{1e3 * seconds:,.1f} ms")
    if out is not None:
        write_whole(out, json.dumps(record, indent=2) + "\n")
