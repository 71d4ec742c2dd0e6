"""Timesteps against their published definition."""

import numpy as np
import pytest

from livetalk_jax.diffusion.schedule import shift_timesteps, timesteps


@pytest.mark.parametrize(
    ("steps", "grid"),
    [
        (1, [1000]),
        (2, [1000, 500]),
        (3, [1000, 500.5, 1]),
        (4, [1000, 750, 500, 250]),
        (5, [1000, 750.25, 500.5, 250.75, 1]),
    ],
)
@pytest.mark.parametrize("shift", [1.0, 5.0, 7.0])
def test_values(steps, grid, shift):
    expected = [1000 * shift * (t / 1000) / (1 + (shift - 1) * (t / 1000)) for t in grid] + [0.0]
    times = timesteps(steps, shift)
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, expected, rtol=1e-12)


def test_the_students_four_steps():
    """Worked out by hand for shift 5: 5u / (1 + 4u)."""
    np.testing.assert_allclose(timesteps(4, 5.0), [1000, 937.5, 2500 / 3, 625, 0], rtol=1e-12)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 11.0])
def test_shift_keeps_the_ends_and_moves_towards_noise(shift):
    t = np.linspace(0, 1000, 21)
    shifted = shift_timesteps(t, shift)
    np.testing.assert_allclose(shifted[[0, -1]], [0, 1000])
    assert (np.diff(shifted) > 0).all()
    assert (shifted >= t - 1e-9).all()
    if shift == 1.0:
        np.testing.assert_allclose(shifted, t)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps(steps):
    with pytest.raises(ValueError, match=f"{steps} sampling steps: at least 1 is needed"):
        timesteps(steps, 5.0)
