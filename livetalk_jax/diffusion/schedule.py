"""Timesteps of the flow: σ = t / 1000, x_t = (1 − σ)·x0 + σ·ε."""

from typing import Any

import numpy as np

NUM_TIMESTEPS = 1000


def shift_timesteps(t: Any, shift: float) -> Any:
    """t, a number or an array in [0, 1000] moved towards noise: with u = t / 1000, s·u / (1 + (s − 1)·u)."""
    u = t / NUM_TIMESTEPS
    return NUM_TIMESTEPS * shift * u / (1.0 + (shift - 1.0) * u)


def timesteps(steps: int, shift: float) -> np.ndarray:
    """Shifted timesteps, float64 [steps + 1], the last one 0.

    The student was distilled at 2 and 4 steps on the even grid [1000, 1000·(n−1)/n, …]; other numbers of steps use the teacher's,
    from 1000 to 1.
    """
    if steps < 1:
        raise ValueError(f"{steps} sampling steps: at least 1 is needed")
    grid = np.linspace(NUM_TIMESTEPS, 0, steps + 1)[:-1] if steps in (2, 4) else np.linspace(NUM_TIMESTEPS, 1, steps)
    return shift_timesteps(np.append(grid, 0.0), shift)
