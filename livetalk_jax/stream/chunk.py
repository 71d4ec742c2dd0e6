"""One chunk of video, from noise to frames and the motion latents of the next.

`generate_chunk` is all of it. Streaming compiles the same in two programs, so that the first frames are there before the others are
decoded: `denoise` with `first_frames`, then `other_frames`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from livetalk_jax.config import SamplerConfig
from livetalk_jax.diffusion import guidance
from livetalk_jax.diffusion.sampler import Motion, sample
from livetalk_jax.diffusion.schedule import timesteps
from livetalk_jax.models.dit import DiT
from livetalk_jax.models.vae import VAE, Cache
from livetalk_jax.nn.stack import LOOP, Execution
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel
from livetalk_jax.stream.color import LabStatistics, match_colors
from livetalk_jax.stream.conditioning import Conditions


def guided_velocity(
    dit: DiT,
    conditions: Conditions,
    windows: jax.Array,
    *,
    sampler: SamplerConfig,
    parallel: Parallel = ONE_DEVICE,
    execution: Execution = LOOP,
) -> Callable:
    """(x, timestep, momentum) -> (velocity, momentum), as the sampler's configuration guides it; timestep is a scalar or [B]."""
    audio = dit.audio(windows)

    def predict(x, time, context, audio, masks):
        times = jnp.broadcast_to(time, (x.shape[0],))
        return dit(
            x, conditions.reference, times, rope=conditions.rope, context=context, audio=audio, masks=masks, parallel=parallel,
            execution=execution,
        )  # fmt: skip

    def conditional(x, time, context):
        return predict(x, time, context, audio, conditions.masks)

    if sampler.text_guidance == 1.0 and sampler.audio_guidance == 1.0:
        return lambda x, time, momentum: (conditional(x, time, conditions.context), momentum)

    # Silence is one person's whether one or two speak, as published.
    silence = dit.audio(jnp.zeros_like(windows[:, :1]))
    text_scale, audio_scale = sampler.text_guidance, sampler.audio_guidance

    def velocity(x, time, momentum):
        cond = conditional(x, time, conditions.context)
        if text_scale == 1.0:
            drop_audio = predict(x, time, conditions.context, silence, None)
            if not sampler.apg:
                return guidance.guide_audio(cond, drop_audio, audio_scale), momentum
            differences = guidance.Momentum(jnp.zeros_like(x), cond - drop_audio)
        else:
            uncond = predict(x, time, conditions.negative, silence, None)
            if text_scale == audio_scale and not sampler.apg:  # what lies between the two cancels out
                return guidance.guide_audio(cond, uncond, text_scale), momentum
            drop_text = conditional(x, time, conditions.negative)
            if not sampler.apg:
                return guidance.guide(cond, drop_text, uncond, text_scale, audio_scale), momentum
            differences = guidance.Momentum(cond - drop_text, drop_text - uncond)
        momentum = jax.tree.map(lambda new, old: new + sampler.apg_momentum * old, differences, momentum)
        text, audio_part = (guidance.project(d, cond, sampler.apg_norm_threshold) for d in momentum)
        return cond + (text_scale - 1.0) * text + (audio_scale - 1.0) * audio_part, momentum

    return velocity


def denoise(
    dit: DiT,
    conditions: Conditions,
    windows: jax.Array,
    noise: jax.Array,
    motion: Motion,
    *,
    sampler: SamplerConfig,
    parallel: Parallel = ONE_DEVICE,
) -> jax.Array:
    """Clean latents of one chunk, float32 [B, T, H, W, 16]; arguments as in `generate_chunk`."""
    velocity = guided_velocity(dit, conditions, windows, sampler=sampler, parallel=parallel)
    zeros = jnp.zeros(noise.shape[1:], jnp.float32)
    momentum = guidance.Momentum(zeros, zeros) if sampler.apg else ()
    return sample(velocity, noise, motion, timesteps(sampler.steps, sampler.shift), sampler.method, momentum)


class Rest(NamedTuple):
    """What is left of a chunk when its first frames are there.

    Attributes:
        latents: not decoded yet, [B, T', H, W, 16].
        cache: the decoder's.
        last: as many frames as motion has, the last that were decoded, [B, F', Y, X, 3].
    """

    latents: jax.Array
    cache: Cache
    last: jax.Array


def _as_shown(video: jax.Array, color: LabStatistics, color_strength: float, parallel: Parallel) -> jax.Array:
    video = jnp.clip(video, -1.0, 1.0)
    return match_colors(video, color, color_strength, parallel) if color_strength > 0.0 else video


def first_frames(
    vae: VAE,
    latents: jax.Array,
    color: LabStatistics,
    count: int,
    *,
    motion_frames: int,
    color_strength: float,
    parallel: Parallel = ONE_DEVICE,
) -> tuple[jax.Array, Rest]:
    """Frames [B, F, Y, X, 3] of a chunk's first `count` latent frames, and what is left; arguments as in `hand_over`.

    count: of at least as many frames as motion has.
    """
    video, cache = vae.decode_first(latents[:, :count], parallel=parallel)
    video = _as_shown(video, color, color_strength, parallel)
    return video, Rest(latents[:, count:], cache, video[:, -motion_frames:])


def other_frames(
    vae: VAE,
    rest: Rest,
    color: LabStatistics,
    *,
    color_strength: float,
    parallel: Parallel = ONE_DEVICE,
) -> tuple[jax.Array, Motion]:
    """The frames that were left of a chunk, [B, F, Y, X, 3], perhaps none, and the motion of the next; arguments as in `hand_over`."""
    video = rest.last[:, :0]
    if rest.latents.shape[1]:
        video, _ = vae.decode_next(rest.latents, rest.cache, parallel=parallel)
        video = _as_shown(video, color, color_strength, parallel)
    motion_frames = rest.last.shape[1]
    carried = vae.encode(jnp.concatenate([rest.last, video], axis=1)[:, -motion_frames:], parallel=parallel)
    return video, Motion(carried, jnp.int32(carried.shape[1]))


def hand_over(
    vae: VAE,
    latents: jax.Array,
    color: LabStatistics,
    motion: Motion,
    *,
    motion_frames: int,
    color_strength: float,
    parallel: Parallel = ONE_DEVICE,
) -> tuple[jax.Array, Motion]:
    """Frames of a chunk's latents, and the motion of the next chunk: its last frames, matched to the portrait and encoded again.

    Args:
        latents: [B, T, H, W, 16], in the dtype to decode in.
        color: of the portrait.
        motion: of this chunk; the next one's has its dtype.

    Returns:
        All frames [B, F, Y, X, 3] in [−1, 1], and the motion.
    """
    video, rest = first_frames(
        vae, latents, color, latents.shape[1], motion_frames=motion_frames, color_strength=color_strength, parallel=parallel
    )
    _, following = other_frames(vae, rest, color, color_strength=color_strength, parallel=parallel)
    return video, following._replace(latents=following.latents.astype(motion.latents.dtype))


def generate_chunk(
    dit: DiT,
    vae: VAE,
    conditions: Conditions,
    windows: jax.Array,
    noise: jax.Array,
    motion: Motion,
    *,
    sampler: SamplerConfig,
    motion_frames: int,
    color_strength: float,
    parallel: Parallel = ONE_DEVICE,
) -> tuple[jax.Array, Motion]:
    """The next frames of a stream.

    Args:
        conditions: of the session.
        windows: wav2vec2 windows [B, P, F, 5, layers, C] of this chunk.
        noise: float32 [noise_draws, B, T, H, W, C].
        motion: from the chunk before, or `conditioning.first_motion`.

    Returns:
        The new frames [B, F − motion_frames, Y, X, 3] in [−1, 1], and the motion of the next chunk.
    """
    latents = denoise(dit, conditions, windows, noise, motion, sampler=sampler, parallel=parallel)
    latents = latents.astype(conditions.reference.dtype)
    video, motion = hand_over(
        vae, latents, conditions.color, motion, motion_frames=motion_frames, color_strength=color_strength, parallel=parallel
    )
    return video[:, motion_frames:], motion


def to_uint8(video: jax.Array) -> jax.Array:
    """[−1, 1] -> 0 … 255, rounded."""
    return jnp.round(jnp.clip(video.astype(jnp.float32) * 0.5 + 0.5, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def draw_noise(key: jax.Array, chunk: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
    """Noise of chunk number `chunk`; the same key and number give the same bits."""
    return jax.random.normal(jax.random.fold_in(key, chunk), shape, jnp.float32)
