"""Attention in 8 bits: how queries, keys and values become e4m3, and the specification in plain JAX of what a kernel does with them.

As in SageAttention (arXiv 2410.02367) the keys' mean over the tokens is taken off first: it adds the same to all logits of a query,
so softmax does not see it, and what remains is smaller. A head has one scale each for queries, keys and values, a power of two: a
floating-point format loses nothing by a scale that suits its largest number only. softmax's numerators are e4m3 too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from ..linear.reference import E4M3, scale_of, to_e4m3

ROWS = 16  # keys are padded to a multiple of this
SAMPLE = 256
MARGIN = 4.0  # costs no precision: e4m3 spans 15 binades at full precision
HEADROOM = 8.0  # numerators are up to 2^8: e4m3's smallest are then 2^-17 of the largest


class Operands(NamedTuple):
    """What a kernel takes.

    Attributes:
        q: e4m3 [B, N, A, K].
        k: e4m3 [B, L', A, K] in `in_kernel_order`; L' is L padded to a multiple of `ROWS`.
        v: e4m3 [B, A, K, L']; 8-bit matrix products want what they sum over last.
        scale: float32 [B, A, 2]: what logits are multiplied by, 1/√K included, and what the result is.
        mean: float32 [B, A, K], what was taken off the keys.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    scale: jax.Array
    mean: jax.Array


def in_kernel_order(k: jax.Array) -> jax.Array:
    """[B, L', ...] with every 16 keys in the order of a kernel's logits, of which a thread holds columns 2c, 2c+1, 2c+8 and 2c+9.

    Key 4c + 2h + e stands at 8h + 2c + e: the thread then has four neighbours, which is how an 8-bit operand lies in registers.
    """
    return k.reshape(k.shape[0], -1, 4, 2, 2, *k.shape[2:]).swapaxes(2, 3).reshape(k.shape)


def quantize(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array | int | None = None) -> Operands:
    """q [B, N, A, K] and k, v [B, L, A, K] as `Operands`; what stands from key `length` on has no part in them.

    Mean and scales are those of `SAMPLE` tokens or so, evenly spread: a look at all of them would cost as much as the conversion.
    Softmax does not see which mean it was, and what is up to `MARGIN` times larger than the largest seen still fits.
    """
    # Values are wanted transposed; XLA would have all three come so, and their biases as matrices.
    q, k, v = (with_layout_constraint(x, Layout(major_to_minor=(0, 1, 2, 3))) for x in (q, k, v))
    seen = [x[:, :: max(1, x.shape[1] // SAMPLE)].astype(jnp.float32) for x in (q, k, v)]
    count = seen[1].shape[1]
    if length is not None:
        valid = jnp.arange(k.shape[1])[:: max(1, k.shape[1] // SAMPLE)] < length
        seen[1:] = (jnp.where(valid[:, None, None], x, 0.0) for x in seen[1:])
        count = jnp.maximum(jnp.sum(valid), 1)
    mean = jnp.sum(seen[1], axis=1, keepdims=True) / count
    seen[1] -= mean
    scales = [MARGIN * scale_of(x, axis=(1, 3)) for x in seen]
    q, k, v = (to_e4m3(x, scale) for x, scale in zip((q, k.astype(jnp.float32) - mean, v), scales, strict=True))
    k, v = (jnp.pad(x, ((0, 0), (0, -x.shape[1] % ROWS), (0, 0), (0, 0))) for x in (k, v))
    of_q, of_k, of_v = (scale[:, 0, :, 0] for scale in scales)
    scale = jnp.stack([of_q * of_k * q.shape[-1] ** -0.5, of_v], axis=-1)
    return Operands(q, in_kernel_order(k), v.transpose(0, 2, 3, 1), scale, mean[:, 0])


def lse_of_mean(q: jax.Array, mean: jax.Array) -> jax.Array:
    """What the keys' mean adds to the log-sum-exp, float32 [B, A, N]."""
    return jnp.einsum("bnak,bak->ban", q.astype(jnp.float32), mean) * q.shape[-1] ** -0.5


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, key_length: jax.Array | int | None = None, return_lse: bool = False):
    """`reference.attention` of what `quantize` leaves, with its numerators in e4m3."""
    # Barriers, because XLA leaves out a conversion to fewer bits and back.
    given = jax.lax.optimization_barrier(quantize(q, k, v, key_length))
    keys = given.k.reshape(k.shape[0], -1, 2, 4, 2, *k.shape[2:]).swapaxes(2, 3).reshape(given.k.shape)
    wide_q, keys, values = (x.astype(jnp.float32) for x in (given.q, keys, given.v))
    logits = jnp.einsum("bnak,blak->banl", wide_q, keys) * given.scale[:, :, 0, None, None]
    logits = jnp.where(jnp.arange(keys.shape[1]) < (k.shape[1] if key_length is None else key_length), logits, -jnp.inf)
    top = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - jnp.where(jnp.isneginf(top), 0.0, top)) * 2.0**HEADROOM
    total = jnp.sum(weights, axis=-1, keepdims=True)
    rounded = jax.lax.optimization_barrier(weights.astype(E4M3)).astype(jnp.float32)
    out = jnp.einsum("banl,bakl->bank", rounded, values)
    out = out / jnp.where(total == 0.0, 1.0, total) * given.scale[:, :, 1, None, None]
    out = jnp.swapaxes(out, 1, 2).astype(q.dtype)
    if not return_lse:
        return out
    return out, (jnp.log(total * 2.0**-HEADROOM) + top)[..., 0] + lse_of_mean(q, given.mean)
