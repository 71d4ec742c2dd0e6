"""RMS norm and rotary positions in one: the reference against the layers, and Triton's kernel against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.kernels.norm_rope import norm_rope
from livetalk_jax.nn.layers import RMSNorm
from livetalk_jax.nn.rotary import rotary_3d, rotate


def inputs(tokens, dim, head_dim, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, tokens, dim)), dtype)
    weight = jnp.asarray(1 + 0.1 * rng.standard_normal(dim), dtype)
    cos, sin = (jnp.asarray(table)[:tokens] for table in rotary_3d((3, 5, 7), head_dim))
    return x, weight, cos, sin


def error(ours, expected):
    ours, expected = np.asarray(ours, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(ours - expected) / np.linalg.norm(expected)


def test_reference_against_the_layers():
    x, weight, cos, sin = inputs(100, 96, 24, "float32")
    norm = RMSNorm(96, eps=1e-6)
    norm.scale[...] = weight
    expected = rotate(norm(x).reshape(2, 100, 4, 24), cos, sin)
    assert error(norm_rope(x, weight, cos, sin, eps=1e-6), expected) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize(("dim", "head_dim"), [(5120, 128), (1536, 128), (96, 32)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_triton_against_the_reference(dim, head_dim, dtype):
    pytest.importorskip("jax_triton", reason="jax-triton is not installed")
    from livetalk_jax.kernels.norm_rope import triton

    args = inputs(100, dim, head_dim, dtype)
    out = jax.jit(lambda *a: triton.norm_rope(*a, eps=1e-6))(*args)
    assert error(out, norm_rope(*args, eps=1e-6)) < {"float32": 1e-6, "bfloat16": 6e-3}[dtype]
