"""RMS norm over a token's whole width, then rotary positions, in plain JAX: the specification of this folder."""

import jax
import jax.numpy as jnp


def norm_rope(x: jax.Array, weight: jax.Array, cos: jax.Array, sin: jax.Array, *, eps: float) -> jax.Array:
    """rotate(x · weight) · rsqrt(mean(x²) + eps), in float32; pairs of neighbouring channels are turned.

    The norm's factor is the same for all channels of a token, so it commutes with the rotation: applied last, the normalised
    float32 copy of x is never written to memory.

    Args:
        x: [B, N, D].
        weight: [D].
        cos, sin: float32 [N, K/2], the same for all D/K heads.

    Returns:
        [B, N, A, K] in x's dtype.
    """
    batch, tokens, dim = x.shape
    wide = x.astype(jnp.float32)
    factor = jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + eps)
    pairs = (wide * weight.astype(jnp.float32)).reshape(batch, tokens, -1, cos.shape[-1], 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[:, None], sin[:, None]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return (turned.reshape(batch, tokens, dim // (2 * cos.shape[-1]), -1) * factor[..., None]).astype(x.dtype)
