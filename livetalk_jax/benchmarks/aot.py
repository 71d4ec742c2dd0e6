"""Compile a chunk of every plan for H200s on a machine without a GPU, and check what XLA made of it (`make sharding-aot`).

Shown are collectives, bytes and memory, not times. It fails where something moves that no plan asks for: a collective that XLA
added, bytes other than the plan's formula has, or a motion that leaves a chunk lying otherwise than the next one takes it.

    PYTHONPATH=build/aot/plugin JAX_PLATFORMS=cpu python -m livetalk_jax.benchmarks.aot --config soulx_14b [--devices 8]
"""

import sys
import time
from pathlib import Path

import jax
from absl import flags as absl_flags
from flax import nnx

from livetalk_jax import flags
from livetalk_jax.benchmarks import hlo, sharding
from livetalk_jax.benchmarks.absent import absent_devices
from livetalk_jax.benchmarks.cost.chunk import chunk_traffic
from livetalk_jax.benchmarks.report import Report, Row
from livetalk_jax.config import ModelConfig, RunConfig
from livetalk_jax.parallel.layout import Layout
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.networks import GPU_OPTIONS, Networks, network_dtype, random_network
from livetalk_jax.stream.session import Pipeline, layout
from livetalk_jax.tokenizer import load_tokenizer

USAGE = "usage: python -m livetalk_jax.benchmarks.aot --config soulx_14b [--devices 8] [--plans all] [--out DIR]"
# A stream runs a chunk as two programs, which are one here (`stages.chunk`): what either sums must not become one sum.
OPTIONS = GPU_OPTIONS | {"xla_gpu_all_reduce_combine_threshold_bytes": "0"}
NOTES = (
    "Nothing was run: these are programs compiled for H200s.",
    "sends: bytes that leave the busiest device. peak: transformer, VAE, conditions and what the chunk's program takes.",
)


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_integer("devices", 8, "GPUs of one host.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_list("plans", ["all"], "Names of plans, such as u8r1-g4x2, or all.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Folder for sharding_aot.txt, .json and .svg.", flag_values=values)


def shapes_of_networks(model: ModelConfig, dtype: str) -> Networks:
    def one(name: str):
        return nnx.eval_shape(lambda: random_network(model, name, network_dtype(name, dtype), 0))

    return Networks(**{name: one(name) for name in Networks._fields})


def shapes_of_inputs(config: RunConfig, geometry: Geometry) -> sharding.Inputs:
    inputs = sharding.random_inputs(config, geometry)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)


def problems(config: RunConfig, where: Layout, programs: sharding.Programs, program: jax.stages.Compiled) -> list[str]:
    """What the compiled chunk moves and should not, a line each."""
    text = sharding.text_of(program)
    found = [f"XLA added {line}" for line in hlo.added(text)]
    geometry = programs.pipeline.geometry
    expected = chunk_traffic(config, where.plan, geometry, per_host=where.plan.devices)
    sent = hlo.by_kind(hlo.collectives(text))
    for kind in sorted(expected.keys() | sent.keys()):
        should, does = (round(kinds.get(kind, (0, 0.0))[1]) for kinds in (expected, sent))
        if should != does:
            found.append(f"{kind} sends {does:,} bytes where the plan asks for {should:,}")
    *_, taken = programs.calls["chunk"][1]
    _, left = program.output_shardings
    for name, before, after in zip(taken._fields, taken, left, strict=True):
        if not after.is_equivalent_to(before.sharding, len(before.shape)):
            found.append(f"the motion's {name} leaves as {after} and is taken as {before.sharding}")
    return found


def compiled_row(config: RunConfig, where: Layout, networks: Networks) -> tuple[Row, list[str]]:
    """The chunk of one plan, compiled, and what is wrong with it."""
    begin = time.perf_counter()
    plan_config, size = sharding.with_plan(config, where.plan), config.stream.buckets[0]
    pipeline = Pipeline(networks, plan_config, size, load_tokenizer("bytes", config.model.dit.text_len), where.devices)
    programs = sharding.Programs(pipeline, shapes_of_inputs(config, pipeline.geometry))
    chunk, args = programs.calls["chunk"]
    program = chunk.lower(*args).compile(compiler_options=OPTIONS)
    row = Row(
        plan=where.plan.name,
        explained=where.explain(),
        devices=where.plan.devices,
        compile_seconds=time.perf_counter() - begin,
        traffic={"chunk": hlo.by_kind(hlo.collectives(sharding.text_of(program)))},
        peak_bytes=sharding.peak_bytes(programs, "chunk", program),
    )
    return row, problems(config, where, programs, program)


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE)
    out = None if values.out is None else Path(values.out)
    if out is not None and not out.is_dir():
        raise flags.UsageError(f"the folder {out} does not exist")
    size = config.stream.buckets[0]
    config = sharding.without_encoders(config)
    geometry = Geometry(*size, config.stream.frames, config.stream.motion_frames)
    _, h, w = geometry.token_grid
    plans = sharding.chosen(values.plans, [Plan(), *sharding.candidates(values.devices, config.model.dit.num_heads, (h, w))])
    devices = absent_devices(values.devices)
    networks = shapes_of_networks(config.model, config.runtime.dtype)
    about = {
        **flags.invocation(argv),
        "device": f"{devices[0].device_kind}, compiled for without one",
        "jax": jax.__version__,
        "size": f"{size[1]}x{size[0]}",
        "dtype": config.runtime.dtype,
        "steps": config.sampler.steps,
    }
    rows, wrong = [], []
    for plan in plans:
        where = layout(sharding.with_plan(config, plan), size, devices[: plan.devices])
        row, found = compiled_row(config, where, networks)
        rows.append(row)
        wrong += [f"{plan.name}: {line}" for line in found]
        print(
            f"{plan.name}: compiled in {row.compile_seconds:.0f} s",
            *(found or ["nothing moves that should not"]),
            sep="\n  ",
            flush=True,
        )
        jax.clear_caches()
        if out is not None:
            Report(about=about, rows=rows, new_frames=geometry.new_frames, notes=[*NOTES, *wrong]).write(out, "sharding_aot")
    print(Report(about=about, rows=rows, new_frames=geometry.new_frames, notes=[*NOTES, *wrong]).text())
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    flags.run(main, ["python -m livetalk_jax.benchmarks.aot", *sys.argv[1:]])
