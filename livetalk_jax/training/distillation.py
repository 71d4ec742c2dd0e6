"""Stage 2, self-correcting bidirectional distillation: distribution matching on the student's own rollouts. Pure functions.

Sources: DMD2 (2405.14867) and Self-Forcing (2506.08009), `model/dmd.py`, for the gradient, its normaliser, the timesteps and the
fake score's loss; SoulX-FlashTalk (2512.23379), table 3, for motion latents in the scores. What is open is in
`config.DistributionMatchingConfig`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from livetalk_jax.diffusion.sampler import Motion, add_noise, predict_x0, with_motion
from livetalk_jax.diffusion.schedule import NUM_TIMESTEPS, shift_timesteps
from livetalk_jax.training.config import DistributionMatchingConfig
from livetalk_jax.training.flow_matching import clip_motion, masked_mean, new_frames, per_row

Velocity = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t [B, T, H, W, C], timestep [B]) -> velocity like x_t."""


def updates(step: int, config: DistributionMatchingConfig) -> list[str]:
    """Whose turn it is in an iteration, in order; see `DistributionMatchingConfig.schedule`."""
    if config.schedule == "lightx2v":
        return ["student"] + ["fake_score"] * config.fake_updates
    return ["student"] * (step % config.fake_updates == 0) + ["fake_score"]


def first_motion(
    key: jax.Array, latents: jax.Array, portrait_latent: jax.Array, motion_latents: int, config: DistributionMatchingConfig
) -> Motion:
    """What a rollout begins with: the clip's own motion latents, or with probability `cold_start` the portrait's latent alone.

    latents: [B, T, H, W, 16] of the clip's first chunk.
    """
    cold = jax.random.bernoulli(key, config.cold_start, (latents.shape[0],))
    return clip_motion(latents, portrait_latent, cold, motion_latents, "portrait")


def score_timesteps(key: jax.Array, rows: int, config: DistributionMatchingConfig) -> jax.Array:
    """Timesteps at which scores are compared: uniform, shifted, kept within bounds; [rows], one for all frames of a row."""
    u = jax.random.randint(key, (rows,), 0, NUM_TIMESTEPS).astype(jnp.float32)
    return jnp.clip(shift_timesteps(u, config.score_shift), config.timestep_min, config.timestep_max)


def noised_for_scores(
    x: jax.Array, motion: Motion, noise: jax.Array, timestep: jax.Array, config: DistributionMatchingConfig
) -> jax.Array:
    """x_t for the score networks, with the motion latents of `motion`, noised as the configuration says."""
    sigma = per_row(timestep) / NUM_TIMESTEPS
    x_t = add_noise(x, noise, sigma)
    if config.motion_noise == "same_t":
        seen = add_noise(motion.latents, noise[:, : motion.latents.shape[1]], sigma)
    elif config.motion_noise == "small_sigma":
        seen = add_noise(motion.latents, noise[:, : motion.latents.shape[1]], jnp.float32(config.small_sigma))
    else:
        seen = motion.latents
    return with_motion(x_t, Motion(seen, motion.known))


def distribution_matching_gradient(x: jax.Array, x0_real: jax.Array, x0_fake: jax.Array, mask: jax.Array) -> jax.Array:
    """(x0_fake − x0_real) / mean|x − x0_real|, the mean taken over each row's elements within the mask; 0 where that is no number.

    The scores' difference s_real − s_fake is (1 − σ)/σ²·(x0_real − x0_fake); the normaliser takes up the factor.
    """
    normaliser = masked_mean(jnp.abs(x - x0_real), mask, tuple(range(1, x.ndim)))
    return jnp.nan_to_num((x0_fake - x0_real) / normaliser, nan=0.0, posinf=0.0, neginf=0.0)


def distribution_matching_loss(x: jax.Array, gradient: jax.Array, mask: jax.Array) -> jax.Array:
    """½·mean((x − sg(x − g))²) over the mask: its derivative by x is g·mask / number of elements within the mask."""
    target = jax.lax.stop_gradient(x - gradient)
    return 0.5 * masked_mean(jnp.square(x - target), mask)


def scored_part(x0: jax.Array, motion: Motion, config: DistributionMatchingConfig) -> tuple[jax.Array, jax.Array]:
    """The student's sample, and the mask of what the losses compare: its motion latents are those given to it, and masked; where
    `motion_in_loss`, they are what it predicted and compared like the rest."""
    if config.motion_in_loss:
        return x0, jnp.ones((1, x0.shape[1], 1, 1, 1))
    return with_motion(x0, motion), new_frames(motion, x0.shape[1])


def student_loss(
    x0: jax.Array, motion: Motion, true_motion: Motion, real: Velocity, fake: Velocity, key: jax.Array,
    config: DistributionMatchingConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:  # fmt: skip
    """The distribution matching loss of a sample; only x0 carries a gradient.

    Args:
        x0: the student's prediction at the retained step, [B, T, H, W, C].
        motion: what the student was given.
        true_motion: of the clip itself, for the real score where `motion_latents` is "ground_truth".
        real, fake: score networks as velocities, guidance included.

    Returns:
        The loss, and what is worth watching.
    """
    x, mask = scored_part(x0, motion, config)
    still = jax.lax.stop_gradient(x)
    key_time, key_noise = jax.random.split(key)
    timestep = score_timesteps(key_time, x.shape[0], config)
    noise = jax.random.normal(key_noise, x.shape, x.dtype)
    own = Motion(still[:, : motion.latents.shape[1]], motion.known)
    sigma = per_row(timestep) / NUM_TIMESTEPS

    def score(velocity: Velocity, seen: Motion) -> jax.Array:
        x_t = noised_for_scores(still, seen, noise, timestep, config)
        return jax.lax.stop_gradient(predict_x0(x_t, velocity(x_t, timestep), sigma))

    x0_fake = score(fake, own)
    x0_real = score(real, own if config.motion_latents == "predicted" else true_motion)
    gradient = distribution_matching_gradient(still, x0_real, x0_fake, mask)
    watch = {
        "dmd_gradient": jnp.sqrt(masked_mean(jnp.square(gradient), mask)),
        "score_gap": jnp.sqrt(masked_mean(jnp.square(x0_fake - x0_real), mask)),
        "score_timestep": jnp.mean(timestep),
    }
    return distribution_matching_loss(x, gradient, mask), watch


def fake_score_loss(x0: jax.Array, motion: Motion, fake: Velocity, key: jax.Array, config: DistributionMatchingConfig) -> jax.Array:
    """Flow matching of the fake score on a generated sample; timesteps, noise and mask as in `student_loss`."""
    x, mask = scored_part(jax.lax.stop_gradient(x0), motion, config)
    key_time, key_noise = jax.random.split(key)
    timestep = score_timesteps(key_time, x.shape[0], config)
    noise = jax.random.normal(key_noise, x.shape, x.dtype)
    own = Motion(x[:, : motion.latents.shape[1]], motion.known)
    velocity = fake(noised_for_scores(x, own, noise, timestep, config), timestep)
    return masked_mean(jnp.square(velocity - (noise - x)), mask)
