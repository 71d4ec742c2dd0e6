"""Stage 2's pure functions: gradient, mask, motion latents in the scores and whose turn it is."""

import collections
import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.diffusion.sampler import Motion
from livetalk_jax.training import distillation as dm
from livetalk_jax.training.config import TrainConfig
from livetalk_jax.training.rollout import Draw, chunk_exits, draw
from tests.training import sizes

B, T, H, W, C, M = 2, 5, 2, 3, 4, 2
SHAPE = (B, T, H, W, C)
CONFIG = TrainConfig.from_config_dict(sizes.get_config("stage2")).distribution_matching


def changed(**fields):
    return dataclasses.replace(CONFIG, **fields)


def random(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def motion(seed=9, known=(2, 1)):
    return Motion(random(seed, (B, M, H, W, C)), jnp.asarray(known))


def velocity(weight):
    """A score network that depends on x and t."""
    return lambda x, t: weight * jnp.sin(x) + t[:, None, None, None, None] / 1000


KEY = jax.random.key(5)
ROOT = Path(__file__).parents[2]


def student_loss(x0, real, fake, config=CONFIG, given=None, true_motion=None):
    return dm.student_loss(x0, given or motion(), true_motion or motion(8, (2, 2)), real, fake, KEY, config)[0]


def test_equal_scores_give_no_gradient():
    loss, gradient = jax.value_and_grad(student_loss)(random(0), velocity(0.7), velocity(0.7))
    assert loss == 0
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("noise", ["same_t", "none", "small_sigma"])
def test_gradient_by_hand(noise):
    """Everything of Self-Forcing's formula written out in NumPy."""
    config, x0, given = changed(motion_noise=noise), random(0), motion()
    real, fake = velocity(0.7), velocity(-0.4)
    gradient = np.asarray(jax.grad(student_loss)(x0, real, fake, config, given))

    key_time, key_noise = jax.random.split(KEY)
    t = np.asarray(dm.score_timesteps(key_time, B, config), np.float64)
    eps = np.asarray(random_like(key_noise), np.float64)
    x, known = np.array(x0, np.float64), np.asarray(given.known)
    sigma = t / 1000
    expected, total = np.zeros(SHAPE), 0
    for row in range(B):
        count, s = known[row], sigma[row]
        x[row, :count] = given.latents[row, :count]
        x_t = (1 - s) * x[row] + s * eps[row]
        if noise != "same_t":
            motion_sigma = 0.0 if noise == "none" else config.small_sigma
            x_t[:count] = (1 - motion_sigma) * x[row, :count] + motion_sigma * eps[row, :count]
        x0_real, x0_fake = (x_t - s * (w * np.sin(x_t) + s) for w in (0.7, -0.4))
        normaliser = np.mean(np.abs(x[row] - x0_real)[count:])
        expected[row, count:] = ((x0_fake - x0_real) / normaliser)[count:]
        total += expected[row, count:].size
    np.testing.assert_allclose(gradient, expected / total, rtol=2e-4, atol=1e-7)


def random_like(key):
    return jax.random.normal(key, SHAPE)


def test_masked_latents_receive_no_gradient():
    gradient = np.asarray(jax.grad(student_loss)(random(0), velocity(0.7), velocity(-0.4)))
    assert not gradient[0, :2].any() and not gradient[1, :1].any()
    assert np.abs(gradient[0, 2:]).min() > 0 and np.abs(gradient[1, 1:]).min() > 0


def test_motion_in_the_loss():
    config = changed(motion_in_loss=True)
    gradient = np.asarray(jax.grad(student_loss)(random(0), velocity(0.7), velocity(-0.4), config))
    assert np.abs(gradient).min() > 0


def test_gradient_of_the_loss_is_the_given_one():
    """dL/dx = g·mask / number of elements within the mask."""
    x, g = random(0), random(1)
    mask = jnp.zeros((1, T, 1, 1, 1)).at[:, 2:].set(1.0)
    gradient = jax.grad(dm.distribution_matching_loss)(x, g, mask)
    np.testing.assert_allclose(gradient, g * mask / (B * 3 * H * W * C), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(dm.distribution_matching_loss(x, g, mask), 0.5 * np.mean(np.square(g[:, 2:])), rtol=1e-5)


def test_a_normaliser_of_zero_gives_no_gradient():
    x = random(0)
    assert not np.asarray(dm.distribution_matching_gradient(x, x, x, jnp.ones((1, 1, 1, 1, 1)))).any()


@pytest.mark.parametrize("source", ["predicted", "ground_truth"])
def test_motion_latents_of_the_real_score(source):
    """Only the real score sees the clip's own motion latents, and only where that is asked for."""
    seen = {}

    def spy(name):
        def network(x, t):
            seen[name] = np.asarray(x)
            return jnp.zeros_like(x)

        return network

    given, true_motion = motion(), motion(8, (2, 2))
    student_loss(random(0), spy("real"), spy("fake"), changed(motion_latents=source, motion_noise="none"), given, true_motion)
    for row, known in enumerate((2, 1)):
        np.testing.assert_array_equal(seen["fake"][row, :known], given.latents[row, :known])
    if source == "predicted":
        np.testing.assert_array_equal(seen["real"], seen["fake"])
    else:
        np.testing.assert_array_equal(seen["real"][:, :2], true_motion.latents)
        np.testing.assert_array_equal(seen["real"][:, 2:], seen["fake"][:, 2:])


def test_fake_score_loss():
    """Flow matching on the sample: exact for a network that knows it, and no gradient to the sample."""
    x0, given = random(0), motion()
    x, _ = dm.scored_part(x0, given, CONFIG)

    def knows(x_t, t):
        return (x_t - x) / (t[:, None, None, None, None] / 1000)

    np.testing.assert_allclose(dm.fake_score_loss(x0, given, knows, KEY, CONFIG), 0.0, atol=1e-6)
    loss, gradient = jax.value_and_grad(dm.fake_score_loss)(x0, given, velocity(0.3), KEY, CONFIG)
    assert loss > 0.1
    assert not np.asarray(gradient).any()


def test_fake_score_learns_nothing_from_motion():
    def loss(bias):
        return dm.fake_score_loss(random(0), motion(), lambda x, t: x + bias, KEY, CONFIG)

    gradient = np.asarray(jax.grad(loss)(jnp.zeros(SHAPE)))
    assert not gradient[0, :2].any() and not gradient[1, :1].any()
    assert np.abs(gradient[0, 2:]).min() > 0


def test_score_timesteps_keep_their_bounds():
    t = np.asarray(dm.score_timesteps(jax.random.key(0), 50_000, CONFIG))
    assert t.min() == 20 and t.max() == 980
    assert abs(np.mean(t < 625) - 0.25) < 0.01


def test_updates_of_self_forcing():
    """200 iterations: 200 updates of the fake score and 40 of the student, which comes first in its turn."""
    turns = [dm.updates(step, CONFIG) for step in range(200)]
    assert collections.Counter(itertools.chain(*turns)) == {"fake_score": 200, "student": 40}
    assert turns[0] == turns[5] == ["student", "fake_score"]
    assert turns[1:5] == [["fake_score"]] * 4


def test_updates_of_lightx2v():
    turns = [dm.updates(step, changed(schedule="lightx2v")) for step in range(10)]
    assert turns == [["student"] + ["fake_score"] * 5] * 10


def test_draws_follow_from_the_seed():
    """The same on every process, uniform over chunks and steps, and new for each update."""
    draws = [draw(CONFIG, 5, 4, (0, step, 0)) for step in range(4000)]
    assert draws == [draw(CONFIG, 5, 4, (0, step, 0)) for step in range(4000)]
    counts = collections.Counter(draws)
    assert set(counts) == {Draw(k, i) for k in range(1, 6) for i in range(4)}
    assert min(counts.values()) > 140 and max(counts.values()) < 260  # 200 ± 4 deviations
    assert draws[:50] != [draw(CONFIG, 5, 4, (0, step, 1)) for step in range(50)]
    assert draws[:50] != [draw(CONFIG, 5, 4, (1, step, 0)) for step in range(50)]


def test_another_process_draws_the_same():
    program = (
        "from tests.training.test_distillation import *; print([tuple(draw(CONFIG, 5, 4, (3, step, 1))) for step in range(50)])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert there.stdout.strip() == str([tuple(draw(CONFIG, 5, 4, (3, step, 1))) for step in range(50)])


def test_fixed_rollouts():
    assert {draw(changed(rollout="fixed"), 3, 4, (0, step)).chunks for step in range(50)} == {3}


@pytest.mark.parametrize(("early_exit", "exits"), [("last_chunk", [3, 3]), ("all_chunks", [1, 1])])
def test_where_chunks_leave(early_exit, exits):
    assert chunk_exits(changed(early_exit=early_exit), Draw(chunks=3, exit=1), 4) == exits
