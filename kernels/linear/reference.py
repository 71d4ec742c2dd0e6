"""Linear layers with 8-bit weights in plain JAX: the specification that every implementation of this folder must meet."""

import jax
import jax.numpy as jnp
from jax import lax

E4M3 = jnp.float8_e4m3fn
LARGEST = 448.0  # of e4m3


def power_of_two(x: jax.Array) -> jax.Array:
    """The smallest power of two that is no less than x ≥ 0, float32; of zero, one."""
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    up = lax.bitcast_convert_type((bits + 0x007FFFFF) & 0x7F800000, jnp.float32)
    return jnp.where(x == 0.0, 1.0, up)


def scale_of(x: jax.Array, axis: int | tuple[int, ...] | None) -> jax.Array:
    """What x is divided by so that its largest magnitude along `axis` (None: of all) fits e4m3; float32, kept dimensions.

    Scales are powers of two: exact in bfloat16 too, and a floating-point format loses nothing by them.
    """
    return power_of_two(jnp.max(jnp.abs(x), axis=axis, keepdims=True).astype(jnp.float32) / LARGEST)


def to_e4m3(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x / scale in e4m3; what is too large becomes e4m3's largest, where a plain cast would give NaN."""
    return jnp.clip(x * (1.0 / scale).astype(x.dtype), -LARGEST, LARGEST).astype(E4M3)


def quantize(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A kernel [in, out] as e4m3 [out, in] and its scale, float32 []; cuBLASLt wants the contracted dimension last on both sides.

    One scale for all channels: a small channel of a floating-point format loses nothing beside a large one.
    """
    scale = scale_of(kernel, axis=None)
    return to_e4m3(kernel, scale).T, scale[0, 0]


def linear(x: jax.Array, divisor: jax.Array, weight: jax.Array, scale: jax.Array, bias: jax.Array | None, dtype) -> jax.Array:
    """x·weightᵀ·divisor·scale + bias; sums are float32.

    Args:
        x: e4m3 [rows, in].
        divisor: what x was divided by, float32: [], or [rows, 1].
        weight: e4m3 [out, in].
        scale: of the weight, float32 [].
        bias: [out].
        dtype: of the result.

    Returns:
        [rows, out].
    """
    out = jnp.einsum("ri,oi->ro", x.astype(jnp.float32), weight.astype(jnp.float32), precision="highest") * divisor * scale
    return (out if bias is None else out + bias.astype(jnp.float32)).astype(dtype)
