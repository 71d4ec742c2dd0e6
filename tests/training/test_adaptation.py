"""Stage 1's motion latents, handed over as a stream does it."""

import collections
import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.diffusion.sampler import Motion
from livetalk_jax.diffusion.schedule import NUM_TIMESTEPS
from livetalk_jax.stream.chunk import hand_over
from livetalk_jax.training.flow_matching import draw_example, per_row, picture_loss
from livetalk_jax.training.loop import Feed
from livetalk_jax.training.stages import NOW, Adaptation, When, Work
from tests.training import sizes
from tests.training.conftest import one_device, synthetic


def test_motion_is_handed_over_up_to_so_often(stage1):
    config, frozen, batch = stage1.stage.config, stage1.frozen, stage1.batch
    settings = dataclasses.replace(config.flow_matching, handed_over=0.7, handovers=2)
    stage = Adaptation(dataclasses.replace(config, flow_matching=settings), one_device(), np.zeros((8, 16), np.float32))
    given = Motion(batch.chunk_latents[:, 0, : stage.motion_latents], jnp.asarray([stage.motion_latents, 1]))
    vae = stage.vae.build(frozen.vae)

    @jax.jit
    def once(motion):
        stream = config.stream
        _, carried = hand_over(
            vae, motion.latents, batch.color, motion, motion_frames=stream.motion_frames, color_strength=stream.color_strength
        )
        return Motion(carried.latents, motion.known)

    expected = [given, once(given), once(once(given))]
    handed_over = jax.jit(stage.handed_over)
    seen = set()
    for seed in range(12):
        motion = handed_over(frozen, batch, given, jax.random.key(seed))
        np.testing.assert_array_equal(motion.known, given.known)
        np.testing.assert_array_equal(motion.latents[1], given.latents[1], err_msg="a stream's first motion is the portrait")
        distances = [float(jnp.abs(motion.latents[0] - other.latents[0]).max()) for other in expected]
        assert min(distances) < 1e-4
        seen.add(int(np.argmin(distances)))
    assert seen == {0, 1, 2}


def test_recycled_motion_has_the_networks_errors(stage1):
    settings = dataclasses.replace(stage1.stage.config.flow_matching, recycled=1.0, recyclings=2, cold_start=0.0)
    stage = Adaptation(
        dataclasses.replace(stage1.stage.config, flow_matching=settings), one_device(), np.zeros((8, 16), np.float32)
    )
    batch, frames = stage1.batch, stage.motion_latents
    given = Motion(batch.chunk_latents[:, 0, :frames], jnp.asarray([frames, 1]))
    learner = stage1.state["student"]
    recycled = jax.jit(stage.recycled)

    def errors(learner):
        return [recycled(learner, stage1.frozen, batch, given, jax.random.key(seed)).latents - given.latents for seed in range(6)]

    found = errors(learner)
    assert all(jnp.abs(error[0]).max() > 0.01 and not error[1].any() for error in found), "a stream's first motion is the portrait"
    still = learner._replace(weights=jax.tree.map(jnp.zeros_like, learner.weights))
    others = errors(still)
    assert all(jnp.abs(a[0] - b[0]).max() > 0.01 for a, b in zip(found, others, strict=True)), "another network, other errors"


def test_recycled_errors_come_together(stage1):
    """A network that goes on from its motion frames as they are, and one off: after n chunks it is n off, in the share of rows."""
    settings = dataclasses.replace(stage1.stage.config.flow_matching, recycled=0.25, recyclings=3)
    stage = Adaptation(
        dataclasses.replace(stage1.stage.config, flow_matching=settings), one_device(), np.zeros((8, 16), np.float32)
    )
    latents, frames = stage1.batch.chunk_latents[:, 0], stage.motion_latents
    given = Motion(latents[:, :frames], jnp.full(len(latents), frames))

    def one_off(x, timestep):
        x0 = latents.at[:, -frames:].add(x[:, :frames] - given.latents + 1.0)
        return (x - x0) / per_row(timestep / NUM_TIMESTEPS)

    stage.conditional = types.SimpleNamespace(velocity=lambda weights, conditions: one_off)
    recycled = jax.jit(lambda key: stage.recycled(stage1.state["student"], stage1.frozen, stage1.batch, given, key).latents)
    found = [np.asarray(recycled(jax.random.key(seed)) - given.latents) for seed in range(60)]
    off = np.round([error.mean((1, 2, 3, 4)) for error in found])  # [seed, row]
    for error, rows in zip(found, off, strict=True):
        np.testing.assert_allclose(error, np.broadcast_to(rows[:, None, None, None, None], error.shape), atol=1e-3)
        assert len(set(rows[rows > 0])) < 2, "how many chunks is drawn for all rows alike"
    assert set(off.ravel()) == {0, 1, 2, 3}
    assert abs((off > 0).mean() - 0.25) < 0.12


def test_updates_of_one_program_are_those_of_many(stage1):
    """The loop that a GPU runs, against a program for each batch, as a CPU has it."""
    settings = dataclasses.replace(
        stage1.stage.config.flow_matching, recycled=0.5, disturbed=0.5, disturbance=0.5, audio_guidance=1.25
    )
    student = dataclasses.replace(stage1.stage.config.student, warmup_steps=0, learning_rate=1e-3)
    config = dataclasses.replace(stage1.stage.config, flow_matching=settings, student=student, updates=3)
    stage = Adaptation(config, one_device(), np.zeros((8, 16), np.float32))
    assert (stage.batches, stage.together) == (3, 1)
    batches = (stage1.batch, jax.tree.map(lambda x: x[::-1], stage1.batch), stage1.batch)
    state, metrics, work = stage.step(stage.start(), stage1.frozen, 4, iter(batches))
    learner, mean = jax.jit(stage.updates)(stage.start()["student"], stage1.frozen, batches, When(np.uint32(4), np.uint32(0)))
    np.testing.assert_allclose(metrics["loss"], mean["loss"], rtol=1e-5)
    one = stage.worked(Work(0, 0.0), stage1.batch, 1)
    assert work.tokens == 3 * one.tokens
    np.testing.assert_allclose(
        work.flops, 3 * 5 * one.flops, err_msg="a prediction, its gradients at twice that, one more for its error and one unheard"
    )
    moved = 0
    for name, weight in state["student"].weights.items():
        np.testing.assert_allclose(learner.weights[name], weight, rtol=1e-4, atol=1e-4, err_msg=name)
        moved += not np.array_equal(weight, stage1.state["student"].weights[name])
    assert moved > len(learner.weights) / 2


def test_speech_guides_what_is_learnt(stage1):
    """A network that says nothing without speech, asked for guidance by 1.5, is as far off as one that says half of it is without."""

    def loss(scale, share):
        settings = dataclasses.replace(stage1.stage.config.flow_matching, audio_guidance=scale, drop_audio=0.5)
        stage = Adaptation(
            dataclasses.replace(stage1.stage.config, flow_matching=settings), one_device(), np.zeros((8, 16), np.float32)
        )

        def velocity(weights, given):
            loud = jnp.mean(jnp.square(given.windows), tuple(range(1, given.windows.ndim)))
            return lambda x, timestep: jnp.broadcast_to(share * per_row(loud), x.shape)

        stage.conditional = types.SimpleNamespace(velocity=velocity)
        _, metrics = jax.jit(stage.adapt)(stage1.state["student"], stage1.frozen, stage1.batch, NOW)
        return float(metrics["loss"])

    np.testing.assert_allclose(loss(1.5, 1.0), loss(1.0, 0.5), rtol=1e-5)
    assert abs(loss(1.0, 1.0) / loss(1.0, 0.5) - 1) > 0.01


def test_an_error_is_seen(stage1):
    """A network that is one off in all latents: its loss gains what the decoder makes of that, behind the motion frames."""
    latents, frames = stage1.batch.chunk_latents[:, 0], stage1.stage.config.stream.motion_frames
    settings = dataclasses.replace(stage1.stage.config.flow_matching, picture_weight=3.0, movement_weight=0.5, cold_start=0.0)
    stage = Adaptation(
        dataclasses.replace(stage1.stage.config, flow_matching=settings), one_device(), np.zeros((8, 16), np.float32)
    )

    @jax.jit
    def adapted(off):
        stage.conditional = types.SimpleNamespace(
            velocity=lambda weights, given: lambda x, timestep: (x - latents - off) / per_row(timestep / NUM_TIMESTEPS)
        )
        return stage.adapt(stage1.state["student"], stage1.frozen, stage1.batch, NOW)[1]

    @jax.jit
    def expected():
        vae = stage.vae.build(stage1.frozen.vae)
        wrong = latents.at[:, stage.motion_latents :].add(1.0)
        return picture_loss(vae.decode(wrong)[:, frames:], vae.decode(latents)[:, frames:], 0.5)

    right, wrong, pictures = adapted(0.0), adapted(1.0), expected()
    assert float(right["pictures"]) < 1e-4 < pictures
    np.testing.assert_allclose(wrong["pictures"], pictures, rtol=1e-4)
    example = draw_example(stage.key(NOW), latents, stage1.batch.portrait_latent, stage.motion_latents, settings)
    off = np.mean(np.square(NUM_TIMESTEPS / example.timestep))
    np.testing.assert_allclose(wrong["loss"], off + 3.0 * pictures, rtol=1e-4)


def test_bfloat16_is_computed_in_and_float32_kept(stage1):
    runtime = dataclasses.replace(stage1.stage.config.runtime, dtype="bfloat16")
    stage = Adaptation(dataclasses.replace(stage1.stage.config, runtime=runtime), one_device(), np.zeros((8, 16), np.float32))
    learner, frozen = stage.abstract_state()["student"], stage.abstract_frozen()
    kept = {leaf.dtype for leaf in jax.tree.leaves(learner) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kept == {jnp.dtype("float32")}, "weights, their average and the optimiser's moments"
    traced = jax.make_jaxpr(stage.updates)(learner, frozen, (stage1.batch,), NOW)
    numbers = collections.Counter()
    for x in operands(traced.jaxpr):
        numbers[str(x.aval.dtype)] += x.aval.size
    assert numbers["bfloat16"] > 0.8 * numbers.total(), "the rest is timesteps and modulation, much in a network so small"


def operands(jaxpr):
    """Of all matrix products."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield from equation.invars
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple) else (parameter,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from operands(getattr(inner, "jaxpr", inner))


def test_a_size_of_picture_is_a_program(stage1):
    small, wide = stage1.batch, next(Feed(synthetic(stage1.stage.config, sizes.HEIGHT, 2 * sizes.WIDTH), stage1.stage.placement))
    assert wide.chunk_latents.shape[4] == 2 * small.chunk_latents.shape[4]
    stage = Adaptation(stage1.stage.config, one_device(), np.zeros((8, 16), np.float32))
    state, losses = stage.start(), []
    for step, batch in enumerate((small, wide, small, wide)):
        state, metrics, work = stage.step(state, stage1.frozen, step, iter([batch]))
        losses.append(float(metrics["loss"]))
    assert stage._update._cache_size() == 2
    assert np.isfinite(losses).all() and work.tokens == 2 * stage.worked(Work(0, 0.0), small, 1).tokens


def test_several_updates_in_a_program_need_one_size_of_picture(stage1):
    stream = dataclasses.replace(stage1.stage.config.stream, buckets=((32, 32), (32, 64)))
    config = dataclasses.replace(stage1.stage.config, stream=stream, updates=2)
    with pytest.raises(ValueError, match="one size of picture"):
        Adaptation(config, one_device(), np.zeros((8, 16), np.float32))
