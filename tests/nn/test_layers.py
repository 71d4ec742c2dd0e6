"""The shared layers against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from livetalk_jax.models.keys import Keys
from livetalk_jax.nn.layers import MLP, LayerNorm, Linear, RMSNorm, gelu_exact, gelu_tanh, standardize

SHAPE = (2, 7, 24)


def random(shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def fill(module):
    """Every parameter random, norms' scales near one; seen from torch by their places in the tree."""
    for seed, (path, parameter) in enumerate(nnx.to_flat_state(nnx.state(module, nnx.Param))):
        value = random(parameter.shape, 100 + seed, 0.3) + (path[-1] == "scale")
        parameter.set_value(jnp.asarray(value, parameter.get_value().dtype))
    return module


call = nnx.jit(lambda module, x: module(x))


def tensor(parameter):
    return torch.from_numpy(np.array(parameter.get_value(), np.float32))


def linear(layer, x):
    return torch.nn.functional.linear(x, tensor(layer.kernel).T, None if layer.bias is None else tensor(layer.bias))


def close(ours, theirs, tolerance=1e-6):
    ours, theirs = np.asarray(ours, np.float64), theirs.double().numpy()
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) < tolerance * np.linalg.norm(theirs)


INPUTS = [random(SHAPE), random(SHAPE, scale=1e-3), random(SHAPE) + 300]


def rounding(x):
    """What float32 leaves of a deviation beside this mean. (A variance taken in one pass would lose the square of that ratio.)"""
    return 1e-6 * max(1.0, float(np.abs(x).max() / x.std()))


@pytest.mark.parametrize("x", INPUTS)
def test_rms_norm(x):
    norm = fill(RMSNorm(24, eps=1e-6))
    theirs = torch.nn.functional.rms_norm(torch.from_numpy(x), (24,), tensor(norm.scale), 1e-6)
    close(call(norm, x), theirs)


@pytest.mark.parametrize("x", INPUTS)
@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_layer_norm_and_standardize(x, eps):
    norm = fill(LayerNorm(24, eps=eps))
    wide = torch.from_numpy(x).double()
    scale, bias = tensor(norm.scale).double(), tensor(norm.bias).double()
    close(call(norm, x), torch.nn.functional.layer_norm(wide, (24,), scale, bias, eps), rounding(x))
    close(standardize(jnp.asarray(x), eps), torch.nn.functional.layer_norm(wide, (24,), eps=eps), rounding(x))


@pytest.mark.parametrize("use_bias", [True, False])
def test_linear(use_bias):
    layer = fill(Linear(24, 9, rngs=nnx.Rngs(0), use_bias=use_bias))
    assert (layer.bias is not None) == use_bias
    close(call(layer, random(SHAPE)), linear(layer, torch.from_numpy(random(SHAPE))))


@pytest.mark.parametrize(("ours", "theirs"), [(gelu_tanh, "tanh"), (gelu_exact, "none")])
def test_mlp_and_gelu(ours, theirs):
    mlp = fill(MLP(24, 40, 10, ours, rngs=nnx.Rngs(0)))
    x = torch.from_numpy(random(SHAPE, scale=2.0))
    expected = linear(mlp.fc2, torch.nn.functional.gelu(linear(mlp.fc1, x), approximate=theirs))
    close(call(mlp, x.numpy()), expected)
    # The two forms differ by up to 5e-4, so that this test tells them apart.
    other = torch.nn.functional.gelu(linear(mlp.fc1, x), approximate="none" if theirs == "tanh" else "tanh")
    with pytest.raises(AssertionError):
        close(call(mlp, x.numpy()), linear(mlp.fc2, other))


@pytest.mark.parametrize(
    "make",
    [
        lambda dtype: RMSNorm(24, eps=1e-6, dtype=dtype),
        lambda dtype: LayerNorm(24, eps=1e-6, dtype=dtype),
        lambda dtype: Linear(24, 9, rngs=nnx.Rngs(0), dtype=dtype),
        lambda dtype: MLP(24, 40, 10, gelu_tanh, rngs=nnx.Rngs(0), dtype=dtype),
    ],
    ids=["rms_norm", "layer_norm", "linear", "mlp"],
)
def test_computes_in_its_inputs_dtype(make):
    """Parameters keep the dtype they were made with; bfloat16 in, bfloat16 out, near float32."""
    coarse, fine = fill(make(jnp.bfloat16)), fill(make(jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(coarse))} == {jnp.dtype(jnp.bfloat16)}
    x = random(SHAPE)
    assert call(coarse, x).dtype == jnp.float32
    out = call(coarse, jnp.asarray(x, jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    close(out.astype(jnp.float32), torch.from_numpy(np.array(call(fine, x))), 1e-2)


def test_statistics_of_bfloat16_are_float32():
    """A mean of 300 leaves bfloat16 no digits for the deviation: it must not be taken in that dtype."""
    x = jnp.asarray(random(SHAPE) + 300, jnp.bfloat16)
    wide = np.array(x, np.float64)
    out = standardize(x, 1e-6)
    assert out.dtype == jnp.float32
    close(out, torch.nn.functional.layer_norm(torch.from_numpy(wide), (24,), eps=1e-6), rounding(wide))


def test_keys_are_those_of_flax():
    key = jax.random.key(3, impl="unsafe_rbg")
    ours, flax = Keys(key), nnx.Rngs(key)
    assert all(ours.params() == flax.params() for _ in range(3))
