"""Steps of the two samplers, and what is written over the first frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.diffusion.sampler import Motion, euler_step, noise_draws, predict_x0, renoise_step, sample, with_motion
from livetalk_jax.diffusion.schedule import timesteps

SHAPE = (2, 5, 3, 4, 6)  # [B, T, H, W, C]
SLOTS = 2


def random(seed, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def motion(count):
    return Motion(random(9, (SHAPE[0], SLOTS, *SHAPE[2:])), jnp.int32(count))


def noisy(x0, noise, sigma):
    return (1 - sigma) * x0 + sigma * noise


def test_x0_comes_back_from_the_velocity():
    x0, noise = random(0), random(1)
    for sigma in (1.0, 0.9, 0.3, 0.0):
        np.testing.assert_allclose(predict_x0(noisy(x0, noise, sigma), noise - x0, sigma), x0, atol=1e-6)


def test_renoise_step_lands_at_the_next_sigma():
    x0, noise, fresh = random(0), random(1), random(2)
    x = renoise_step(noisy(x0, noise, 0.9), noise - x0, 0.9, 0.4, fresh)
    np.testing.assert_allclose(x, noisy(x0, fresh, 0.4), atol=1e-6)


def test_euler_step_goes_along_the_line():
    x0, noise = random(0), random(1)
    x = euler_step(noisy(x0, noise, 0.9), noise - x0, 0.9, 0.4)
    np.testing.assert_allclose(x, noisy(x0, noise, 0.4), atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_with_motion(count):
    x, carried = random(0), motion(count)
    result = np.asarray(with_motion(x, carried))
    np.testing.assert_array_equal(result[:, :count], carried.latents[:, :count])
    np.testing.assert_array_equal(result[:, count:], x[:, count:])
    assert with_motion(x.astype(jnp.bfloat16), carried).dtype == jnp.bfloat16


def test_with_motion_of_each_video():
    """Training mixes videos that begin with videos that go on."""
    x, carried = random(0), motion([1, 2])
    result = with_motion(x, carried)
    for video, known in enumerate((1, 2)):
        alone = Motion(carried.latents[video : video + 1], jnp.int32(known))
        np.testing.assert_array_equal(result[video], with_motion(x[video : video + 1], alone)[0])


def exact_velocity(x0):
    """The velocity of a distribution that is x0 alone: ε − x0 = (x − x0) / σ, whatever noise x has."""

    def velocity(x, time, carry):
        return (x - x0) / (time / 1000.0), carry + 1

    return velocity


@pytest.mark.parametrize(("method", "steps"), [("renoise", 1), ("renoise", 4), ("euler", 10)])
def test_an_exact_velocity_leads_to_x0(method, steps):
    x0 = random(0)
    noise = random(1, (noise_draws(method, steps), *SHAPE))
    run = jax.jit(lambda noise, motion: sample(exact_velocity(x0), noise, motion, timesteps(steps, 5.0), method, jnp.int32(0)))
    for known in (1, 2):
        carried = motion(known)
        result = np.asarray(run(noise, carried))
        np.testing.assert_allclose(result[:, known:], x0[:, known:], atol=2e-5)
        np.testing.assert_array_equal(result[:, :known], carried.latents[:, :known])


def reference(velocity, noise, carried, times, method):
    """The published loop, step by step."""
    x = np.asarray(with_motion(noise[0], carried), np.float64)
    seen = []
    for i, (now, later) in enumerate(zip(times[:-1] / 1000, times[1:] / 1000, strict=True)):
        seen.append(x)
        v = velocity(x, now)
        if method == "renoise":
            fresh = np.asarray(noise[i + 1], np.float64) if i + 1 < len(noise) else 0.0
            x = (1 - later) * (x - now * v) + later * fresh
        else:
            x = x - (now - later) * v
        x = np.asarray(with_motion(jnp.asarray(x, jnp.float32), carried), np.float64)
    return x, seen


@pytest.mark.parametrize(("method", "steps"), [("renoise", 4), ("euler", 6)])
def test_every_step_against_the_loop(method, steps):
    """A velocity that depends on x and the time; the motion frames are clean at every call of it."""
    carried, noise = motion(2), random(1, (noise_draws(method, steps), *SHAPE))
    times = timesteps(steps, 5.0)

    recorded = []

    def velocity(x, time, carry):
        jax.debug.callback(lambda x, t: recorded.append((float(t), np.asarray(x))), x, time, ordered=True)
        return jnp.sin(x) + time / 1000.0, carry

    result = sample(velocity, noise, carried, times, method)
    jax.effects_barrier()
    expected, seen = reference(lambda x, sigma: np.sin(x) + sigma, noise, carried, times, method)
    np.testing.assert_allclose(result, expected, atol=2e-5)
    np.testing.assert_allclose([t for t, _ in recorded], times[:-1], rtol=1e-6)
    for (_, x), want in zip(recorded, seen, strict=True):
        np.testing.assert_allclose(x, want, atol=2e-5)
        np.testing.assert_array_equal(x[:, :2], carried.latents)


def test_carry_is_handed_on():
    """Two steps of euler whose velocity is the number of calls so far: x falls by σ0−σ1 and then by 2·(σ1−σ2)."""
    times = timesteps(2, 1.0)
    x = sample(
        lambda x, t, n: (jnp.full_like(x, n + 1.0), n + 1), jnp.zeros((1, *SHAPE)), motion(0), times, "euler", jnp.float32(0)
    )
    np.testing.assert_allclose(x, np.full(SHAPE, -(0.5 + 2 * 0.5)), rtol=1e-6)


def test_every_noise_array_has_a_say():
    noise = random(1, (4, *SHAPE))
    run = jax.jit(lambda noise: sample(lambda x, t, c: (-x, c), noise, motion(1), timesteps(4, 5.0), "renoise"))
    whole = run(noise)
    for i in range(4):
        change = np.asarray(run(noise.at[i].add(1.0)) - whole)
        assert np.abs(change[:, 1:]).min() > 1e-2
        assert not change[:, :1].any()


@pytest.mark.parametrize(("method", "steps", "draws"), [("renoise", 4, 3), ("renoise", 4, 5), ("euler", 4, 4), ("euler", 40, 0)])
def test_wrong_number_of_noise_arrays(method, steps, draws):
    with pytest.raises(ValueError, match=f"{steps} {method} steps take {noise_draws(method, steps)} noise arrays, not {draws}"):
        sample(exact_velocity(0.0), jnp.zeros((draws, *SHAPE)), motion(1), timesteps(steps, 5.0), method)
