"""`livetalk bench latency`: where the time of a chunk goes on this machine, how many frames a second that is, when the first of them
are there, and the memory it took.

Weights and inputs are random: times do not depend on them. The VAE, the colour match and chunks are called several times in a row,
the first run of everything is left out, and the median of the rest is reported with the shortest and the longest.
"""

import contextlib
import importlib.metadata
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from livetalk_jax import flags
from livetalk_jax.benchmarks.breakdown import Breakdown
from livetalk_jax.benchmarks.stages import CHAIN, decoding, denoising, encoding, matching, seconds_of_runs
from livetalk_jax.diffusion.sampler import noise_draws
from livetalk_jax.parallel.distributed import initialize
from livetalk_jax.parallel.placement import put
from livetalk_jax.stream.networks import random_networks
from livetalk_jax.stream.session import Pipeline, Session, layout
from livetalk_jax.tokenizer import load_tokenizer

USAGE = """usage: livetalk bench latency [--config soulx_14b] [--devices 2] [--repeats 5] [--out FILE.json] [--profile DIR]

Weights are always random, which no flag has to ask for: times do not depend on them.
In 8 bits (--config.runtime.linear=fp8) scales are fixed, as in what `livetalk quantize` writes.
Without the tokenizer's files, add --config.model.tokenizer=bytes: the times are the same.
"""


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_integer("devices", None, "For --config.parallel.devices.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_integer("repeats", 5, "Timed runs of each program.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_multi_integer("steps", [], "Time a chunk of so many denoising steps too.", lower_bound=1, flag_values=values)
    help = "Write the results to this JSON file too, and .txt and .svg beside it."
    absl_flags.DEFINE_string("out", None, help, flag_values=values)
    help = "Leave a trace of one chunk in this folder, for TensorBoard and (perfetto_trace.json.gz) for ui.perfetto.dev."
    absl_flags.DEFINE_string("profile", None, help, flag_values=values)


class Runs(dict[str, list[float]]):
    """Seconds of every timed run, by what was run; each median is told as soon as it is known."""

    def __init__(self):
        super().__init__()
        self._began = time.perf_counter()

    def time(self, name: str, run: Callable[[], object], repeats: int, calls: int = 1) -> None:
        """run(), which is `calls` calls of what `name` says."""
        self.add(name, [seconds / calls for seconds in seconds_of_runs(run, repeats)])

    def add(self, name: str, seconds: list[float]) -> None:
        self[name] = seconds
        if jax.process_index() == 0:
            print(f"{time.perf_counter() - self._began:5.0f} s  {name} {1e3 * statistics.median(seconds):.1f} ms", flush=True)


def begin_session(pipeline: Pipeline, repeats: int, runs: Runs) -> Session:
    """A session of a random portrait; times its start."""
    geometry = pipeline.geometry
    portrait = np.random.default_rng(0).uniform(-1, 1, (geometry.height, geometry.width, 3)).astype(np.float32)
    begin = time.perf_counter()
    session = pipeline.start(portrait)
    pipeline.warm_up(session)
    runs.add("start: conditions and compilation", [time.perf_counter() - begin])
    runs.time("start: conditions", lambda: pipeline.start(portrait).conditions, repeats)
    return session


def time_parts(pipeline: Pipeline, session: Session, repeats: int, runs: Runs) -> None:
    """Every part of a chunk in a program of its own, on all devices of the pipeline's plan."""
    geometry, stream, sampler, conditions = pipeline.geometry, pipeline.config.stream, pipeline.config.sampler, session.conditions
    rng = np.random.default_rng(0)
    speech = silence(pipeline)
    runs.time("audio", lambda: pipeline.chunk_windows(speech), repeats)
    windows = pipeline.chunk_windows(speech)

    dtype, channels = conditions.reference.dtype, pipeline.networks.dit.config.out_channels
    noise = rng.normal(size=(noise_draws(sampler.method, sampler.steps), 1, *geometry.latent_grid, channels)).astype(np.float32)
    video = rng.uniform(-1, 1, (1, stream.frames, geometry.height, geometry.width, 3)).astype(dtype)
    latents, last = noise[0].astype(dtype), video[:, -stream.motion_frames :]
    noise, latents, video, last = put((noise, latents, video, last), pipeline.layout.whole)
    decode, match, encode, loop = decoding(pipeline), matching(pipeline), encoding(pipeline), denoising(pipeline)
    runs.time("VAE decode", lambda: decode(latents), repeats, CHAIN)
    runs.time("colour match", lambda: match(conditions.color, video), repeats, CHAIN)
    runs.time("VAE encode", lambda: encode(last), repeats, CHAIN)
    runs.time("DiT", lambda: loop(conditions, windows, noise, session.motion), repeats)
    runs.add("DiT step", [seconds / sampler.steps for seconds in runs["DiT"]])


def silence(pipeline: Pipeline) -> np.ndarray:
    """As much as a chunk listens to."""
    stream = pipeline.config.stream
    return np.zeros((1, stream.audio_context_seconds * stream.sample_rate), np.float32)


def time_chunk(name: str, pipeline: Pipeline, session: Session, repeats: int, runs: Runs) -> None:
    """A chunk, audio included; of `session`, only the conditions and the motion are used."""
    session = Session(pipeline, session.conditions, session.motion, persons=1, seed=0)
    speech = silence(pipeline)

    def chunks():
        for _ in range(CHAIN):
            frames = session.generate(pipeline.chunk_windows(speech))
        return frames

    runs.time(name, chunks, repeats, CHAIN)
    assert pipeline.chunk_programs == 2, "a chunk was compiled more than once"


def time_frames(pipeline: Pipeline, session: Session, repeats: int, runs: Runs) -> None:
    """From the beginning of a chunk, audio included, until its first frames are on the host, and until all are; it ran before."""
    speech = silence(pipeline)
    first, last = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        arrived = []
        for piece in session.generate(pipeline.chunk_windows(speech), commit=False):
            np.asarray(piece)
            arrived.append(time.perf_counter() - begin)
        first.append(arrived[0])
        last.append(arrived[-1])
    runs.add("first frames on the host", first)
    runs.add("all frames on the host", last)


def profile(pipeline: Pipeline, session: Session, folder: Path) -> None:
    """Leave a trace of one chunk, audio included, which ran before; of the first process alone."""
    first = jax.process_index() == 0
    with jax.profiler.trace(folder, create_perfetto_trace=True) if first else contextlib.nullcontext():
        pipeline.warm_up(session)


def driver(device: jax.Device) -> str | None:
    """Version of the driver of an NVIDIA GPU, if `nvidia-smi` is there to tell it."""
    if device.platform != "gpu":
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return told[0] if told else None


def facts(pipeline: Pipeline, repeats: int) -> dict[str, Any]:
    """What was measured, and on what; without what is not known here."""
    config, geometry, where = pipeline.config, pipeline.geometry, pipeline.layout
    device = where.devices[0]
    about = {
        "device": device.device_kind,
        "driver": driver(device),
        "devices": len(where.devices),
        "plan": where.plan.name,
        "plan explained": where.explain(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "size": f"{geometry.width}x{geometry.height}",
        "frames": geometry.frames,
        "motion frames": geometry.motion_frames,
        "latents": "x".join(map(str, geometry.latent_grid)),
        "tokens": geometry.tokens,
        "dtype": config.runtime.dtype,
        "attention": pipeline.attention,
        "norm and rotary positions": pipeline.norm_rope,
        "linear": config.runtime.linear,
        "scales": "fixed" if config.runtime.linear == "fp8" else None,
        "warm-up runs": 1,
        "timed runs": f"{repeats}, of the VAE, the colour match and chunks {CHAIN} in a row each",
    }
    return {key: value for key, value in about.items() if value is not None}


def result_paths(values: absl_flags.FlagValues) -> tuple[Path | None, Path | None]:
    """--out and --profile.

    Raises:
        UsageError: nothing could be written there.
    """
    out, folder = (None if path is None else Path(path) for path in (values.out, values.profile))
    for path in (out, folder):
        if path is not None and not path.parent.is_dir():
            raise flags.UsageError(f"cannot write {path}: the folder {path.parent} does not exist")
    if out is not None and out.suffix != ".json":
        raise flags.UsageError(f"--out {out} must end in .json; the table and the picture go beside it")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise flags.UsageError(f"--profile {folder} must be a folder")
    return out, folder


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE)
    initialize()
    out, folder = result_paths(values)
    if values.devices is not None:
        config = config.with_devices(values.devices)
    size = config.stream.buckets[0]
    where = layout(config, size)
    networks = random_networks(config.model, config.runtime.dtype, seed=0, where=where, linear=config.runtime.linear)
    tokenize = load_tokenizer(config.model.tokenizer, config.model.dit.text_len)
    pipeline, own = Pipeline(networks, config, size, tokenize), config.sampler.steps

    runs = Runs()
    session = begin_session(pipeline, values.repeats, runs)
    time_chunk("chunk", pipeline, session, values.repeats, runs)
    time_frames(pipeline, session, values.repeats, runs)
    for steps in dict.fromkeys(values.steps):
        if steps != own:
            other = Pipeline(networks, config.with_steps(steps), size, tokenize)
            time_chunk(f"chunk, {steps} steps", other, session, values.repeats, runs)
    time_parts(pipeline, session, values.repeats, runs)
    if folder is not None:
        profile(pipeline, session, folder)
    if jax.process_index() != 0:
        return
    breakdown = Breakdown(
        about=flags.invocation(argv) | facts(pipeline, values.repeats),
        runs=runs,
        steps=own,
        new_frames=pipeline.geometry.new_frames,
        peak_bytes=(where.devices[0].memory_stats() or {}).get("peak_bytes_in_use"),
        weights={name: sum(x.nbytes for x in jax.tree.leaves(net)) for name, net in pipeline.networks._asdict().items()},
    )
    print(f"\n{breakdown.text()}")
    if out is not None:
        breakdown.write(out)
