"""Guidance of the teacher by text and audio, plain and projected; pure functions of velocities."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def guide(cond: jax.Array, drop_text: jax.Array, uncond: jax.Array, text_scale: float, audio_scale: float) -> jax.Array:
    """Three-term guidance of InfiniteTalk: text and audio each have a scale.

    Args:
        cond: velocity with text and audio.
        drop_text: with the negative prompt.
        uncond: with the negative prompt and silent audio.
    """
    return uncond + text_scale * (cond - drop_text) + audio_scale * (drop_text - uncond)


def guide_audio(cond: jax.Array, drop_audio: jax.Array, audio_scale: float) -> jax.Array:
    """Two-term guidance, used when the text scale is 1; `drop_audio` has the prompt and silent audio."""
    return drop_audio + audio_scale * (cond - drop_audio)


class Momentum(NamedTuple):
    """Running differences of projected guidance, one array for each guided condition."""

    text: jax.Array
    audio: jax.Array


def project(difference: jax.Array, cond: jax.Array, norm_threshold: float) -> jax.Array:
    """Adaptive projected guidance (arXiv 2410.02416, section 4): the difference, its norm cut to the threshold (0: not cut), less
    its part along `cond`. Norms are taken over all axes but the batch."""
    axes = tuple(range(1, difference.ndim))
    if norm_threshold > 0:
        norm = jnp.sqrt(jnp.sum(jnp.square(difference), axes, keepdims=True))
        difference = difference * jnp.minimum(1.0, norm_threshold / jnp.maximum(norm, 1e-12))
    direction = cond / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(cond), axes, keepdims=True)), 1e-12)
    return difference - jnp.sum(difference * direction, axes, keepdims=True) * direction
