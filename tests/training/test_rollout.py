"""Rollouts are inference, and only the retained step carries a gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.diffusion.sampler import Motion, with_motion
from livetalk_jax.stream.chunk import denoise, draw_noise, generate_chunk
from livetalk_jax.training.rollout import Draw, conditions_of
from livetalk_jax.training.stages import Distillation, Turn, When, given_of
from tests.training.conftest import one_device

WHEN = When(np.uint32(3), np.uint32(0))
STEPS = 4
LAST = np.int32(STEPS - 1)


@pytest.fixture(scope="module")
def streamed(stage2):
    """Two chunks as streaming makes them: each one's motion, latents and noise, and the motion of the third."""
    stage, state, frozen, batch = stage2
    sampler, stream = stage.config.sampler, stage.config.stream
    dit, vae = stage.dit.build(state["student"].weights), stage.vae.build(frozen.vae)
    conditions = jax.jit(lambda: conditions_of(dit, given_of(batch, 0)))()
    color = stage.config.distribution_matching.handover_color
    make = functools.partial(generate_chunk, sampler=sampler, motion_frames=stream.motion_frames, color_strength=color)
    chunk = jax.jit(lambda *args: (make(dit, vae, *args)[1], denoise(dit, *args, sampler=sampler)))
    motion, chunks = stage._begin(batch, WHEN), []
    for number in range(2):
        noise = draw_noise(stage.keys(WHEN)[1], number, (STEPS, *batch.reference_latents.shape))
        following, latents = chunk(conditions, batch.audio[:, :, number], noise, motion)
        chunks.append((motion, latents, noise))
        motion = Motion(following.latents, jnp.full_like(motion.known, following.known))
    return chunks, motion


def close(ours, expected):
    scale = np.abs(np.asarray(expected)).max()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * scale)


def test_whole_chunks_equal_streaming(stage2, streamed):
    """decode → encode included: the motion that the third chunk would get."""
    stage, state, frozen, batch = stage2
    chunks, third = streamed
    motion = chunks[0][0]
    for number, expected in enumerate((chunks[1][0], third)):
        motion = stage._advance(state["student"].weights, frozen, batch, Turn(WHEN, np.uint32(number), LAST), motion)
        close(motion.latents, expected.latents)
        np.testing.assert_array_equal(motion.known, [2, 2])
    assert stage._advance._cache_size() == 1, "a second chunk was compiled anew"


def test_last_chunk_equals_streaming(stage2, streamed):
    """A rollout whose retained step is the sampler's last ends with the latents of inference."""
    stage, state, frozen, batch = stage2
    student = state["student"].weights
    turn, motion, x = stage.roll_out(student, frozen, batch, WHEN, Draw(chunks=2, exit=STEPS - 1))
    expected_motion, latents, _ = streamed[0][1]
    close(motion.latents, expected_motion.latents)
    close(with_motion(stage.leave(student, frozen, batch, turn, x), motion), latents)


@pytest.mark.parametrize("exit_step", range(STEPS))
def test_every_exit_by_hand(stage2, streamed, exit_step):
    """The published loop stopped at a step: x on the way in, x0 on the way out."""
    stage, state, frozen, batch = stage2
    student, times = state["student"].weights, stage.runner.times / 1000
    motion, _, noise = streamed[0][0]
    turn = Turn(WHEN, np.uint32(0), np.int32(exit_step))
    x = with_motion(noise[0], motion)
    for step in range(exit_step):
        x0 = stage.leave(student, frozen, batch, turn._replace(exit_step=np.int32(step)), x)
        x = with_motion((1 - times[step + 1]) * x0 + times[step + 1] * noise[step + 1], motion)
    close(stage._enter(student, frozen, batch, turn, motion), x)

    # An early exit in a chunk that is handed on ends with the same x0.
    early = jax.jit(lambda: stage.conditional.latents(*stage.inputs(student, frozen, batch, turn), motion, turn.exit_step))()
    close(early, with_motion(stage.leave(student, frozen, batch, turn, x), motion))


def test_a_rollout_of_one_chunk_hands_nothing_on(stage2):
    config = stage2.stage.config
    stage = Distillation(
        dataclasses.replace(config, data=dataclasses.replace(config.data, chunks=1)), one_device(), np.zeros((8, 16))
    )
    one, two = (some.programs(stage2.state, stage2.frozen, stage2.batch).keys() for some in (stage, stage2.stage))
    assert two - one == {"chunk handed on"} and one < two


def test_gradient_of_the_retained_step_alone(stage2):
    """Student weights of everything before it receive exactly zero; those of the step what the update uses."""
    stage, state, frozen, batch = stage2
    student, fake = state["student"].weights, jax.tree.map(lambda w: 1.1 * w, state["fake_score"].weights)
    drawn = Draw(chunks=2, exit=2)

    def loss(before, retained):
        turn, motion, x = stage.roll_out(before, frozen, batch, WHEN, drawn)
        return stage.student_loss(retained, fake, frozen, batch, turn, motion, x)[0]

    before, retained = jax.jit(jax.grad(loss, argnums=(0, 1)))(student, student)
    assert not any(np.asarray(g).any() for g in before.values())
    moved = {name for name, g in retained.items() if np.asarray(g).any()}
    assert {name for name in student if "blocks" in name and "kernel" in name} <= moved

    turn, motion, x = stage.roll_out(student, frozen, batch, WHEN, drawn)
    learner = jax.tree.map(jnp.copy, state["student"])
    _, metrics = stage._updates["student"](learner, fake, frozen, batch, turn, motion, x)
    norm = np.sqrt(sum(np.sum(np.square(np.asarray(g, np.float64))) for g in retained.values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)


def test_equal_scores_without_guidance_do_not_move_the_student(stage2):
    """At the beginning the fake score is the real score; without guidance there is nothing to learn from them."""
    stage, state, frozen, batch = stage2
    student = state["student"].weights
    turn, motion, x = stage.roll_out(student, frozen, batch, WHEN, Draw(chunks=1, exit=1))
    guided, stage.real = stage.real, stage.conditional
    try:
        loss, metrics = jax.jit(stage.student_loss)(student, state["fake_score"].weights, frozen, batch, turn, motion, x)
    finally:
        stage.real = guided
    assert loss == 0 and metrics["dmd_gradient"] == 0
