"""Linear layers in e4m3 by cuBLASLt, in the form that XLA turns into `__cublas$lt$matmul$f8` (Hopper and later).

XLA asks for 8-bit operands that are both contracted on their last dimension, and for rows in multiples of 16. With Triton's matmuls
switched off (`stream.networks.GPU_OPTIONS`) it then calls cuBLASLt with fast accumulation. The scales stay outside of the call and
become part of whatever reads the result. On other platforms the same operations run in wider numbers.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .reference import scale_of, to_e4m3

ROWS = 16


def matmul(x: jax.Array, weight: jax.Array, dtype) -> jax.Array:
    """x·weightᵀ of e4m3 [..., in] and [out, in], as `dtype` [..., out]."""
    rows = x.reshape(-1, x.shape[-1])
    rows = jnp.pad(rows, ((0, -len(rows) % ROWS), (0, 0)))
    out = lax.dot_general(rows, weight, (((1,), (1,)), ((), ())), preferred_element_type=dtype)
    return out[: x.size // x.shape[-1]].reshape(*x.shape[:-1], -1)


def linear(x: jax.Array, weight: jax.Array, scale: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`reference.linear`; the product is rounded to x's dtype before it is scaled."""
    tokens = scale_of(x, axis=-1)
    out = matmul(to_e4m3(x, tokens), weight, x.dtype).astype(jnp.float32) * tokens * scale
    return (out if bias is None else out + bias.astype(jnp.float32)).astype(x.dtype)
