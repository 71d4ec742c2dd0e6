"""Stage 2's samples: chunk after chunk on the student's own motion frames, by the functions that streaming uses.

`latents` and `next_motion` are one streamed chunk; `enter` and `leave` are the last chunk of a rollout, cut at the step whose
gradient is kept. Nothing here is a second sampler: steps are `diffusion.sampler.sample`'s, the decode and re-encode
`stream.chunk.hand_over`'s. Which chunk and which step is drawn on the host from (seed, step, update), so it is the same in every
process.

Sources: Self-Forcing (2506.08009) `pipeline/self_forcing_training.py` for the drawn exit; SoulX-FlashTalk (2512.23379) and
SoulX-FlashHead (2602.07449, lines 312-321) for k ≤ K chunks on predicted motion frames and the one retained step of chunk k.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from livetalk_jax.config import DistributionMatchingConfig, SamplerConfig
from livetalk_jax.diffusion.sampler import Motion, predict_x0, sample
from livetalk_jax.diffusion.schedule import NUM_TIMESTEPS, timesteps
from livetalk_jax.models.dit import DiT
from livetalk_jax.models.vae import VAE
from livetalk_jax.nn.stack import LOOP, Execution
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel
from livetalk_jax.stream.chunk import guided_velocity, hand_over
from livetalk_jax.stream.color import LabStatistics
from livetalk_jax.stream.conditioning import Conditions


class Draw(NamedTuple):
    """A rollout of `chunks` chunks, whose last leaves at step `exit`."""

    chunks: int
    exit: int


def draw(config: DistributionMatchingConfig, longest: int, steps: int, seed: tuple[int, ...]) -> Draw:
    """k and the retained step, both uniform; the same seed gives the same draw everywhere."""
    rng = np.random.default_rng(seed)
    chunks, exit_step = int(rng.integers(1, longest + 1)), int(rng.integers(steps))
    return Draw(chunks if config.rollout == "random" else longest, exit_step)


def chunk_exits(config: DistributionMatchingConfig, drawn: Draw, steps: int) -> list[int]:
    """The last step of each chunk before the last: the sampler's own, or the drawn one in every chunk."""
    return [steps - 1 if config.early_exit == "last_chunk" else drawn.exit] * (drawn.chunks - 1)


@dataclasses.dataclass(frozen=True)
class Runner:
    """How networks are run: the student's sampler, and where and how the blocks are computed."""

    sampler: SamplerConfig
    parallel: Parallel = ONE_DEVICE
    execution: Execution = LOOP

    @property
    def times(self) -> np.ndarray:
        return timesteps(self.sampler.steps, self.sampler.shift)

    def guided(self, text_guidance: float, audio_guidance: float) -> "Runner":
        """The same with other guidance."""
        sampler = dataclasses.replace(self.sampler, text_guidance=text_guidance, audio_guidance=audio_guidance, apg=False)
        return dataclasses.replace(self, sampler=sampler)

    def velocity(self, dit: DiT, conditions: Conditions, windows: jax.Array):
        """(x, timestep, ()) -> (velocity, ())."""
        return guided_velocity(
            dit, conditions, windows, sampler=self.sampler, parallel=self.parallel, execution=self.execution
        )  # fmt: skip

    def enter(
        self, dit: DiT, conditions: Conditions, windows: jax.Array, noise: jax.Array, motion: Motion, exit_step: jax.Array
    ) -> jax.Array:
        """x as step `exit_step` finds it, motion latents clean."""
        velocity = self.velocity(dit, conditions, windows)
        return sample(velocity, noise, motion, self.times, self.sampler.method, taken=exit_step)

    def leave(self, dit: DiT, conditions: Conditions, windows: jax.Array, x: jax.Array, exit_step: jax.Array) -> jax.Array:
        """x0 as step `exit_step` predicts it, motion latents and all."""
        time = jnp.asarray(self.times, jnp.float32)[exit_step]
        velocity, _ = self.velocity(dit, conditions, windows)(x, time, ())
        return predict_x0(x, velocity, time / NUM_TIMESTEPS)

    def latents(
        self, dit: DiT, conditions: Conditions, windows: jax.Array, noise: jax.Array, motion: Motion, exit_step: jax.Array
    ) -> jax.Array:
        """Clean latents of a chunk that goes from step `exit_step` straight to t = 0; at the last step, the whole sampler's."""
        times = jnp.asarray(self.times, jnp.float32)
        times = jnp.where(jnp.arange(len(times)) > exit_step, 0.0, times)
        velocity = self.velocity(dit, conditions, windows)
        return sample(velocity, noise, motion, times, self.sampler.method, taken=exit_step + 1)


def next_motion(
    vae: VAE, latents: jax.Array, color: LabStatistics, motion: Motion, *, motion_frames: int, color_strength: float
) -> Motion:
    """What the next chunk goes on from; `known` keeps its shape, so a second chunk compiles nothing."""
    _, carried = hand_over(vae, latents, color, motion, motion_frames=motion_frames, color_strength=color_strength)
    return Motion(carried.latents, jnp.broadcast_to(carried.known, motion.known.shape))
