"""`eight_bit.attention` on NVIDIA Hopper by the kernel of `mosaic_gpu`: twice its rate of matrix products."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from . import mosaic_gpu
from .eight_bit import lse_of_mean, quantize


def heuristic() -> mosaic_gpu.Config:
    """For any number of queries and keys."""
    return dataclasses.replace(mosaic_gpu.heuristic(8, 128), stages=4, apart=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
def run(q, k, v, length, keys, return_lse, config):
    """As `mosaic_gpu.forward`, of bfloat16."""
    rows = q.shape[1]
    valid = length if length is not None else None if keys == k.shape[1] else keys
    given = quantize(jnp.pad(q, ((0, 0), (0, -rows % 8), (0, 0), (0, 0))), k, v, valid)
    out, lse = mosaic_gpu.forward(*given[:3], length, given.scale, keys=keys, return_lse=return_lse, config=config)
    return out[:, :rows], lse[:, :, :rows] + lse_of_mean(q, given.mean) if return_lse else None


@run.defjvp
def _no_gradient(*_):
    raise NotImplementedError("8-bit attention has no gradient; train with attention 'cudnn' or 'reference'")


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, key_length: jax.Array | int | None = None, return_lse: bool = False):
    """`eight_bit.attention` on Hopper, forward only; raises as `mosaic_gpu.attention`."""
    keys, length = mosaic_gpu.served(q, k, v, key_length)
    out, lse = run(q, k, v, length, keys, return_lse, heuristic())
    return (out, lse) if return_lse else out
