"""The stages of a chunk as programs of their own, for timing; commands of this package share them."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from livetalk_jax.models.vae import VAE
from livetalk_jax.parallel.layout import WHOLE, Layout
from livetalk_jax.stream.chunk import denoise
from livetalk_jax.stream.color import match_colors
from livetalk_jax.stream.networks import compiled
from livetalk_jax.stream.session import Pipeline

CHAIN = 4  # calls of the VAE or the colour match in one program


def seconds_of_runs(run: Callable[[], object], repeats: int) -> list[float]:
    """Wall times of run(), which returns arrays to wait for; one run before is not counted."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - begin)
    return seconds


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median of `seconds_of_runs`."""
    return statistics.median(seconds_of_runs(run, repeats))


def denoising(pipeline: Pipeline) -> compiled:
    """(conditions, windows, whole noise, motion) -> latents: a whole denoising loop. Audio keys and values are part of it, as they
    are of a chunk."""
    parallel, (conditions, motion) = pipeline.parallel, pipeline.specs

    def loop(dit, conditions, windows, noise, motion):
        noise = parallel.take_spatial(noise, 3)
        return denoise(dit, conditions, windows, noise, motion, sampler=pipeline.config.sampler, parallel=parallel)

    in_specs = (conditions, WHOLE, WHOLE, motion)
    return pipeline.spread(loop, pipeline.networks.dit, in_specs=in_specs, out_specs=conditions.reference)


def chunk(pipeline: Pipeline) -> compiled:
    """(conditions, windows, key, number, motion) -> all new frames, and the motion: both programs of a chunk as one."""
    networks = pipeline.networks

    def run(dit, vae, conditions, *args):
        first, rest = pipeline.first_frames.fn(dit, vae, conditions, *args)
        others, motion = pipeline.other_frames.fn(vae, conditions.color, rest)
        return jnp.concatenate([first, others]), motion

    return compiled(run, networks.dit, networks.vae)


def chained(pipeline: Pipeline, call: Callable[[VAE, jax.Array], jax.Array]) -> compiled:
    """whole x -> the last of CHAIN calls of the VAE, each on an input that hangs on the one before."""

    def run(vae, x):
        vae, x = pipeline.layout.vae(vae), pipeline.parallel.take_spatial(x, 2)
        return jax.lax.scan(lambda x, _: (x + (jnp.mean(call(vae, x)) * 1e-6).astype(x.dtype), None), x, length=CHAIN)[0]

    return pipeline.spread(run, pipeline.networks.vae, in_specs=(WHOLE,), out_specs=pipeline.specs[0].reference)


def decoding(pipeline: Pipeline) -> compiled:
    """Whole latents [1, T, H, W, 16] -> nothing of interest: CHAIN decodes."""
    return chained(pipeline, lambda vae, z: vae.decode(z, parallel=pipeline.parallel))


def encoding(pipeline: Pipeline) -> compiled:
    """A whole video [1, F, Y, X, 3] -> nothing of interest: CHAIN encodes."""
    return chained(pipeline, lambda vae, x: vae.encode(x, parallel=pipeline.parallel))


def matching(pipeline: Pipeline) -> compiled:
    """(Lab statistics, whole video [1, F, Y, X, 3]) -> nothing of interest: CHAIN colour matches, each of the one before."""
    parallel, strength = pipeline.parallel, pipeline.config.stream.color_strength

    def run(color, x):
        x = parallel.take_spatial(x, 2)
        return jax.lax.scan(lambda x, _: (match_colors(x, color, strength, parallel), None), x, length=CHAIN)[0]

    conditions = pipeline.specs[0]
    return pipeline.spread(run, in_specs=(conditions.color, WHOLE), out_specs=conditions.reference)


def place(layout: Layout, specs: Any, tree: Any) -> Any:
    """Arrays of the whole picture laid on the layout's devices, padded where its tokens do not divide.

    specs: as `Layout.spread` takes them, a prefix of `tree`. `tree`: arrays, or shapes (`jax.ShapeDtypeStruct`), which stay such.
    """

    def one(spec: PartitionSpec, x):
        shape = list(x.shape)
        if layout.plan.devices == 1:
            sharding = layout.whole
        else:
            sharding = NamedSharding(layout.mesh, spec)
            for axis, true, padded in zip((-2, -1), layout.token_grid, layout.plan.padded_tokens(layout.token_grid), strict=True):
                if len(spec):  # `Layout.cut` ends with rows and columns
                    shape[len(spec) + axis] = x.shape[len(spec) + axis] // true * padded
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)
        if math.prod(shape) != x.size:
            x = jnp.pad(x, [(0, new - old) for old, new in zip(x.shape, shape, strict=True)])
        return jax.device_put(x, sharding)

    return jax.tree.map(lambda spec, part: jax.tree.map(lambda x: one(spec, x), part), specs, tree)
