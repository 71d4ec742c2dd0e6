"""Rotary tables and turns, against complex numbers in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.nn.rotary import THETA, rotary_1d, rotary_3d, rotate


def as_complex(x):
    """Channel pairs (2i, 2i+1) as complex numbers."""
    x = np.asarray(x, np.float64)
    return x[..., ::2] + 1j * x[..., 1::2]


def turns(positions, dim):
    """exp(i · position · θ^(−2i/dim)), [..., dim/2]."""
    return np.exp(1j * np.asarray(positions, np.float64)[..., None] / THETA ** (np.arange(dim // 2) * 2 / dim))


@pytest.mark.parametrize("head_dim", [128, 32, 20, 6])
def test_3d_is_a_product_of_complex_numbers(head_dim):
    """128 = 44 + 42 + 42 channels for time, rows and columns in the published model."""
    grid, heads = (3, 4, 5), 2
    width = head_dim // 6 * 2
    x = np.random.default_rng(0).standard_normal((2, *grid, heads, head_dim)).astype(np.float32)
    t, h, w = np.meshgrid(*map(np.arange, grid), indexing="ij")
    factors = np.concatenate([turns(t, head_dim - 2 * width), turns(h, width), turns(w, width)], axis=-1)
    expected = as_complex(x) * factors[:, :, :, None]
    tokens = x.reshape(2, -1, heads, head_dim)
    cos, sin = rotary_3d(grid, head_dim)
    assert cos.shape == sin.shape == (60, head_dim // 2)
    assert cos.dtype == sin.dtype == np.float32
    turned = as_complex(rotate(jnp.asarray(tokens), cos, sin)).reshape(expected.shape)
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_first_token_stays_and_lengths_are_kept():
    cos, sin = rotary_3d((2, 3, 3), 24)
    x = jax.random.normal(jax.random.key(0), (1, 18, 1, 24))
    turned = rotate(x, cos, sin)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-6)
    assert not np.allclose(turned[:, 1:], x[:, 1:])


def test_products_depend_on_distances_only():
    """What rotary positions are for: q·k is the same wherever the pair of tokens stands."""
    q, k = (jax.random.normal(key, (1, 1, 1, 32)) for key in jax.random.split(jax.random.key(0)))

    def product(a, b):
        return jnp.sum(rotate(q, *rotary_1d(jnp.asarray([[a]]), 32)) * rotate(k, *rotary_1d(jnp.asarray([[b]]), 32)))

    np.testing.assert_allclose(product(2.0, 5.5), product(12.0, 15.5), rtol=1e-5)
    assert abs(product(2.0, 5.5) - product(2.0, 6.5)) > 1e-3


def test_1d_takes_real_positions():
    positions = np.random.default_rng(0).uniform(0, 24, (2, 7)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((2, 7, 3, 16)).astype(np.float32)
    turned = rotate(jnp.asarray(x), *rotary_1d(jnp.asarray(positions), 16))
    np.testing.assert_allclose(as_complex(turned), as_complex(x) * turns(positions, 16)[:, :, None], atol=1e-5)


def test_bfloat16_is_rounded_once():
    x = jax.random.normal(jax.random.key(0), (1, 12, 2, 24), jnp.bfloat16)
    tables = rotary_3d((3, 2, 2), 24)
    turned = rotate(x, *tables)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, rotate(x.astype(jnp.float32), *tables).astype(jnp.bfloat16))
