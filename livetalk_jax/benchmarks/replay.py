"""A program's collectives alone, one after the other: how long they take when nothing hides them."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from livetalk_jax.benchmarks import hlo
from livetalk_jax.benchmarks.stages import median_seconds

LINE = "line"
DTYPES = {"pred": "bool", "f8e4m3fn": "float8_e4m3fn", "f8e5m2": "float8_e5m2", "bf16": "bfloat16"}


def _dtype(name: str) -> np.dtype:
    if name in DTYPES:
        return jnp.dtype(DTYPES[name])
    return jnp.dtype({"s": "int", "u": "uint", "f": "float"}[name[0]] + name[1:])


def _again(collective: hlo.Collective, x: jax.Array) -> jax.Array:
    """The collective on x; the result has x's shape."""
    groups = [list(group) for group in collective.groups]
    if collective.kind == "collective-permute":
        return jax.lax.ppermute(x, LINE, collective.groups)
    if collective.kind == "all-to-all":
        return jax.lax.all_to_all(x, LINE, 0, 0, axis_index_groups=groups, tiled=True)
    if collective.kind == "all-gather":
        return jax.lax.all_gather(x, LINE, axis_index_groups=groups)[-1]
    if collective.kind == "all-reduce":
        return jax.lax.psum(x, LINE, axis_index_groups=groups)
    raise ValueError(f"a {collective.kind} cannot be timed alone")


def seconds(counts: hlo.Counts, devices: Sequence[jax.Device], repeats: int) -> float:
    """Median wall time of all collectives of one run of a program; those of one kind and size follow each other."""
    mesh = Mesh(np.asarray(devices), (LINE,), axis_types=(AxisType.Auto,))

    def shape(collective: hlo.Collective) -> tuple[int, np.dtype]:
        """One array stands for all operands; elements a device."""
        dtype = _dtype(collective.operands[0][0])
        return sum(math.prod(dims) for _, dims in collective.operands), dtype

    def everything(*arrays):
        done = []
        for (collective, count), x in zip(counts.items(), arrays, strict=True):
            if collective.kind == "all-to-all":
                x = x.reshape(max(map(len, collective.groups)), -1)
            done.append(jax.lax.fori_loop(0, count, lambda _, x, c=collective: _again(c, x), x).reshape(-1)[0].astype(jnp.float32))
        return sum(done)

    placed = NamedSharding(mesh, PartitionSpec(LINE))
    arrays = [jax.device_put(np.zeros((size * len(devices),), dtype), placed) for size, dtype in map(shape, counts)]
    run = jax.jit(
        jax.shard_map(
            everything, mesh=mesh, in_specs=(PartitionSpec(LINE),) * len(arrays), out_specs=PartitionSpec(), check_vma=False
        )
    )
    return median_seconds(lambda: run(*arrays), repeats)
