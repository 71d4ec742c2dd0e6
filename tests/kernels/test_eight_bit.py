"""8-bit attention: how far its specification is from exact attention, and on a GPU the kernel from its specification."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.kernels.attention import eight_bit, mosaic_fp8, reference


def inputs(queries, keys, heads=2, spread=1.0, offset=0.0):
    """q, k, v; `spread` of the logits, `offset` of all keys alike."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, n, heads, 128)) for n in (queries, keys, keys))
    return tuple(jnp.asarray(x, jnp.bfloat16) for x in (spread * q, k + offset * rng.standard_normal(128), v))


def error(ours, expected):
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(ours - expected) / np.linalg.norm(expected)


@pytest.fixture(autouse=True)
def full_precision():
    """Without it a GPU multiplies float32 as TF32."""
    with jax.default_matmul_precision("highest"):
        yield


# Logits of 1 are what normed queries and keys give; of 3, few keys share each result; of 300, one has it all or two nearly tie.
@pytest.mark.parametrize(("spread", "offset", "limit"), [(1.0, 0.0, 0.06), (1.0, 8.0, 0.06), (3.0, 0.0, 0.09), (300.0, 0.0, 0.4)])
def test_the_specification_against_exact_attention(spread, offset, limit):
    given = inputs(50, 300, spread=spread, offset=offset)
    out, lse = jax.jit(functools.partial(eight_bit.attention, return_lse=True))(*given)
    expected, expected_lse = reference.attention(*(x.astype(jnp.float32) for x in given), return_lse=True)
    assert out.dtype == jnp.bfloat16
    assert error(out, expected) < limit
    assert np.abs(lse - expected_lse).max() < 0.3 * spread


@pytest.mark.parametrize("length", [1, 31, 300])
def test_what_stands_behind_the_length_may_be_anything(length):
    q, k, v = inputs(50, 300)
    attend = jax.jit(functools.partial(eight_bit.attention, return_lse=True))
    behind = k.at[:, length:].set(100.0), v.at[:, length:].set(-100.0)
    for ours, alone in zip(attend(q, *behind, key_length=length), attend(q, k[:, :length], v[:, :length]), strict=True):
        np.testing.assert_allclose(np.float32(ours), np.float32(alone), rtol=2e-2, atol=1e-5)


def test_without_a_valid_key_the_result_is_zero():
    q, k, v = inputs(50, 64)
    out, lse = eight_bit.attention(q, k, v, key_length=jnp.int32(0), return_lse=True)
    np.testing.assert_array_equal(out, jnp.zeros_like(q))
    assert np.isneginf(lse).all()


def test_gradients_are_refused():
    x = jnp.zeros((1, 16, 1, 128), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match="8-bit attention has no gradient; train with attention 'cudnn'"):
        jax.eval_shape(jax.grad(lambda q: mosaic_fp8.attention(q, x, x).astype(jnp.float32).sum()), x)


CASES = [(50, 64, None), (130, 300, None), (1, 1, None), (130, 300, 129), (130, 300, 0), (1170, 32, None), (1000, 10_530, 10_001)]


@pytest.mark.gpu
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("queries", "keys", "length"), CASES)
def test_the_kernel_against_its_specification(queries, keys, length, static, apart, monkeypatch):
    chosen = mosaic_fp8.heuristic()
    monkeypatch.setattr(mosaic_fp8, "heuristic", lambda: mosaic_fp8.dataclasses.replace(chosen, apart=apart))
    given = inputs(queries, keys, spread=3.0, offset=2.0)
    given_length = length if static or length is None else jnp.int32(length)
    poison = jax.block_until_ready([jnp.full((1 << 24,), jnp.nan, jnp.float32) for _ in range(4)])
    del poison
    attend = jax.jit(
        lambda *x, length: mosaic_fp8.attention(*x, key_length=length, return_lse=True), static_argnames="length" if static else ()
    )
    out, lse = attend(*given, length=given_length)
    expected, expected_lse = jax.jit(functools.partial(eight_bit.attention, return_lse=True))(*given, key_length=given_length)
    np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(expected_lse))
    if length == 0:
        np.testing.assert_array_equal(out, expected)
        return
    # Numerators are rounded when not all keys were seen yet, so kernel and specification are equally far off, not equal; and the
    # tensor cores' sums of 8-bit products have about 14 bits.
    exact = jax.jit(reference.attention)(*(x.astype(jnp.float32) for x in given), key_length=given_length)
    assert error(out, exact) < 1.2 * error(expected, exact) + (2e-3 if apart else 2e-2)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-2)
