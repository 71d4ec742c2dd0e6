"""Linear layers with 8-bit weights in plain JAX: the specification that every implementation of this folder must meet."""

import jax
import jax.numpy as jnp

E4M3 = jnp.float8_e4m3fn
LARGEST = 448.0  # of e4m3


def scale_of(x: jax.Array, axis: int | None) -> jax.Array:
    """What x is divided by so that its largest magnitude along `axis` (None: of all) becomes e4m3's; float32, kept dimensions."""
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True).astype(jnp.float32)
    return jnp.where(largest == 0.0, 1.0, largest / LARGEST)


def to_e4m3(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x / scale in e4m3; what is too large becomes e4m3's largest, where a plain cast would give NaN."""
    return jnp.clip(x.astype(jnp.float32) / scale, -LARGEST, LARGEST).astype(E4M3)


def quantize(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A kernel [in, out] as e4m3 [out, in] and its scale [1, out]; cuBLASLt wants the contracted dimension last on both sides."""
    scale = scale_of(kernel, axis=0)
    return to_e4m3(kernel, scale).T, scale


def linear(x: jax.Array, weight: jax.Array, scale: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """x·weightᵀ·scale + bias with x in e4m3 too, one scale a token.

    Args:
        x: [..., in].
        weight: e4m3 [out, in].
        scale: float32 [1, out].
        bias: [out].

    Returns:
        [..., out] in x's dtype; sums are float32.
    """
    tokens = scale_of(x, axis=-1)
    wide = to_e4m3(x, tokens).astype(jnp.float32)
    out = jnp.einsum("...i,oi->...o", wide, weight.astype(jnp.float32), precision="highest") * tokens * scale
    return (out if bias is None else out + bias.astype(jnp.float32)).astype(x.dtype)
