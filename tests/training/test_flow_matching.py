"""Stage 1's pure functions against values worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.diffusion.sampler import Motion
from livetalk_jax.training import flow_matching as fm
from livetalk_jax.training.config import FlowMatchingConfig

B, T, H, W, C, M = 4, 5, 2, 3, 2, 2
SHAPE = (B, T, H, W, C)
CONFIG = FlowMatchingConfig(
    timestep_shift=5.0, timestep_steps=0, weighting="uniform", drop_text=0.0, drop_audio=0.0, audio_guidance=1.0, cold_start=0.0,
    cold_start_latent="first_frame", temporal_weight=0.0, movement_weight=0.0, picture_weight=0.0, lasting_weight=0.0,
    handed_over=0.0, handovers=1, recycled=0.0, recyclings=1, disturbed=0.0, disturbance=0.0,
)  # fmt: skip


def random(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def motion(*known):
    return Motion(random(9, (B, M, H, W, C)), jnp.asarray(known))


def test_timesteps_are_shifted_uniform():
    """P(t < 625) is P(u < 0.25) at shift 5: a quarter; and half of all are beyond 833."""
    t = np.asarray(fm.draw_timesteps(jax.random.key(0), 100_000, 5.0))
    assert t.min() >= 0 and t.max() < 1000
    for bound, share in ((625.0, 0.25), (1000 * 2.5 / 3, 0.5), (937.5, 0.75)):
        assert abs(np.mean(t < bound) - share) < 0.01


def test_timesteps_are_those_of_sampling():
    """Four steps sample at u = 1, 3/4, 1/2 and 1/4; each is a quarter of what is drawn."""
    t = np.asarray(fm.draw_timesteps(jax.random.key(0), 20_000, 3.0, 4))
    drawn, counts = np.unique(t, return_counts=True)
    np.testing.assert_allclose(drawn, [500.0, 750.0, 900.0, 1000.0])
    np.testing.assert_allclose(counts / len(t), 0.25, atol=0.01)


def test_guidance_ends_where_sampling_with_it_would():
    """A velocity that follows its target ends at silence + (speech − silence) / (2 − scale); a row without speech at its own."""
    speech, silent, dropped = random(1), random(2), jnp.asarray([False, True, False, False])
    velocity = speech
    for _ in range(40):
        velocity = speech + fm.speech_guidance(velocity, silent, 1.5, dropped)
    expected = jnp.where(fm.per_row(dropped), speech, silent + 2.0 * (speech - silent))
    np.testing.assert_allclose(velocity, expected, atol=1e-4)
    moved = jax.grad(lambda v: jnp.sum(fm.speech_guidance(v, silent, 1.5, dropped)))(velocity)
    assert not np.asarray(moved).any(), "the target has no gradient"


def test_guidance_moves_the_target():
    latents, noise, known, guidance = random(1), random(2), motion(2, 1, 2, 2), random(3)
    found = fm.flow_matching_loss(noise - latents + guidance, latents, noise, known, jnp.ones(B), guidance=guidance)
    np.testing.assert_allclose(found, 0.0, atol=1e-10)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (dict(audio_guidance=2.0, drop_audio=0.1), "audio_guidance is 2.0: give 1 .*below 2"),
        (dict(audio_guidance=1.5), "drop_audio is 0"),
        (dict(timestep_steps=-1), "timestep_steps is -1"),
    ],
)
def test_what_cannot_be_learnt_is_refused(wrong, line):
    with pytest.raises(ValueError, match=line):
        dataclasses.replace(CONFIG, **wrong)


def test_bell_weight():
    """Self-Forcing's table: exp(−2((t − 500) / 1000)²) less its least, with mean 1 over the shifted grid."""
    u = np.linspace(1, 0, 1001)[:-1]
    grid = 1000 * 5 * u / (1 + 4 * u)
    table = np.exp(-2 * ((grid - 500) / 1000) ** 2)
    table -= table.min()
    table *= 1000 / table.sum()
    np.testing.assert_allclose(fm.bell_weight(jnp.asarray(grid), 5.0), table, atol=1e-5)


def test_new_frames():
    mask = np.asarray(fm.new_frames(motion(2, 1, 0, 2), T))[..., 0, 0, 0]
    np.testing.assert_array_equal(mask, [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(fm.new_frames(Motion(None, jnp.int32(1)), 3)[..., 0, 0, 0], [[0, 1, 1]])


def test_loss_is_the_mean_over_new_frames():
    velocity, latents, noise, weight = random(0), random(1), random(2), jnp.asarray([1.0, 2.0, 0.5, 0.0])
    loss = fm.flow_matching_loss(velocity, latents, noise, motion(2, 1, 2, 2), weight)
    error = np.square(np.asarray(velocity - (noise - latents)))
    parts = [(row, frame) for row, known in enumerate((2, 1, 2, 2)) for frame in range(known, T)]
    expected = np.mean([np.mean(weight[row] * error[row, frame]) for row, frame in parts])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_what_lasts_weighs_more():
    """An error that every generated frame has counts once more, one whose frames cancel out does not, and motion frames have none."""
    latents, noise, weight, known = random(1), random(2), jnp.ones(B), motion(2, 1, 2, 2)
    truth, one = noise - latents, random(3, (B, 1, H, W, C))
    signs = jnp.where(jnp.arange(T) % 2 == 0, 1.0, -1.0)[None, :, None, None, None]
    plain = np.mean(np.square(one))

    def loss(error, rows):
        weights = jnp.where(jnp.asarray(rows), weight, 0.0)
        with_and_without = (
            fm.flow_matching_loss(truth + error, latents, noise, known, weights, lasting_weight=w) for w in (3.0, 0.0)
        )
        return np.subtract(*map(float, with_and_without))

    everywhere = jnp.broadcast_to(one, latents.shape).at[:, :1].set(100.0)
    np.testing.assert_allclose(loss(everywhere, [True] * B), 3 * plain, rtol=1e-4)
    np.testing.assert_allclose(loss(signs * one, [False, True, False, False]), 0.0, atol=1e-4, err_msg="four frames cancel out")


def test_motion_latents_receive_no_gradient():
    known = (2, 1, 2, 1)
    gradient = jax.grad(fm.flow_matching_loss)(random(0), random(1), random(2), motion(*known), jnp.ones(B), 0.5)
    for row, count in enumerate(known):
        assert not np.asarray(gradient[row, :count]).any()
        assert np.abs(np.asarray(gradient[row, count:])).min() > 0


def test_temporal_part():
    """An error that is the same in every frame has no temporal part; one that alternates has four times its square."""
    zero, alternating = jnp.zeros(SHAPE), jnp.broadcast_to((-1.0) ** jnp.arange(T)[:, None, None, None], SHAPE)
    one = jnp.ones(B)
    plain = fm.flow_matching_loss(jnp.ones(SHAPE), zero, zero, motion(1, 1, 1, 1), one, 0.25)
    np.testing.assert_allclose(plain, 1.0, rtol=1e-6)
    np.testing.assert_allclose(fm.flow_matching_loss(alternating, zero, zero, motion(1, 1, 1, 1), one, 0.25), 2.0, rtol=1e-6)


def test_dropped_conditions():
    text, negative, windows = random(0, (B, 3, 4)), random(1, (3, 4)), random(2, (B, 1, 5, 2, 2, 2))
    dropped = fm.Dropped(jnp.asarray([True, False, True, False]), jnp.asarray([True, True, False, False]))
    new_text, new_windows = fm.drop_conditions(text, negative, windows, dropped)
    for row in range(B):
        np.testing.assert_array_equal(new_text[row], negative if dropped.text[row] else text[row])
        np.testing.assert_array_equal(new_windows[row], 0 * windows[row] if dropped.audio[row] else windows[row])


@pytest.mark.parametrize("cold_latent", ["first_frame", "portrait"])
def test_cold_start_knows_one_latent(cold_latent):
    latents, portrait = random(0), random(1, (B, 1, H, W, C))
    known = fm.clip_motion(latents, portrait, jnp.asarray([True, False, True, False]), M, cold_latent)
    np.testing.assert_array_equal(known.known, [1, 2, 1, 2])
    np.testing.assert_array_equal(known.latents[1::2], latents[1::2, :M])
    first = latents[::2, :1] if cold_latent == "first_frame" else portrait[::2]
    np.testing.assert_array_equal(known.latents[::2, :1], first)


def test_an_example_is_noised_behind_clean_motion():
    latents, portrait = random(0), random(1, (B, 1, H, W, C))
    example = fm.draw_example(jax.random.key(3), latents, portrait, M, CONFIG)
    np.testing.assert_array_equal(example.noisy[:, :M], latents[:, :M])
    sigma = np.asarray(example.timestep)[:, None, None, None, None] / 1000
    expected = (1 - sigma) * latents + sigma * example.noise
    np.testing.assert_allclose(example.noisy[:, M:], expected[:, M:], atol=1e-6)
    np.testing.assert_array_equal(example.weight, np.ones(B))
    assert len(set(np.asarray(example.timestep).tolist())) == B


@pytest.mark.parametrize(("field", "value"), [("cold_start", 0.1), ("drop_text", 0.25), ("drop_audio", 0.4)])
def test_chances(field, value):
    """Each happens as often as it should, and independently of the rows."""
    rows = 4096
    latents = jnp.zeros((rows, 3, 1, 1, 1))
    config = CONFIG.__class__(**{**vars(CONFIG), field: value})
    example = fm.draw_example(jax.random.key(0), latents, latents[:, :1], M, config)
    shares = {
        "cold_start": np.mean(np.asarray(example.motion.known) == 1),
        "drop_text": np.mean(np.asarray(example.dropped.text)),
        "drop_audio": np.mean(np.asarray(example.dropped.audio)),
    }
    for name, share in shares.items():
        assert abs(share - (value if name == field else 0.0)) < 0.03


def test_what_moves_counts_more():
    """One place of four changes in time: it gets its share, and the mean weight stays 1."""
    latents = jnp.zeros((1, 4, 2, 2, 3)).at[0, ::2, 1, 0].set(2.0)
    weights = fm.movement_weights(latents, 0.5)[0, 0, :, :, 0]
    np.testing.assert_allclose(weights, [[0.5, 0.5], [2.5, 0.5]], rtol=1e-5)
    error = jnp.zeros(latents.shape).at[0, :, 1, 0].set(1.0)
    known, one = motion(1), jnp.ones(1)
    plain, moved = (fm.flow_matching_loss(error - latents, latents, latents * 0, known, one, 0.0, share) for share in (0.0, 0.5))
    np.testing.assert_allclose(moved, 2.5 * plain, rtol=1e-5)


def test_pictures_that_are_as_asked_cost_nothing():
    """A grey video that is 0.2 too bright is 0.2 off, edges and all; what is asked has no gradient."""
    asked = random(1, (1, 3, 8, 8, 3))
    assert float(fm.picture_loss(asked, asked, 0.5)) == 0.0
    grey = jnp.zeros_like(asked)
    assert float(fm.picture_loss(grey + 0.2, grey, 0.5)) == pytest.approx(0.5 * 0.2, rel=1e-4), (
        "nothing moves: half of the weight is left"
    )
    assert float(fm.picture_loss(asked + 0.2, asked, 0.5)) == pytest.approx(0.2, rel=1e-4)
    assert not np.asarray(jax.grad(fm.picture_loss, 1)(grey, asked, 0.5)).any()


def test_recycled_motion_has_the_error_of_the_last_frames():
    given, latents, x0 = motion(2, 1, 2, 2), random(1), random(2)
    dirty = fm.recycle(jnp.asarray([True, True, False, True]), given, x0, latents)
    expected = np.array(given.latents)
    expected[[0, 3]] += np.asarray(x0 - latents)[[0, 3], 3:]
    np.testing.assert_allclose(dirty.latents, expected, rtol=1e-6, err_msg="the last two of five frames; a portrait stays as it is")
    np.testing.assert_array_equal(dirty.known, given.known)


def test_disturbed_motion_is_patches_that_stay():
    config = dataclasses.replace(CONFIG, disturbed=0.5, disturbance=0.6)
    rows, size = 400, (8, 8)
    clean = Motion(random(9, (rows, M, *size, C)), jnp.where(jnp.arange(rows) % 4 == 0, 1, M))
    dirty = fm.disturb(jax.random.key(0), clean, config)
    np.testing.assert_array_equal(dirty.known, clean.known)
    change = np.asarray(dirty.latents - clean.latents)
    np.testing.assert_allclose(change[:, 0], change[:, 1], atol=1e-5, err_msg="patches stay through all frames")
    deviation = change.std(axis=(1, 2, 3, 4))
    assert not deviation[::4].any(), "a portrait stays as it is"
    hit = np.delete(deviation, np.s_[::4]) > 0
    assert abs(hit.mean() - 0.5) < 0.1
    assert 0.4 < deviation.max() < 0.9 and abs(deviation[deviation > 0].mean() - 0.3) < 0.06
    halves = change[deviation > 0].reshape(-1, M, 2, 4, 2, 4, C).mean(axis=(3, 5))
    assert halves.std() > 0.5 * change[deviation > 0].std(), "colours of whole parts of the picture change, not only its grain"
