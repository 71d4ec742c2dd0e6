"""`livetalk bench latency`: seconds of a DiT step, the VAE, the speech encoder and whole chunks, and the memory they took.

Weights and inputs are random: times do not depend on them. Calls are chained inside one program, the first run is left out, and
the median of the rest is reported.
"""

import collections
import datetime
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags as absl_flags

from livetalk_jax import flags
from livetalk_jax.benchmarks.stages import CHAIN, decoding, denoising, encoding, median_seconds
from livetalk_jax.diffusion.sampler import noise_draws
from livetalk_jax.files import write_whole
from livetalk_jax.nn.quantization import DIT_FP8, quantize
from livetalk_jax.parallel.distributed import initialize
from livetalk_jax.stream.networks import random_networks
from livetalk_jax.stream.session import Pipeline, Session, layout
from livetalk_jax.tokenizer import load_tokenizer

USAGE = """usage: livetalk bench latency [--config soulx_14b] [--devices 2] [--repeats 5] [--out FILE.json]

In 8 bits (--config.runtime.linear=fp8) on one device scales are fixed, as in what `livetalk quantize` writes.
Without the tokenizer's files, add --config.model.tokenizer=bytes: the times are the same.
"""
LARGEST = 6.0  # of what a random network's layers are given at 14B


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_integer("devices", None, "For --config.parallel.devices.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_integer("repeats", 5, "Timed runs of each program.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_multi_integer("steps", [], "Time a chunk of so many denoising steps too.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_string("out", None, "Write the results to this JSON file too.", flag_values=values)


def begin_session(pipeline: Pipeline, repeats: int, report: Callable[[str, float], None]) -> Session:
    """A session of a random portrait; reports the seconds of its start."""
    geometry = pipeline.geometry
    portrait = np.random.default_rng(0).uniform(-1, 1, (geometry.height, geometry.width, 3)).astype(np.float32)
    begin = time.perf_counter()
    session = pipeline.start(portrait)
    pipeline.warm_up(session)
    report("start: conditions and compilation", time.perf_counter() - begin)
    report("start: conditions", median_seconds(lambda: pipeline.start(portrait).conditions, repeats))
    return session


def measure_stages(pipeline: Pipeline, session: Session, repeats: int, report: Callable[[str, float], None]) -> None:
    """Report seconds a call of every stage of a chunk, on all devices of the pipeline's plan."""
    geometry, stream, sampler, networks = pipeline.geometry, pipeline.config.stream, pipeline.config.sampler, pipeline.networks
    rng = np.random.default_rng(0)
    speech = silence(pipeline)
    windows = pipeline.chunk_windows(speech)
    report("audio: wav2vec2 windows of a chunk", median_seconds(lambda: pipeline.chunk_windows(speech), repeats))

    shape = (noise_draws(sampler.method, sampler.steps), 1, *geometry.latent_grid, networks.dit.config.out_channels)
    noise = rng.normal(size=shape).astype(np.float32)
    decode, encode = decoding(pipeline), encoding(pipeline)
    dtype = session.conditions.reference.dtype
    z = np.asarray(noise[0], dtype)
    video = rng.uniform(-1, 1, (1, stream.motion_frames, geometry.height, geometry.width, 3)).astype(dtype)
    report(f"VAE: decode {stream.frames} frames", median_seconds(lambda: decode(z), repeats) / CHAIN)
    report(f"VAE: encode {stream.motion_frames} frames", median_seconds(lambda: encode(video), repeats) / CHAIN)
    timed = denoising(pipeline)
    total = median_seconds(lambda: timed(session.conditions, windows, noise, session.motion), repeats)
    report("DiT: one step", total / sampler.steps)


def silence(pipeline: Pipeline) -> np.ndarray:
    """As much as a chunk listens to."""
    stream = pipeline.config.stream
    return np.zeros((1, stream.audio_context_seconds * stream.sample_rate), np.float32)


def measure_chunk(pipeline: Pipeline, session: Session, repeats: int) -> float:
    """Seconds of a chunk, audio included; of `session`, only the conditions and the motion are used."""
    session = Session(pipeline, session.conditions, session.motion, persons=1, seed=0)
    speech = silence(pipeline)

    def chunks():
        for _ in range(CHAIN):
            frames = session.generate(pipeline.chunk_windows(speech))
        return frames

    seconds = median_seconds(chunks, repeats) / CHAIN
    assert pipeline.chunk.programs == 1, "a chunk was compiled more than once"
    return seconds


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE)
    initialize()
    out = None if values.out is None else Path(values.out)
    if out is not None and not out.parent.is_dir():
        raise flags.UsageError(f"cannot write {out}: the folder {out.parent} does not exist")
    if values.devices is not None:
        config = config.with_devices(values.devices)
    size = config.stream.buckets[0]
    where = layout(config, size)
    networks = random_networks(config.model, config.runtime.dtype, seed=0, where=where)
    tokenize = load_tokenizer(config.model.tokenizer, config.model.dit.text_len)
    if config.runtime.linear == "fp8" and len(where.devices) == 1:
        networks = networks._replace(dit=quantize(networks.dit, DIT_FP8, collections.defaultdict(lambda: LARGEST)))
    pipeline = Pipeline(networks, config, size, tokenize)
    seconds: dict[str, float] = {}

    def report(name: str, value: float) -> None:
        seconds[name] = value
        if jax.process_index() == 0:
            print(f"  {name:44}{1000 * value:10.1f} ms", flush=True)

    new_frames, own = pipeline.geometry.new_frames, config.sampler.steps
    session = begin_session(pipeline, values.repeats, report)
    for steps in dict.fromkeys([own, *values.steps]):
        other = pipeline if steps == own else Pipeline(networks, config.with_steps(steps), size, tokenize)
        name = f"chunk of {new_frames} new frames, audio included"
        report(name if steps == own else f"{name}, {steps} steps", measure_chunk(other, session, values.repeats))
    measure_stages(pipeline, session, values.repeats, report)

    device = where.devices[0]
    memory = device.memory_stats() or {}
    chunk = seconds[f"chunk of {new_frames} new frames, audio included"]
    result = {
        "command": " ".join(map(shlex.quote, argv[0].split() + argv[1:])),
        "date": datetime.date.today().isoformat(),
        "device": device.device_kind,
        "devices": len(where.devices),
        "plan": where.plan.name,
        "plan explained": where.explain(),
        "jax": jax.__version__,
        "size": f"{size[1]}x{size[0]}",
        "dtype": config.runtime.dtype,
        "attention": pipeline.attention,
        "linear": config.runtime.linear,
        "tokens": pipeline.geometry.tokens,
        "seconds": seconds,
        "frames_per_second": new_frames / chunk,
        "peak_bytes": memory.get("peak_bytes_in_use"),
        "weights": {name: sum(x.nbytes for x in jax.tree.leaves(net)) for name, net in networks._asdict().items()},
    }
    if jax.process_index() != 0:
        return
    print(result["plan explained"])
    print(", ".join(str(result[key]) for key in ("device", "jax", "size", "tokens", "dtype", "attention", "linear")))
    print(f"  {'frames a second':44}{result['frames_per_second']:10.1f}")
    if result["peak_bytes"]:
        print(f"  {'peak device memory':44}{result['peak_bytes'] / 2**30:10.1f} GiB")
    if out is not None:
        write_whole(out, json.dumps(result, indent=2) + "\n")
