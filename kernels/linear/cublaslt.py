"""Linear layers in e4m3 by cuBLASLt, in the form that XLA turns into `__cublas$lt$matmul$f8` (Hopper and later).

XLA asks for 8-bit operands that are both contracted on their last dimension, and for rows in multiples of 16. With Triton's matmuls
switched off (`stream.networks.GPU_OPTIONS`) it then calls cuBLASLt with fast accumulation. On other platforms the same operations
run in `dtype`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

ROWS = 16


def matmul(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x·weightᵀ of [rows, in] and [out, in]."""
    rows = jnp.pad(x, ((0, -len(x) % ROWS), (0, 0)))
    return lax.dot_general(rows, weight, (((1,), (1,)), ((), ())))[: len(x)]


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def linear(x: jax.Array, divisor: jax.Array, weight: jax.Array, scale: jax.Array, bias: jax.Array | None, dtype) -> jax.Array:
    """`reference.linear`. With one divisor for all tokens the scales, the bias, and a GELU and quantisation behind it are part of
    the call; with one a token they become part of whatever reads the result, and the product is rounded to `dtype` first.

    Raises:
        NotImplementedError: under differentiation; gradients would be rounded to 8 bits on the way.
    """
    if divisor.ndim == 0:
        out = matmul(x.astype(dtype) * divisor.astype(dtype), weight.astype(dtype) * scale.astype(dtype))
        return out if bias is None else out + bias.astype(dtype)
    out = matmul(x.astype(dtype), weight.astype(dtype)).astype(jnp.float32) * (divisor * scale)
    return (out if bias is None else out + bias.astype(jnp.float32)).astype(dtype)


@linear.defjvp
def _no_gradient(*_):
    raise NotImplementedError("8-bit linear layers have no gradient; train with runtime.linear 'native'")
