"""Guidance against its formulas and, with projection, against the published PyTorch computation written out again."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from livetalk_jax.diffusion.guidance import guide, guide_audio, project

SHAPE = (2, 3, 4, 5, 6)


def random(count, shape=SHAPE):
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def test_three_terms():
    cond, drop_text, uncond = random(3)
    expected = uncond + 5.0 * (cond - drop_text) + 4.0 * (drop_text - uncond)
    np.testing.assert_allclose(guide(cond, drop_text, uncond, 5.0, 4.0), expected, rtol=1e-5, atol=1e-5)
    # Scales of one are no guidance; of zero, no condition.
    np.testing.assert_allclose(guide(cond, drop_text, uncond, 1.0, 1.0), cond, atol=1e-5)
    np.testing.assert_allclose(guide(cond, drop_text, uncond, 0.0, 0.0), uncond, atol=1e-6)
    np.testing.assert_allclose(guide(cond, drop_text, uncond, 0.0, 1.0), drop_text, atol=1e-6)


def test_two_terms():
    cond, drop_audio = random(2)
    np.testing.assert_allclose(guide_audio(cond, drop_audio, 4.0), 4 * cond - 3 * drop_audio, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(guide_audio(cond, drop_audio, 1.0), cond, atol=1e-6)


def published(difference, cond, threshold):
    """Adaptive projected guidance with η = 0 as InfiniteTalk computes it, float64, batch by batch."""
    result = []
    for diff, direction in zip(torch.from_numpy(difference).double(), torch.from_numpy(cond).double(), strict=True):
        if threshold > 0:
            diff = diff * min(1.0, threshold / torch.linalg.vector_norm(diff))
        direction = torch.nn.functional.normalize(direction.flatten(), dim=0).view_as(direction)
        result.append(diff - (diff * direction).sum() * direction)
    return torch.stack(result).numpy()


@pytest.mark.parametrize("threshold", [0.0, 5.0, 1e3])
def test_projection(threshold):
    """A threshold that cuts, one that does not, and 0, which switches the cut off as published."""
    difference, cond = random(2)
    ours = project(jnp.asarray(difference), jnp.asarray(cond), threshold)
    np.testing.assert_allclose(ours, published(difference, cond, threshold), rtol=1e-4, atol=1e-5)
    along = np.sum(np.asarray(ours) * cond, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(along, 0, atol=1e-3)
    if threshold == 5.0:
        assert (np.linalg.norm(np.asarray(ours).reshape(2, -1), axis=1) <= 5.0 + 1e-3).all()


def test_each_of_a_batch_is_cut_alone():
    difference, cond = random(2)
    difference[1] *= 100
    together = project(jnp.asarray(difference), jnp.asarray(cond), 5.0)
    for i in range(2):
        alone = project(jnp.asarray(difference[i : i + 1]), jnp.asarray(cond[i : i + 1]), 5.0)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-5, atol=1e-6)


def test_nothing_to_guide():
    zero, cond = np.zeros(SHAPE, np.float32), random(1)[0]
    assert not np.any(project(jnp.asarray(zero), jnp.asarray(cond), 5.0))
    assert np.isfinite(project(jnp.asarray(cond), jnp.asarray(zero), 5.0)).all()
