"""One chunk: guidance against its combinations by hand, what is handed to the next chunk, and the published size in 16 bits."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from livetalk_jax.config import RunConfig
from livetalk_jax.configs import soulx_14b
from livetalk_jax.diffusion.sampler import Motion, noise_draws, with_motion
from livetalk_jax.diffusion.schedule import timesteps
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.chunk import denoise, draw_noise, first_frames, generate_chunk, other_frames, to_uint8
from livetalk_jax.stream.color import lab_statistics, match_colors
from livetalk_jax.stream.conditioning import Conditions, prepare
from livetalk_jax.stream.networks import random_network

GEOMETRY = Geometry(32, 48, 13, 5)
LATENTS = (1, *GEOMETRY.latent_grid, 16)


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def conditions(networks):
    config = networks.dit.config
    text = random(0, 2, 1, config.text_len, config.text_dim)
    image = random(1, 1, 257, config.clip_dim)
    context = jax.jit(lambda dit, text: dit.context(text, image))
    masks = np.zeros((3, *GEOMETRY.token_grid[1:]), np.float32)
    masks[0, :, 0], masks[1, :, 2], masks[2, :, 1] = 1, 1, 1
    return Conditions(
        reference=jnp.asarray(random(2, *LATENTS[:-1], 20)),
        context=context(networks.dit, text[0]),
        negative=context(networks.dit, text[1]),
        color=lab_statistics(jnp.tanh(random(3, 1, 1, 32, 48, 3))),
        rope=tuple(map(jnp.asarray, rotary_3d(GEOMETRY.token_grid, config.head_dim))),
        masks=jnp.asarray(masks.reshape(3, -1)),
    )


def windows(config, persons=2):
    return random(4, 1, persons, GEOMETRY.frames, 5, config.audio_blocks, config.audio_channels)


MOTION = Motion(jnp.asarray(random(5, 1, 2, *LATENTS[2:])), jnp.int32(2))


@nnx.jit
def predict(dit, x, time, reference, rope, context, audio, masks):
    return dit(x, reference, jnp.full((1,), time, jnp.float32), rope=rope, context=context, audio=audio, masks=masks)


hear = nnx.jit(lambda dit, windows: dit.audio(windows))


class ByHand:
    """The teacher's loop in NumPy and torch, as it is published, around single calls of the network."""

    def __init__(self, dit, conditions, windows, sampler):
        self.dit, self.conditions, self.sampler = dit, conditions, sampler
        self.sound, self.silence = hear(dit, windows), hear(dit, np.zeros_like(windows[:, -1:]))
        self.momentum = {}

    def velocity(self, x, time, *, negative=False, silent=False):
        known = self.conditions
        context = known.negative if negative else known.context
        audio, masks = (self.silence, None) if silent else (self.sound, known.masks)
        x = jnp.asarray(x, jnp.float32)
        return np.asarray(predict(self.dit, x, np.float32(time), known.reference, known.rope, context, audio, masks), np.float64)

    def projected(self, name, difference, cond):
        self.momentum[name] = difference + self.sampler.apg_momentum * self.momentum.get(name, 0.0)
        kept = torch.from_numpy(self.momentum[name])
        kept = kept * min(1.0, self.sampler.apg_norm_threshold / torch.linalg.vector_norm(kept))
        direction = torch.nn.functional.normalize(torch.from_numpy(cond).flatten(), dim=0).view_as(kept)
        return (kept - (kept * direction).sum() * direction).numpy()

    def guided(self, x, time):
        text, audio = self.sampler.text_guidance, self.sampler.audio_guidance
        cond = self.velocity(x, time)
        if text == 1:
            silent = self.velocity(x, time, silent=True)
            if self.sampler.apg:
                return cond + (audio - 1) * self.projected("audio", cond - silent, cond)
            return silent + audio * (cond - silent)
        wordless, nothing = self.velocity(x, time, negative=True), self.velocity(x, time, negative=True, silent=True)
        if self.sampler.apg:
            return (
                cond
                + (text - 1) * self.projected("text", cond - wordless, cond)
                + (audio - 1) * self.projected("audio", wordless - nothing, cond)
            )
        return nothing + text * (cond - wordless) + audio * (wordless - nothing)

    def run(self, noise):
        times = timesteps(self.sampler.steps, self.sampler.shift)
        x = np.asarray(with_motion(jnp.asarray(noise[0]), MOTION), np.float64)
        for time, following in itertools.pairwise(times):
            x = x - (time - following) / 1000 * self.guided(x, time)
            x[:, :2] = MOTION.latents
        return x


@pytest.mark.parametrize(("text", "audio", "apg"), [(1.0, 4.0, True), (3.0, 3.0, False), (5.0, 4.0, False), (5.0, 4.0, True)])
def test_the_teacher_against_the_loop_by_hand(small, networks, conditions, text, audio, apg):
    """Two Euler steps, so that projected guidance has a momentum; its threshold cuts."""
    sampler = dataclasses.replace(
        small.sampler, method="euler", steps=2, shift=7.0, text_guidance=text, audio_guidance=audio, apg=apg, apg_norm_threshold=8.0
    )
    noise, sound = random(6, 1, *LATENTS), windows(networks.dit.config)
    run = jax.jit(lambda dit, sound, noise: denoise(dit, conditions, sound, noise, MOTION, sampler=sampler))
    ours = np.asarray(run(networks.dit, sound, noise), np.float64)
    expected = ByHand(networks.dit, conditions, sound, sampler).run(noise)
    assert np.linalg.norm(ours - expected) < 1e-4 * np.linalg.norm(expected)
    np.testing.assert_array_equal(ours[:, :2], MOTION.latents)


def test_a_chunk_is_decoded_matched_and_handed_over(small, networks, conditions):
    """Frames and the next motion, made again from the latents by hand; and in pieces."""
    sampler, noise, sound = small.sampler, jnp.asarray(random(7, 2, *LATENTS)), windows(networks.dit.config)

    @jax.jit
    def chunk(dit, vae, sound, noise):
        return generate_chunk(
            dit, vae, conditions, sound, noise, MOTION, sampler=sampler, motion_frames=GEOMETRY.motion_frames, color_strength=0.5
        )

    frames, motion = chunk(networks.dit, networks.vae, sound, noise)
    assert frames.shape == (1, GEOMETRY.new_frames, 32, 48, 3)
    latents = jax.jit(lambda dit: denoise(dit, conditions, sound, noise, MOTION, sampler=sampler))(networks.dit)
    video = jax.jit(lambda vae, z: match_colors(jnp.clip(vae.decode(z), -1, 1), conditions.color, 0.5))(networks.vae, latents)
    assert video.shape[1] == GEOMETRY.frames
    np.testing.assert_allclose(frames, video[:, GEOMETRY.motion_frames :], atol=1e-4)
    carried = jax.jit(lambda vae, x: vae.encode(x))(networks.vae, video[:, -GEOMETRY.motion_frames :])
    np.testing.assert_allclose(motion.latents, carried, atol=1e-3)
    assert motion.known == GEOMETRY.motion_latents == 2

    count, motion_frames = GEOMETRY.first_latents, GEOMETRY.motion_frames
    first, rest = jax.jit(
        lambda vae, z: first_frames(vae, z, conditions.color, count, motion_frames=motion_frames, color_strength=0.5)
    )(networks.vae, latents)
    others, following = jax.jit(lambda vae, rest: other_frames(vae, rest, conditions.color, color_strength=0.5))(networks.vae, rest)
    assert first.shape[1] == 4 * count - 3
    np.testing.assert_allclose(np.concatenate([first, others], 1), video, atol=1e-4)
    np.testing.assert_allclose(following.latents, carried, atol=1e-3)
    assert following.known == motion.known


@pytest.mark.parametrize("persons", [1, 2])
def test_published_size_in_bfloat16(persons):
    """Shapes and dtypes of a session at 720×416, without memory: what a chunk returns is what the next one takes.

    All published widths, but fewer layers: tracing them takes minutes.
    """
    config = soulx_14b.get_config()
    config.model.dit.num_layers = config.model.clip.num_layers = 2
    config = RunConfig.from_config_dict(config)
    stream, sampler, sizes = config.stream, config.sampler, config.model.dit
    size = stream.buckets[0]
    geometry = Geometry(*size, stream.frames, stream.motion_frames)
    dit, vae, clip = (
        nnx.eval_shape(lambda name=name: random_network(config.model, name, jnp.bfloat16, seed=0))
        for name in ("dit", "vae", "clip")
    )

    def session(dit, vae, clip, portrait, text, masks, sound, noise):
        conditions, motion = prepare(dit, vae, clip, portrait, text, None, masks, geometry, stream.reference)
        latents = denoise(dit, conditions, sound, noise, motion, sampler=sampler).astype(conditions.reference.dtype)
        first, rest = first_frames(
            vae, latents, conditions.color, geometry.first_latents,
            motion_frames=stream.motion_frames, color_strength=stream.color_strength,
        )  # fmt: skip
        others, following = other_frames(vae, rest, conditions.color, color_strength=stream.color_strength)
        return motion, following, to_uint8(first[0]), to_uint8(others[0])

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    motion, following, first, others = jax.eval_shape(
        session, dit, vae, clip,
        array(jnp.bfloat16, 1, 1, *size, 3),
        array(jnp.bfloat16, 1, sizes.text_len, sizes.text_dim),
        array(jnp.float32, 3, 45 * 26) if persons == 2 else None,
        array(jnp.float32, 1, persons, stream.frames, 5, sizes.audio_blocks, sizes.audio_channels),
        array(jnp.float32, noise_draws(sampler.method, sampler.steps), 1, *geometry.latent_grid, 16),
    )  # fmt: skip
    assert motion == following
    assert motion.latents.shape == (1, 2, 90, 52, 16)
    assert motion.latents.dtype == jnp.bfloat16
    assert (first.shape, others.shape) == ((13, 720, 416, 3), (20, 720, 416, 3))  # the first 5 are motion
    assert first.dtype == others.dtype == jnp.uint8


def test_to_uint8():
    values = jnp.asarray([-2.0, -1.0, -0.999, -0.5, 0.0, 0.5, 0.999, 1.0, 2.0])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 0, 64, 128, 191, 255, 255, 255])
    assert to_uint8(values.astype(jnp.bfloat16)).dtype == jnp.uint8
    every = np.arange(256)
    np.testing.assert_array_equal(to_uint8(jnp.asarray(every / 127.5 - 1, jnp.float32)), every)


def test_noise_hangs_on_key_and_number():
    draw = jax.jit(draw_noise, static_argnums=2)
    key, shape = jax.random.key(3), (2, 4, 16)
    first = draw(key, 0, shape)
    assert first.dtype == jnp.float32
    np.testing.assert_array_equal(first, draw(jax.random.key(3), np.uint32(0), shape))
    assert not np.isclose(first, draw(key, 1, shape)).any()
    assert not np.isclose(first, draw(jax.random.key(4), 0, shape)).any()
    many = np.asarray(draw(key, 7, (50_000,)))
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02
