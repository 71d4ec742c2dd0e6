"""Stage 1, latency-aware spatiotemporal adaptation: flow matching of the frames behind clean motion latents. Pure functions.

Sources: the interpolation and the velocity are those of the published samplers (`diffusion.schedule`); the input is that of
SoulX-FlashTalk (2512.23379, "Latent Input Formulation"): E(motion) clean, target noised, reference beside it. What the paper leaves
open is in `config.FlowMatchingConfig`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from livetalk_jax.diffusion.sampler import Motion, add_noise, with_motion
from livetalk_jax.diffusion.schedule import NUM_TIMESTEPS, shift_timesteps, timesteps
from livetalk_jax.stream.conditioning import portrait_motion
from livetalk_jax.training.config import FlowMatchingConfig
from livetalk_jax.training.pictures import edge_error


def per_row(x: jax.Array) -> jax.Array:
    """[B] -> [B, 1, 1, 1, 1], to stand beside latents."""
    return x[:, None, None, None, None]


def new_frames(motion: Motion, frames: int) -> jax.Array:
    """1 on latent frames that are generated, 0 on those that `motion` gives: float32 [B or 1, T, 1, 1, 1]."""
    known = jnp.atleast_1d(motion.known)
    return (jnp.arange(frames) >= known[:, None]).astype(jnp.float32)[..., None, None, None]


def masked_mean(x: jax.Array, mask: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """Mean over the elements of x that `mask` (which broadcasts to x) lets in; over `axes` with those kept, or over all."""
    mask = jnp.broadcast_to(mask, x.shape)
    keep = axes is not None
    return jnp.sum(x * mask, axes, keepdims=keep) / jnp.sum(mask, axes, keepdims=keep)


def draw_timesteps(key: jax.Array, rows: int, shift: float, steps: int = 0) -> jax.Array:
    """t = 1000·shift(u), u uniform in (0, 1), or with `steps` one of the timesteps that so many steps sample at: float32 [rows]."""
    if steps:
        return jax.random.choice(key, jnp.asarray(timesteps(steps, shift)[:-1], jnp.float32), (rows,))
    return shift_timesteps(NUM_TIMESTEPS * jax.random.uniform(key, (rows,)), shift)


def bell_weight(timestep: jax.Array, shift: float) -> jax.Array:
    """Weight of a timestep by its distance from 500, with mean 1 over the shifted grid and 0 at its far end.

    Source: `set_timesteps` in Self-Forcing's utils/scheduler.py.
    """

    def bell(t):
        return jnp.exp(-2.0 * jnp.square((t - NUM_TIMESTEPS / 2) / NUM_TIMESTEPS))

    grid = bell(shift_timesteps(np.linspace(NUM_TIMESTEPS, 0, NUM_TIMESTEPS + 1)[:-1], shift))
    return (bell(timestep) - jnp.min(grid)) / jnp.mean(grid - jnp.min(grid))


class Dropped(NamedTuple):
    """Which rows are trained without a condition: bool [B] each."""

    text: jax.Array
    audio: jax.Array


def drop_conditions(text: jax.Array, negative_text: jax.Array, windows: jax.Array, dropped: Dropped) -> tuple[jax.Array, jax.Array]:
    """Text [B, L, C] becomes the negative prompt's [L, C], windows [B, P, F, window, layers, C] zeros, as guidance has them."""
    text = jnp.where(dropped.text[:, None, None], negative_text.astype(text.dtype), text)
    return text, jnp.where(dropped.audio.reshape(-1, *(1,) * (windows.ndim - 1)), jnp.zeros_like(windows), windows)


def clip_motion(latents: jax.Array, portrait_latent: jax.Array, cold: jax.Array, motion_latents: int, cold_latent: str) -> Motion:
    """What is known of a clip: its motion latents, or where `cold` ([B] bool) only one, as in a stream's first chunk.

    Args:
        latents: [B, T, H, W, 16] of the chunk.
        portrait_latent: [B, 1, H, W, 16].
        cold_latent: the one latent, "first_frame" of the clip or "portrait".
    """
    warm = latents[:, :motion_latents]
    start = warm if cold_latent == "first_frame" else portrait_motion(portrait_latent, motion_latents).latents
    return Motion(jnp.where(per_row(cold), start, warm), jnp.where(cold, jnp.int32(1), jnp.int32(motion_latents)))


def recycle(hit: jax.Array, motion: Motion, x0: jax.Array, latents: jax.Array) -> Motion:
    """Motion latents [B, M, H, W, C], with the error of a prediction x0 in the last M of the frames `latents` in rows `hit` ([B] bool).

    The clip moves little in a chunk, so an error at its end lies much where one at its beginning would. A row of which less than all
    M is known begins with a portrait, which stays as it is. Source: error recycling of Stable Video Infinity (2510.09212).
    """
    frames = motion.latents.shape[1]
    error = (x0 - latents)[:, -frames:].astype(motion.latents.dtype)
    return Motion(motion.latents + jnp.where(per_row(hit & (motion.known == frames)), error, 0.0), motion.known)


def disturb(key: jax.Array, motion: Motion, config: FlowMatchingConfig) -> Motion:
    """Motion latents [B, M, H, W, C] of some rows with patches that stay through all frames: what a stream may have caught.

    Patches are noise at full size, half, and so on down to two places across, all sizes alike; a row's deviation is drawn up to
    `config.disturbance`. A row of which less than all M is known begins with a portrait, which stays as it is.
    """
    rows, frames, height, width, channels = motion.latents.shape
    keys = jax.random.split(key, 3)
    size = config.disturbance * jax.random.uniform(keys[0], (rows,)) * jax.random.bernoulli(keys[1], config.disturbed, (rows,))
    sizes = [(max(height >> n, 2), max(width >> n, 2)) for n in range(max(height, width).bit_length() - 1)]
    patches = [
        jax.image.resize(jax.random.normal(k, (rows, 1, *few, channels)), (rows, 1, height, width, channels), "linear")
        for few, k in zip(sizes, jax.random.split(keys[2], len(sizes)), strict=True)
    ]
    patches = [patch / jnp.std(patch, axis=(2, 3, 4), keepdims=True) for patch in patches]
    seen = jnp.where(motion.known == frames, size, 0.0)
    return Motion(motion.latents + per_row(seen) * sum(patches) / np.sqrt(len(patches)), motion.known)


def movement_weights(latents: jax.Array, share: float) -> jax.Array:
    """How much each place of a clip [B, T, H, W, C] counts: mean 1, `share` of it by their deviation over time; [B, 1, H, W, 1]."""
    change = jnp.mean(jnp.std(latents, axis=1, keepdims=True), -1, keepdims=True)
    return 1.0 - share + share * change / (jnp.mean(change, (2, 3), keepdims=True) + 1e-6)


def speech_guidance(velocity: jax.Array, silent: jax.Array, scale: float, dropped: jax.Array) -> jax.Array:
    """What the target gains so that a network learns to be guided by speech: (scale − 1)·(v − v without speech), without gradient.

    The velocity that is asked for moves along with the network's own, so it ends where guidance by 1 / (2 − scale) of a network
    that was not trained so would: scale is below 2. Source: Model-guidance (2502.12154).

    Args:
        velocity, silent: [B, T, H, W, C], with the speech and with zeros in its place.
        dropped: [B] bool, rows trained without speech, which gain nothing.
    """
    return jax.lax.stop_gradient(jnp.where(per_row(dropped), 0.0, (scale - 1.0) * (velocity - silent)))


def flow_matching_loss(
    velocity: jax.Array, latents: jax.Array, noise: jax.Array, motion: Motion, weight: jax.Array, temporal_weight: float = 0.0,
    movement_weight: float = 0.0, lasting_weight: float = 0.0, guidance: jax.Array | float = 0.0,
) -> jax.Array:  # fmt: skip
    """Mean of weight·(v − (ε − x0 + guidance))² over the generated frames.

    Args:
        velocity, latents, noise: v, x0 and ε, [B, T, H, W, C].
        motion: its frames are not in the mean.
        weight: [B], of the timestep.
        temporal_weight: of the same error of v's differences between frames, both of which are generated.
        movement_weight: `share` of `movement_weights`.
        lasting_weight: of the same error's mean over a clip's generated frames.
        guidance: `speech_guidance`.
    """
    error = velocity - (noise - latents + guidance)
    mask, weights = new_frames(motion, latents.shape[1]), per_row(weight)
    if movement_weight:
        weights = weights * movement_weights(latents, movement_weight)
    loss = masked_mean(weights * jnp.square(error), mask)
    if temporal_weight:
        change = jnp.diff(error, axis=1)
        loss += temporal_weight * masked_mean(weights * jnp.square(change), mask[:, :-1])
    if lasting_weight:
        loss += lasting_weight * jnp.mean(weights * jnp.square(masked_mean(error, mask, (1,))))
    return loss


def picture_loss(seen: jax.Array, asked: jax.Array, share: float) -> jax.Array:
    """Mean absolute error of pixels and of edges: what an error of latents looks like, where v's square counts all latents alike.

    Args:
        seen: the decoded prediction, [B, F, Y, X, 3].
        asked: the decoded target, which has no gradient.
        share: of `movement_weights`, of what is asked.
    """
    asked = jax.lax.stop_gradient(asked)
    error, weights = seen - asked, movement_weights(asked, share)
    return jnp.mean(weights * jnp.abs(error)) + edge_error(error, weights)


class Example(NamedTuple):
    """One draw of everything that is random in stage 1.

    Attributes:
        noisy: x_t with clean motion latents, [B, T, H, W, C].
        noise: ε.
        timestep, weight: [B].
        motion: what is known.
        dropped: conditions left out.
    """

    noisy: jax.Array
    noise: jax.Array
    timestep: jax.Array
    weight: jax.Array
    motion: Motion
    dropped: Dropped


def draw_example(
    key: jax.Array, latents: jax.Array, portrait_latent: jax.Array, motion_latents: int, config: FlowMatchingConfig
) -> Example:
    """Noise, timesteps, motion and dropped conditions for clips [B, T, H, W, 16]."""
    rows = latents.shape[0]
    keys = jax.random.split(key, 5)
    timestep = draw_timesteps(keys[0], rows, config.timestep_shift, config.timestep_steps)
    noise = jax.random.normal(keys[1], latents.shape, latents.dtype)
    cold, text, audio = (
        jax.random.bernoulli(k, p, (rows,))
        for k, p in zip(keys[2:], (config.cold_start, config.drop_text, config.drop_audio), strict=True)
    )
    motion = clip_motion(latents, portrait_latent, cold, motion_latents, config.cold_start_latent)
    noisy = with_motion(add_noise(latents, noise, per_row(timestep) / NUM_TIMESTEPS), motion)
    weight = jnp.ones(rows) if config.weighting == "uniform" else bell_weight(timestep, config.timestep_shift)
    return Example(noisy, noise, timestep, weight, motion, Dropped(text, audio))
