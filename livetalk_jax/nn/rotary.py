"""Rotary position tables, and their use on interleaved pairs of channels."""

import jax
import jax.numpy as jnp
import numpy as np

THETA = 10_000.0


def _angles(positions: np.ndarray, dim: int) -> np.ndarray:
    """Positions × THETA^(−2i/dim), float64: [..., dim/2]."""
    return positions[..., None] * THETA ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def rotary_3d(grid: tuple[int, int, int], head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Tables for video tokens in (time, row, column) order, as Wan2.1 shares a head's width between the three axes.

    Args:
        grid: (T, h, w).
        head_dim: K, even.

    Returns:
        cos and sin, float32 [T·h·w, K/2]; computed in float64, since they are data and not part of the program.
    """
    spatial = 2 * (head_dim // 6)
    dims = (head_dim - 2 * spatial, spatial, spatial)
    axes = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in grid), indexing="ij")
    angles = np.concatenate([_angles(axis, dim) for axis, dim in zip(axes, dims, strict=True)], axis=-1)
    angles = angles.reshape(-1, head_dim // 2)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotary_1d(positions: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32 [..., K/2], for real-valued positions [...]."""
    frequencies = jnp.asarray(THETA ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim), jnp.float32)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turn channel pairs (2i, 2i+1) of x [..., N, A, K] by the tables [..., N, K/2]; float32 in between, x's dtype out."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
