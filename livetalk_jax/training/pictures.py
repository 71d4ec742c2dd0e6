"""Errors of pictures, as they are seen: where a mouth is, and at edges. Pure functions."""

from typing import Any

import jax
import jax.numpy as jnp

MOUTH = 0.45  # face units: how far around its middle a mouth counts more
SCALES = 3  # at which differences between pixels are compared, each half the one before


def mouth_weights(mouth: jax.Array, height: int, width: int, weight: jax.Array) -> jax.Array:
    """1 far from the mouth, 1 + weight in its middle: [B, F, Y, X, 1].

    Args:
        mouth: [B, F, 3]: column and row of the mouth's middle, and a face unit, in pixels.
        weight: of each frame, [B, F].
    """
    across = jnp.arange(width) + 0.5 - mouth[..., None, None, 0]
    down = jnp.arange(height)[:, None] + 0.5 - mouth[..., None, None, 1]
    distance = (jnp.square(across) + jnp.square(down)) / jnp.square(MOUTH * mouth[..., None, None, 2])
    return (1.0 + weight[..., None, None] * jnp.exp(-0.5 * distance))[..., None]


def edge_error(error: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean absolute differences between neighbouring pixels' errors, over scales.

    Args:
        error: [B, F, Y, X, C].
        weights: [B, F or 1, Y, X, 1].
    """
    total: Any = 0.0
    for _ in range(SCALES):
        for axis in (2, 3):
            cut = jax.lax.slice_in_dim(weights, 1, None, axis=axis)
            total += jnp.mean(cut * jnp.abs(jnp.diff(error, axis=axis))) / (2 * SCALES)
        error, weights = (_halved(x) for x in (error, weights))
    return total


def _halved(x: jax.Array) -> jax.Array:
    b, f, y, x_, c = x.shape
    return jnp.mean(x.reshape(b, f, y // 2, 2, x_ // 2, 2, c), (3, 5))
