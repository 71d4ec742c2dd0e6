"""Stage 2's samples: chunk after chunk on the student's own motion frames, by the functions that streaming uses.

`latents` and `next_motion` are one streamed chunk; `enter` and `leave` are the last chunk of a rollout, cut at the step whose
gradient is kept. Nothing here is a second sampler: steps are `diffusion.sampler.sample`'s, the decode and re-encode
`stream.chunk.hand_over`'s. Which chunk and which step is drawn on the host from (seed, step, update), so it is the same in every
process.

Sources: Self-Forcing (2506.08009) `pipeline/self_forcing_training.py` for the drawn exit; SoulX-FlashTalk (2512.23379) and
SoulX-FlashHead (2602.07449, lines 312-321) for k ≤ K chunks on predicted motion frames and the one retained step of chunk k.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from livetalk_jax.config import SamplerConfig, StreamConfig
from livetalk_jax.diffusion.sampler import Motion, predict_x0, sample
from livetalk_jax.diffusion.schedule import NUM_TIMESTEPS, timesteps
from livetalk_jax.models.dit import DiT, token_grid
from livetalk_jax.models.vae import VAE
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.nn.stack import LOOP, Execution, gather_around
from livetalk_jax.parallel.layout import ROWS, WHOLE
from livetalk_jax.parallel.placement import parts
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel
from livetalk_jax.stream.chunk import generate_chunk, guided_velocity, hand_over, to_uint8
from livetalk_jax.stream.color import LabStatistics
from livetalk_jax.stream.conditioning import Conditions, mark_reference
from livetalk_jax.training.config import DistributionMatchingConfig
from livetalk_jax.training.state import Placement, Template, Weights


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


class Given(NamedTuple):
    """What predictions for one chunk of a batch are conditioned on, before any network has seen it.

    Attributes:
        reference_latents, clip, color: of the batch.
        text, negative_text: [B, L, text_dim], and of the negative prompt [L, text_dim] where guidance needs it.
        windows: [B, P, F, window, layers, C], of the chunk.
    """

    reference_latents: jax.Array
    clip: jax.Array
    color: LabStatistics
    text: jax.Array
    negative_text: jax.Array | None
    windows: jax.Array


def conditions_of(dit: DiT, given: Given, parallel: Parallel = ONE_DEVICE) -> Conditions:
    """A session's conditions, of the rows and columns that `parallel` holds here."""
    negative = given.negative_text
    if negative is not None:
        negative = jnp.broadcast_to(negative, (given.text.shape[0], *negative.shape))
    grid = token_grid(given.reference_latents)
    cos, sin = (parallel.take_spatial(jnp.asarray(table).reshape(*grid, -1), 1) for table in rotary_3d(grid, dit.config.head_dim))
    return Conditions(
        reference=parallel.take_spatial(mark_reference(given.reference_latents), 2).astype(dit.dtype),
        context=dit.context(given.text, given.clip),
        negative=None if negative is None else dit.context(negative, given.clip),
        color=given.color,
        rope=(cos, sin),
        masks=None,
    )


def motion_here(motion: Motion, parallel: Parallel) -> Motion:
    """The rows and columns of it that `parallel` holds here."""
    return Motion(parallel.take_spatial(motion.latents, 2), motion.known)


def whole_pictures(video: jax.Array, parallel: Parallel) -> jax.Array:
    """[B, F, rows, columns, C] held here -> the whole pictures, on every device of the video."""
    pictures = parallel.gather_spatial(video.reshape(-1, *video.shape[2:]))
    return pictures.reshape(*video.shape[:2], *pictures.shape[1:])


# How arguments lie on the devices: pictures come whole to all devices of a video, each takes its part.
GIVEN = Given(ROWS, ROWS, ROWS, ROWS, WHOLE, ROWS)  # type: ignore[arg-type]
NOISE = PartitionSpec(None, *ROWS)
MOTION = Motion(ROWS, ROWS)  # type: ignore[arg-type]
SESSION = Motion(ROWS, WHOLE)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Runner:
    """The student's sampler and networks on all devices of a placement, each with its rows and its part of the picture.

    What comes and goes are global arrays, pictures whole, and weights as `Placement.weights` has them. Gradients are taken of
    these functions as they are, from outside: their transposes do the sums over devices.

    Attributes:
        heads: of the transformer.
        dit, vae: without their weights.
        attend: attention of one device.
    """

    sampler: SamplerConfig
    heads: int
    dit: Template
    vae: Template
    placement: Placement
    attend: Callable[..., jax.Array]
    execution: Execution = LOOP

    @property
    def times(self) -> np.ndarray:
        return timesteps(self.sampler.steps, self.sampler.shift)

    def guided(self, text_guidance: float, audio_guidance: float) -> "Runner":
        """The same with other guidance."""
        sampler = dataclasses.replace(self.sampler, text_guidance=text_guidance, audio_guidance=audio_guidance, apg=False)
        return dataclasses.replace(self, sampler=sampler)

    def spread(
        self,
        fn: Callable[..., Any],
        networks: Sequence[tuple[Template, Weights]],
        latents: jax.Array,
        in_specs: Sequence[Any],
        out_specs: Any = ROWS,
    ) -> Callable[..., Any]:
        """args -> fn(parallel, *networks, *args) on every device, for pictures of the size of `latents` [B, T, H, W, C]."""
        _, h, w = token_grid(latents)
        layout = self.placement.layout(self.heads, (h, w))
        parallel = layout.parallel(self.attend)
        weights = [held for _, held in networks]
        specs = layout.weight_specs(weights)

        def on_each(weights, *args):
            # Cast here and not before: what leaves as a gradient is then float32, and so are the sums over devices.
            built = (
                template.build(template.cast(held)) for (template, _), held in zip(networks, parts(weights, specs), strict=True)
            )
            return fn(parallel, *map(gather_around, built), *args)

        spread = layout.spread(on_each, (specs, *in_specs), out_specs)
        return lambda *args: spread(weights, *args)

    def _velocity(self, parallel: Parallel, dit: DiT, given: Given) -> Callable:
        return guided_velocity(
            dit, conditions_of(dit, given, parallel), given.windows, sampler=self.sampler, parallel=parallel,
            execution=self.execution,
        )  # fmt: skip

    def velocity(self, dit: Weights, given: Given) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """(x [B, T, H, W, C], timestep [B]) -> velocity like x."""

        def predict(parallel, dit, given, x, timestep):
            velocity, _ = self._velocity(parallel, dit, given)(parallel.take_spatial(x, 2), timestep, ())
            return whole_pictures(velocity, parallel)

        spread = self.spread(predict, [(self.dit, dit)], given.reference_latents, (GIVEN, ROWS, ROWS))
        return lambda x, timestep: spread(given, x, timestep)

    def _sample(
        self, dit: Weights, given: Given, noise: jax.Array, motion: Motion, times: jax.Array, taken: jax.Array
    ) -> jax.Array:
        def run(parallel, dit, given, noise, motion, times, taken):
            x = sample(
                self._velocity(parallel, dit, given), parallel.take_spatial(noise, 3), motion_here(motion, parallel), times,
                self.sampler.method, taken=taken,
            )  # fmt: skip
            return whole_pictures(x, parallel)

        in_specs = (GIVEN, NOISE, MOTION, WHOLE, WHOLE)
        return self.spread(run, [(self.dit, dit)], given.reference_latents, in_specs)(given, noise, motion, times, taken)

    def enter(self, dit: Weights, given: Given, noise: jax.Array, motion: Motion, exit_step: jax.Array) -> jax.Array:
        """x as step `exit_step` finds it, motion latents clean."""
        return self._sample(dit, given, noise, motion, jnp.asarray(self.times, jnp.float32), exit_step)

    def leave(self, dit: Weights, given: Given, x: jax.Array, exit_step: jax.Array) -> jax.Array:
        """x0 as step `exit_step` predicts it, motion latents and all."""
        time = jnp.asarray(self.times, jnp.float32)[exit_step]
        velocity = self.velocity(dit, given)(x, jnp.broadcast_to(time, (x.shape[0],)))
        return predict_x0(x, velocity, time / NUM_TIMESTEPS)

    def latents(self, dit: Weights, given: Given, noise: jax.Array, motion: Motion, exit_step: jax.Array) -> jax.Array:
        """Clean latents of a chunk that goes from step `exit_step` straight to t = 0; at the last step, the whole sampler's."""
        times = jnp.asarray(self.times, jnp.float32)
        times = jnp.where(jnp.arange(len(times)) > exit_step, 0.0, times)
        return self._sample(dit, given, noise, motion, times, exit_step + 1)

    def frames(self, vae: Weights, latents: jax.Array) -> jax.Array:
        """Decoded video [B, F, Y, X, 3] of latents [B, T, H, W, C], as it is, in the networks' dtype."""

        def decode(parallel: Parallel, vae: VAE, latents):
            return whole_pictures(vae.decode(parallel.take_spatial(latents, 2), parallel=parallel), parallel)

        return self.spread(decode, [(self.vae, vae)], latents, (ROWS,))(latents)

    def next_motion(
        self, vae: Weights, latents: jax.Array, color: LabStatistics, motion: Motion, *, motion_frames: int, color_strength: float
    ) -> Motion:
        """What the next chunk goes on from; `known` keeps its shape, so a second chunk compiles nothing."""

        def carry_on(parallel: Parallel, vae: VAE, latents, color, motion):
            _, carried = hand_over(
                vae, parallel.take_spatial(latents, 2), color, motion_here(motion, parallel),
                motion_frames=motion_frames, color_strength=color_strength, parallel=parallel,
            )  # fmt: skip
            return Motion(whole_pictures(carried.latents, parallel), jnp.broadcast_to(carried.known, motion.known.shape))

        spread = self.spread(carry_on, [(self.vae, vae)], latents, (ROWS, ROWS, MOTION), MOTION)
        return spread(latents, color, motion)

    def chunk(
        self, dit: Weights, vae: Weights, given: Given, noise: jax.Array, motion: Motion, stream: StreamConfig
    ) -> tuple[jax.Array, Motion]:
        """One chunk of video as it will be streamed: uint8 [B, F', Y, X, 3], and the motion of the next."""

        def make(parallel, dit, vae, given, noise, motion):
            frames, motion = generate_chunk(
                dit, vae, conditions_of(dit, given, parallel), given.windows, parallel.take_spatial(noise, 3),
                motion_here(motion, parallel), sampler=self.sampler, motion_frames=stream.motion_frames,
                color_strength=stream.color_strength, parallel=parallel,
            )  # fmt: skip
            motion = Motion(whole_pictures(motion.latents, parallel), motion.known)
            return whole_pictures(to_uint8(frames), parallel), motion

        networks = [(self.dit, dit), (self.vae, vae)]
        spread = self.spread(make, networks, given.reference_latents, (GIVEN, NOISE, SESSION), (ROWS, SESSION))
        return spread(given, noise, motion)
