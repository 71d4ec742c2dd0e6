"""From noise to latents: the student's few renoising steps and the teacher's flow integration. Serving and training share these.

The velocity is v = ε − x0, so x0 = x − σ·v. The clean motion latents are written over the first latent frames before the first
step and after every step.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from livetalk_jax.diffusion.schedule import NUM_TIMESTEPS


class Motion(NamedTuple):
    """Clean latents carried over from the chunk before, of a fixed shape for every chunk.

    Attributes:
        latents: [B, M, H, W, C].
        known: int32 scalar, or [B] where training mixes both: how many of the M frames hold (1 in the first chunk, where only the
            portrait is known).
    """

    latents: jax.Array
    known: jax.Array


def with_motion(x: jax.Array, motion: Motion) -> jax.Array:
    """x [B, T, H, W, C] with its first `known` frames replaced."""
    slots = motion.latents.shape[1]
    valid = (jnp.arange(slots) < motion.known[..., None])[..., None, None, None]
    return x.at[:, :slots].set(jnp.where(valid, motion.latents.astype(x.dtype), x[:, :slots]))


def add_noise(x0: jax.Array, noise: jax.Array, sigma: jax.Array) -> jax.Array:
    """x_t of clean latents."""
    return (1.0 - sigma) * x0 + sigma * noise


def predict_x0(x: jax.Array, velocity: jax.Array, sigma: jax.Array) -> jax.Array:
    return x - sigma * velocity


def renoise_step(x: jax.Array, velocity: jax.Array, sigma: jax.Array, next_sigma: jax.Array, noise: jax.Array) -> jax.Array:
    """The student's step: predict x0, then add fresh noise for the next σ."""
    return add_noise(predict_x0(x, velocity, sigma), noise, next_sigma)


def euler_step(x: jax.Array, velocity: jax.Array, sigma: jax.Array, next_sigma: jax.Array) -> jax.Array:
    """The teacher's step along the flow."""
    return x - (sigma - next_sigma) * velocity


def noise_draws(method: Literal["renoise", "euler"], steps: int) -> int:
    """How many noise arrays one chunk takes."""
    return steps if method == "renoise" else 1


def sample(
    velocity: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]],
    noise: jax.Array,
    motion: Motion,
    timesteps: np.ndarray | jax.Array,
    method: Literal["renoise", "euler"],
    carry: Any = (),
    *,
    taken: jax.Array | int | None = None,
) -> jax.Array:
    """Latents of one chunk.

    Args:
        velocity: (x [B, T, H, W, C], timestep scalar, carry) -> (velocity like x, carry); `carry` holds what guidance remembers.
        noise: [noise_draws, B, T, H, W, C], float32; the first starts the chunk, the i-th is added after step i.
        motion: what is known of the first frames.
        timesteps: `schedule.timesteps`, [steps + 1].
        method: "renoise" or "euler".
        taken: how many of the steps are taken, all by default; the result is then x as the next step would find it. Without it
            the loop can be differentiated.

    Raises:
        ValueError: the number of noise arrays is not what the method takes.
    """
    steps = len(timesteps) - 1
    if noise.shape[0] != noise_draws(method, steps):
        raise ValueError(f"{steps} {method} steps take {noise_draws(method, steps)} noise arrays, not {noise.shape[0]}")
    # The last step goes to σ = 0, where fresh noise has no part.
    fresh = jnp.concatenate([noise[1:], jnp.zeros_like(noise[:1])]) if method == "renoise" else noise
    times = jnp.asarray(timesteps, jnp.float32)

    def step(i, state):
        x, carry = state
        time, next_time = times[i], times[i + 1]
        v, carry = velocity(x, time, carry)
        sigma, next_sigma = time / NUM_TIMESTEPS, next_time / NUM_TIMESTEPS
        x = renoise_step(x, v, sigma, next_sigma, fresh[i]) if method == "renoise" else euler_step(x, v, sigma, next_sigma)
        return with_motion(x, motion), carry

    x, _ = jax.lax.fori_loop(0, steps if taken is None else taken, step, (with_motion(noise[0], motion), carry))
    return x
