"""8-bit linear layers: scales, rounding, and how far a product may be from the one in float64."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from livetalk_jax.benchmarks.kernels import poison
from livetalk_jax.kernels.linear import LARGEST, cublaslt, power_of_two, quantize, reference, scale_of, to_e4m3
from livetalk_jax.kernels.linear.specs import SPECS
from livetalk_jax.nn.quantization import QuantizedLinear
from livetalk_jax.stream.networks import GPU_OPTIONS

# Rounding to e4m3: half of the last of three bits.
STEP = 2.0**-4


def normal(seed, *shape, spread=1.0):
    return jnp.asarray(spread * np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def error(ours, expected):
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(ours - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("x", [2.0**-120, 0.3, 1.0, 1.0000001, 3.0, 1e30])
def test_power_of_two(x):
    assert float(power_of_two(jnp.float32(x))) == 2.0 ** np.ceil(np.log2(np.float32(x)))


def test_scale_of_zeros_is_one():
    assert scale_of(jnp.zeros((3, 4)), axis=-1).tolist() == [[1.0]] * 3


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_everything_fits_and_nothing_is_wasted(axis):
    x = normal(0, 40, 30, spread=1e4)
    scaled = np.abs(np.asarray(x / scale_of(x, axis))).max(axis)
    assert (scaled <= LARGEST).all() and (scaled > LARGEST / 2).all()


def test_round_trip():
    x = normal(0, 50, 60)
    scale = scale_of(x, axis=None)
    back = np.asarray(to_e4m3(x, scale), np.float64) * float(scale[0, 0])
    big = np.abs(x) > float(scale[0, 0]) * 2.0**-6  # below, e4m3's steps no longer shrink
    assert (np.abs(back - np.asarray(x))[big] <= STEP * np.abs(x)[big]).all()
    np.testing.assert_array_equal(to_e4m3(x, scale), np.asarray(x / scale).astype(ml_dtypes.float8_e4m3fn))


def test_what_is_too_large_is_clipped():
    assert to_e4m3(jnp.asarray([1e6, -1e6, 500.0]), jnp.float32(1.0)).astype(jnp.float32).tolist() == [448.0, -448.0, 448.0]


@pytest.mark.parametrize("rows", [1, 16, 37])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cublaslt_form_against_the_reference(rows, per_token, dtype):
    x, kernel, bias = normal(0, rows, 48).astype(dtype), normal(1, 48, 32, spread=0.2), normal(2, 32)
    weight, scale = quantize(kernel)
    divisor = scale_of(x, axis=-1) if per_token else jnp.float32(2**-4)
    args = (to_e4m3(x, divisor), divisor, weight, scale, bias, jnp.dtype(dtype))
    ours, expected = jax.jit(cublaslt.linear, static_argnums=5)(*args), reference.linear(*args)
    assert ours.dtype == expected.dtype == dtype and ours.shape == (rows, 32)
    assert error(ours, expected) < {"float32": 1e-5, "bfloat16": 6e-3}[dtype]


def test_error_of_a_layer():
    """Two roundings of relative size up to 1/16, independent from number to number: 1/16 · sqrt(1/3) · sqrt(2) at most."""
    x, kernel = normal(0, 64, 1024), normal(1, 1024, 256, spread=1 / 32)
    weight, scale = quantize(kernel)
    divisor = scale_of(x, axis=-1)
    out = cublaslt.linear(to_e4m3(x, divisor), divisor, weight, scale, None, jnp.float32)
    assert 0.01 < error(out, np.float64(x) @ np.float64(kernel)) < STEP * (2 / 3) ** 0.5


def row_errors(ours, expected):
    """The error of each row; of one that is zero, its size."""
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    size = np.linalg.norm(expected, axis=1)
    return np.linalg.norm(ours - expected, axis=1) / np.where(size == 0.0, 1.0, size)


@pytest.mark.parametrize("rows", [37, pytest.param(1, marks=pytest.mark.gpu), pytest.param(10_529, marks=pytest.mark.gpu)])
def test_small_and_large_rows(rows):
    """Each has its own scale: none is lost beside another, zeros stay zeros, and nothing is infinite or NaN."""
    magnitudes = np.resize([1.0, 0.0, 1e-30, 1e-5, 1e5, 1e30], (rows, 1))
    x, kernel = jnp.asarray(normal(0, rows, 528) * magnitudes, jnp.bfloat16), normal(1, 528, 272, spread=0.2)
    weight, scale = quantize(kernel)
    divisor = scale_of(x, axis=-1)
    args = (to_e4m3(x, divisor), divisor, weight, scale, None, jnp.dtype("bfloat16"))
    expected = reference.linear(*args)
    gpu = jax.default_backend() == "gpu"
    program = jax.jit(cublaslt.linear, static_argnums=5, compiler_options=GPU_OPTIONS if gpu else None)
    if gpu:
        poison()
    out = program(*args)
    assert row_errors(out, expected).max() < 6e-3
    assert row_errors(out, np.float64(x) @ np.float64(kernel)).max() < STEP


def test_what_is_too_large_for_a_fixed_scale_counts_as_the_largest():
    x, kernel = normal(0, 3, 48).at[1].mul(1e30), normal(1, 48, 32)
    weight, scale = quantize(kernel)
    one = jnp.float32(1.0)
    out = cublaslt.linear(to_e4m3(x, one), one, weight, scale, None, jnp.float32)
    clipped = jnp.clip(x, -LARGEST, LARGEST)
    assert np.isfinite(out).all()
    assert row_errors(out, np.float64(clipped) @ np.float64(kernel)).max() < 2 * STEP


@pytest.mark.parametrize("divisor", [None, 2.0**-4])
def test_gradients_are_refused(divisor):
    """But for what carries none."""
    layer = QuantizedLinear(*quantize(normal(1, 48, 32)), normal(2, 32), None if divisor is None else jnp.float32(divisor))
    x = normal(0, 5, 48)
    with pytest.raises(NotImplementedError, match=r"8-bit linear layers have no gradient; train with runtime\.linear 'native'"):
        jax.eval_shape(jax.grad(lambda x: layer(x).sum()), x)
    still = jax.grad(lambda x: (x * layer(jax.lax.stop_gradient(x)).sum()).sum())(x)
    np.testing.assert_allclose(still, np.full_like(x, layer(x).sum()), rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS)
def test_eight_bit_matmuls_form(spec):
    tokens, inputs, outputs = SPECS[spec]
    x, weight = normal(0, tokens, inputs).astype(jnp.bfloat16), to_e4m3(normal(1, outputs, inputs, spread=100.0), jnp.float32(1.0))
    fn = jax.jit(
        lambda x, weight: cublaslt.linear(
            to_e4m3(x, jnp.float32(0.5)), jnp.float32(0.5), weight, jnp.float32(2**-10), None, jnp.dtype("bfloat16")
        ),
        compiler_options=GPU_OPTIONS,
    )
    assert "__cublas$lt$matmul$f8" in fn.lower(x, weight).compile().as_text()
    expected = reference.linear(to_e4m3(x, jnp.float32(0.5)), jnp.float32(0.5), weight, jnp.float32(2**-10), None, jnp.bfloat16)
    poison()
    assert error(fn(x, weight), expected) < 6e-3
