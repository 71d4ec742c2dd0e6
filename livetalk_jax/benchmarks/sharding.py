"""`livetalk bench sharding`: every valid plan of a number of devices beside one device, in one table, measured or predicted.

Weights and inputs are random: times do not depend on them. The text, image and speech encoders take no part; what they would give
is random too. Weights are made once and shared by all plans. Results are written after every plan.
"""

import dataclasses
import gc
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags

from livetalk_jax import flags
from livetalk_jax.benchmarks import hlo, replay, stages
from livetalk_jax.benchmarks.cost import prediction
from livetalk_jax.benchmarks.cost.machines import Machine
from livetalk_jax.benchmarks.report import Report, Row
from livetalk_jax.config import CLIPVisionConfig, ParallelConfig, RunConfig, UMT5Config, Wav2Vec2Config
from livetalk_jax.diffusion.sampler import Motion, noise_draws
from livetalk_jax.models.dit import ContextKV
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.parallel.layout import WHOLE, Layout
from livetalk_jax.parallel.mesh import choose_devices
from livetalk_jax.parallel.plan import Pair, Plan, valid_plans
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.color import lab_statistics
from livetalk_jax.stream.conditioning import Conditions, mark_reference, portrait_motion
from livetalk_jax.stream.networks import Networks, random_networks
from livetalk_jax.stream.session import Pipeline, layout
from livetalk_jax.tokenizer import load_tokenizer

USAGE = """usage: livetalk bench sharding --config soulx_14b --devices 2 [--out DIR] [--plans all] [--budget SECONDS] [--repeats 3]
       livetalk bench sharding --config soulx_14b --model-for h800x8 [--out DIR]
"""
CHUNKS = 2  # in one timed run
HEAD_GROUPS = (2, 5, 4)  # tried with the first plan, where they divide a device's heads


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_integer("devices", None, "How many, all by default.", lower_bound=2, flag_values=values)
    help = "Predict instead for such as h800x8 (GPUs, in hosts of 8) or h100x4x2 (hosts x GPUs); nothing runs."
    absl_flags.DEFINE_string("model-for", None, help, flag_values=values)
    absl_flags.DEFINE_string("out", None, "Folder for sharding.txt, .json and .svg.", flag_values=values)
    absl_flags.DEFINE_list("plans", ["all"], "Names of plans, such as u2r1-g1x2, or all.", flag_values=values)
    absl_flags.DEFINE_float("budget", math.inf, "Start no plan that would probably end after so many seconds.", flag_values=values)
    absl_flags.DEFINE_integer("repeats", 3, "Timed runs of each program.", lower_bound=1, flag_values=values)


def candidates(devices: int, heads: int, token_grid: Pair, per_host: int | None = None) -> list[Plan]:
    """All plans of `devices` devices, those that tell most first: the default; the same grid without Ulysses; the default on the
    other grids; heads in groups; overlapping VAE tiles; the rest. Overlapping tiles must be equal, which not every grid allows."""
    plain = list(valid_plans(devices, heads, token_grid, per_host=per_host))
    if not plain or devices == 1:
        return []
    first = plain[0]
    same_grid = [plan for plan in plain[1:] if (plan.rows, plan.columns) == (first.rows, first.columns)]
    same_sequence = [plan for plan in plain[1:] if plan.ulysses == first.ulysses]
    groups = [dataclasses.replace(first, head_groups=n) for n in HEAD_GROUPS]
    overlap = [dataclasses.replace(plan, vae_split="overlap") for plan in plain]
    groups, overlap = ([plan for plan in some if plan.problem(heads, token_grid) is None] for some in (groups, overlap))
    variants = [*groups, *overlap[:1]]
    order = [
        first,
        *same_grid[-1:],
        *same_sequence[:1],
        *variants[:1],
        *variants[-1:],
        *same_sequence,
        *variants,
        *same_grid,
        *plain,
        *overlap,
    ]
    return list(dict.fromkeys(order))


def chosen(names: Sequence[str], plans: Sequence[Plan]) -> list[Plan]:
    """The plans named, in that order: the first are measured where time runs out. "all": `plans` in theirs.

    Raises:
        UsageError: an unknown name.
    """
    if list(names) == ["all"]:
        return list(plans)
    known = {plan.name: plan for plan in plans}
    if unknown := sorted(set(names) - known.keys()):
        raise flags.UsageError(f"no plan {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def with_plan(config: RunConfig, plan: Plan) -> RunConfig:
    """`config` with all of a plan.

    Raises:
        UsageError: its weights are cut, which nothing here measures or predicts.
    """
    if config.parallel.weights != "whole":
        raise flags.UsageError("plans are compared with whole weights: leave config.parallel.weights as it is")
    parallel = ParallelConfig(
        devices=plan.devices, sequence=f"{plan.ulysses}x{plan.ring}", grid=f"{plan.rows}x{plan.columns}",
        head_groups=plan.head_groups, vae_split=plan.vae_split,
    )  # fmt: skip
    return dataclasses.replace(config, parallel=parallel)


def without_encoders(config: RunConfig) -> RunConfig:
    """The text, image and speech encoders at their smallest: the sharded programs do not hold them."""
    model = dataclasses.replace(
        config.model, text=UMT5Config.tiny(), clip=CLIPVisionConfig.tiny(), audio=Wav2Vec2Config.tiny(), tokenizer="bytes"
    )
    return dataclasses.replace(config, model=model)


class Inputs(NamedTuple):
    """What a session gives the programs, of the whole picture, on the host.

    Attributes:
        noise: of a whole denoising loop.
        latents, video: for the VAE.
        key, number: of the noise that a chunk draws itself.
    """

    conditions: Conditions
    motion: Motion
    windows: jax.Array
    noise: jax.Array
    latents: jax.Array
    video: jax.Array
    key: jax.Array
    number: jax.Array


def random_inputs(config: RunConfig, geometry: Geometry) -> Inputs:
    """One person's session at random, in the sizes that the published encoders give."""
    rng = np.random.default_rng(0)
    dit, stream, dtype = config.model.dit, config.stream, jnp.dtype(config.runtime.dtype)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32))

    def uniform(*shape: int) -> jax.Array:
        return jnp.asarray(rng.uniform(-1, 1, shape).astype(np.float32))

    clip = CLIPVisionConfig.vit_h_14()
    tokens = [dit.text_len, dit.text_len, *[(clip.image_size // clip.patch_size) ** 2 + 1] * 2]
    context = ContextKV(*(normal(1, n, dit.num_heads, dit.head_dim).astype(dtype) for n in tokens))
    reference = normal(1, *geometry.latent_grid, dit.out_channels).astype(dtype)
    cos, sin = (jnp.asarray(table).reshape(*geometry.token_grid, -1) for table in rotary_3d(geometry.token_grid, dit.head_dim))
    conditions = Conditions(
        reference=mark_reference(reference),
        context=[context] * dit.num_layers,
        negative=None,
        color=lab_statistics(uniform(1, 1, geometry.height, geometry.width, 3)),
        rope=(cos, sin),
        masks=None,
    )
    noise = normal(noise_draws(config.sampler.method, config.sampler.steps), *reference.shape)
    return Inputs(
        conditions=conditions,
        motion=portrait_motion(reference[:, :1], geometry.motion_latents),
        windows=normal(1, 1, stream.frames, dit.audio_window, dit.audio_blocks, dit.audio_channels),
        noise=noise,
        latents=noise[0].astype(dtype),
        video=uniform(1, stream.motion_frames, geometry.height, geometry.width, 3).astype(dtype),
        key=jax.random.key(0),
        number=jnp.uint32(0),
    )


class Programs:
    """The programs of one plan with their arguments; each is compiled when it is first asked for."""

    def __init__(self, pipeline: Pipeline, inputs: Inputs):
        self.pipeline = pipeline
        conditions, motion = stages.place(pipeline.layout, pipeline.specs, (inputs.conditions, inputs.motion))
        rest = (inputs.windows, inputs.noise, inputs.latents, inputs.video)
        windows, noise, latents, video = stages.place(pipeline.layout, (WHOLE,) * 4, rest)
        key, number = stages.place(pipeline.layout, (WHOLE, WHOLE), (inputs.key, inputs.number))
        self.calls = {
            "DiT step": (stages.denoising(pipeline), (conditions, windows, noise, motion)),
            "VAE decode": (stages.decoding(pipeline), (latents,)),
            "VAE encode": (stages.encoding(pipeline), (video,)),
            "chunk": (stages.chunk(pipeline), (conditions, windows, key, number, motion)),
        }
        self.share = {"DiT step": 1 / pipeline.config.sampler.steps, "chunk": 1.0}
        self.share |= dict.fromkeys(("VAE decode", "VAE encode"), 1 / stages.CHAIN)

    def compile(self, stage: str) -> jax.stages.Compiled:
        program, args = self.calls[stage]
        return program.lower(*args).compile()

    def run(self, stage: str):
        program, args = self.calls[stage]
        return program(*args)

    def seconds(self, stage: str, repeats: int) -> float:
        """Of one call of the stage."""
        if stage == "chunk":
            program, (*args, motion) = self.calls[stage]

            def chunks():
                carried = motion
                for _ in range(CHUNKS):
                    frames, carried = program(*args, carried)
                return frames

            return stages.median_seconds(chunks, repeats) / CHUNKS
        return stages.median_seconds(lambda: self.run(stage), repeats) * self.share[stage]


class Measured(NamedTuple):
    """One stage of a plan: seconds, seconds of compilation, collectives of the program with the share that one call has of them,
    peak bytes, and the latents or frames on the host (nothing for the VAE)."""

    seconds: float
    compile_seconds: float
    counts: hlo.Counts
    share: float
    peak_bytes: int
    result: np.ndarray


def text_of(program: jax.stages.Compiled) -> str:
    text = program.as_text()
    if text is None:
        raise ValueError(f"{jax.default_backend()} does not show its compiled programs")
    return text


def peak_bytes(programs: Programs, stage: str, program: jax.stages.Compiled) -> int:
    """Of one device: transformer, VAE, the stage's arguments, and what its program takes beside them."""
    memory = program.memory_analysis()
    if memory is None:
        raise ValueError(f"{jax.default_backend()} does not tell how much memory its programs take")
    # Not the program's own arguments: they lack the weights that only `Pipeline.start` uses.
    networks = programs.pipeline.networks
    held = jax.tree.leaves((networks.dit, networks.vae, programs.calls[stage][1]))
    kept = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in held)
    return kept + memory.output_size_in_bytes + memory.temp_size_in_bytes - memory.alias_size_in_bytes


def measure(programs: Programs, stage: str, repeats: int) -> Measured:
    begin = time.perf_counter()
    program = programs.compile(stage)
    compile_seconds = time.perf_counter() - begin
    peak, text = peak_bytes(programs, stage, program), text_of(program)
    result = np.empty(0)
    if stage == "DiT step":
        h, w = programs.pipeline.geometry.latent_grid[1:]
        result = np.asarray(programs.run(stage))[:, :, :h, :w].astype(np.float32)
    elif stage == "chunk":
        result = np.asarray(programs.run(stage)[0])
    seconds = programs.seconds(stage, repeats)
    return Measured(seconds, compile_seconds, hlo.collectives(text), programs.share[stage], peak, result)


def what_it_hangs_on(plan: Plan, stage: str) -> tuple:
    """Plans for which this is equal run the same program in this stage."""
    sequence, grid = (plan.ulysses, plan.ring, plan.head_groups), (plan.rows, plan.columns)
    if stage == "DiT step":
        return stage, sequence, grid
    return (stage, sequence, grid, plan.vae_split) if stage == "chunk" else (stage, grid, plan.vae_split)


def row(where: Layout, measured: Mapping[str, Measured], reference: Mapping[str, Measured]) -> Row:
    latents, true = measured["DiT step"].result, reference["DiT step"].result
    difference = measured["chunk"].result.astype(np.float64) - reference["chunk"].result
    mean_square = float(np.mean(np.square(difference)))
    return Row(
        plan=where.plan.name,
        explained=where.explain(),
        devices=where.plan.devices,
        seconds={stage: m.seconds for stage, m in measured.items()},
        compile_seconds=sum(m.compile_seconds for m in measured.values()),
        traffic={stage: hlo.by_kind(m.counts, m.share) for stage, m in measured.items()},
        peak_bytes=measured["chunk"].peak_bytes,
        latents_error=float(np.linalg.norm(latents - true) / np.linalg.norm(true)),
        frames_psnr=10 * math.log10(255**2 / mean_square) if mean_square else math.inf,
    )


def measure_plan(
    config: RunConfig, where: Layout, networks: Networks, inputs: Inputs, repeats: int, known: dict[tuple, Measured]
) -> dict[str, Measured]:
    """All stages of a plan; `known` holds those of other plans, and takes these."""
    plan_config, size = with_plan(config, where.plan), config.stream.buckets[0]
    pipeline = Pipeline(networks, plan_config, size, load_tokenizer("bytes", config.model.dit.text_len), where.devices)
    programs = Programs(pipeline, inputs)
    measured = {}
    for stage in programs.calls:
        what = (where.plan.devices, *what_it_hangs_on(where.plan, stage))
        if what not in known:
            known[what] = measure(programs, stage, repeats)
        measured[stage] = known[what]
    return measured


NOTES = (
    "DiT step, decode and encode are timed in programs of their own, a chunk in one; plans that run the same program share its time.",
    "sends: bytes that leave the busiest device. alone: a chunk's collectives run one after the other with nothing beside them. "
    "peak: transformer, VAE, conditions and what the chunk's program takes. latents, PSNR: against one device.",
)


def compare(
    config: RunConfig,
    devices: Sequence[jax.Device],
    plans: Sequence[Plan],
    out: Path | None,
    repeats: int,
    budget: float,
    about: Mapping[str, Any],
) -> Report:
    """Measure one device, always, and `plans` in their order as far as `budget` seconds go; write what is known after each."""
    begin = time.perf_counter()
    size = config.stream.buckets[0]
    config = without_encoders(config)
    geometry = Geometry(*size, config.stream.frames, config.stream.motion_frames)
    inputs = random_inputs(config, geometry)
    everywhere = layout(with_plan(config, plans[0]), size, devices)
    networks = random_networks(config.model, config.runtime.dtype, seed=0, where=everywhere, linear=config.runtime.linear)
    jax.block_until_ready(jax.tree.leaves(networks))
    print(f"{time.perf_counter() - begin:5.0f} s  weights made", flush=True)

    rows: list[Row] = []
    counts: dict[str, hlo.Counts] = {}
    known: dict[tuple, Measured] = {}
    reference: Mapping[str, Measured] = {}
    untried: list[str] = []
    longest = 0.0

    def report() -> Report:
        notes = list(NOTES)
        if untried:
            notes.append(f"no time was left for: {', '.join(untried)}")
        result = Report(about=about, rows=rows, new_frames=geometry.new_frames, notes=notes)
        if out is not None:
            result.write(out, "sharding")
        return result

    for plan in (Plan(), *plans):
        started = time.perf_counter()
        if rows and started - begin + longest > budget:
            untried.append(plan.name)
            continue
        here = devices[: plan.devices]
        # One device's copy of what lies on all of them: nothing moves.
        local = networks if len(here) > 1 else jax.tree.map(lambda x: x.addressable_data(0), networks)
        where = layout(with_plan(config, plan), size, here)
        try:
            measured = measure_plan(config, where, local, inputs, repeats, known)
            reference = reference or measured
            rows.append(row(where, measured, reference))
            counts[plan.name] = measured["chunk"].counts
        except Exception as error:
            if not rows:
                raise
            # The other plans are worth having.
            why = " ".join(str(error).split())[:300]
            rows.append(Row(plan=plan.name, explained=where.explain(), devices=plan.devices, failed=why))
        jax.clear_caches()
        gc.collect()
        longest = max(longest, time.perf_counter() - started)
        print(f"{time.perf_counter() - begin:5.0f} s  {rows[-1].summary()}", flush=True)
        report()

    longest = 0.0
    for i, done in enumerate(rows):
        started = time.perf_counter()
        if counts.get(done.plan) and started - begin + longest <= budget:
            rows[i] = dataclasses.replace(done, collective_seconds=replay.seconds(counts[done.plan], devices, repeats))
            longest = max(longest, time.perf_counter() - started)
    return report()


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE)
    out = None if values.out is None else Path(values.out)
    if out is not None and not out.is_dir():
        raise flags.UsageError(f"the folder {out} does not exist")
    model_for = values["model-for"].value
    if model_for is not None and values.devices is not None:
        raise flags.UsageError("--devices measures and --model-for predicts: give one of them")
    height, width = config.stream.buckets[0]
    _, h, w = Geometry(height, width, config.stream.frames, config.stream.motion_frames).token_grid
    heads = config.model.dit.num_heads
    about = {
        **flags.invocation(argv),
        "size": f"{width}x{height}",
        "dtype": config.runtime.dtype,
        "steps": config.sampler.steps,
    }
    if model_for is not None:
        machine = Machine.parse(model_for)
        plans = chosen(values.plans, candidates(machine.devices, heads, (h, w), machine.per_host))
        about["device"] = f"PREDICTED for {machine.hosts} host(s) of {machine.per_host} {machine.chip.name}"
        report = prediction.report(with_plan(config, plans[0] if plans else Plan()), machine, plans, about)
        if out is not None:
            report.write(out, f"predicted_{model_for}")
    else:
        devices = choose_devices(values.devices or 0)
        if len(devices) < 2:
            raise flags.UsageError("a comparison needs two devices or more; --model-for predicts without them")
        plans = chosen(values.plans, candidates(len(devices), heads, (h, w)))
        about |= {"device": devices[0].device_kind, "jax": jax.__version__}
        report = compare(config, devices, plans, out=out, repeats=values.repeats, budget=values.budget, about=about)
    print(report.text())
