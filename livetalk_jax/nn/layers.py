"""Layers shared by the networks. Parameters are kept in the dtype they are given; each layer says what it computes in float32."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class RMSNorm(nnx.Module):
    """x / rms(x) · scale over the last axis; the statistic is float32, the result has x's dtype."""

    def __init__(self, dim: int, *, eps: float, dtype=jnp.float32):
        self.scale = nnx.Param(jnp.ones((dim,), dtype))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normal = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.eps)
        return normal.astype(x.dtype) * self.scale[...].astype(x.dtype)


def standardize(x: jax.Array, eps: float) -> jax.Array:
    """(x − mean) / deviation over the last axis, float32."""
    wide = x.astype(jnp.float32)
    centered = wide - jnp.mean(wide, -1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.mean(jnp.square(centered), -1, keepdims=True) + eps)


class LayerNorm(nnx.Module):
    """Layer norm over the last axis with scale and bias; computed in float32, returned in x's dtype."""

    def __init__(self, dim: int, *, eps: float, dtype=jnp.float32):
        self.scale = nnx.Param(jnp.ones((dim,), dtype))
        self.bias = nnx.Param(jnp.zeros((dim,), dtype))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = standardize(x, self.eps) * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)
        return wide.astype(x.dtype)


class Linear(nnx.Module):
    """x·kernel + bias, kernel [in, out]; computed in `x`'s dtype with float32 accumulation."""

    def __init__(self, in_dim: int, out_dim: int, *, rngs: nnx.Rngs, use_bias: bool = True, dtype=jnp.float32):
        self.kernel = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (in_dim, out_dim), dtype))
        self.bias = nnx.Param(jnp.zeros((out_dim,), dtype)) if use_bias else None

    def prepare(self, x: jax.Array) -> Any:
        """x as several layers like this one take it: `quantization.QuantizedLinear` makes it small, here it stays as it is."""
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        out = x @ self.kernel[...].astype(x.dtype)
        return out if self.bias is None else out + self.bias[...].astype(x.dtype)


class MLP(nnx.Module):
    """Linear, activation, linear."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, activation, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.fc1 = Linear(in_dim, hidden_dim, rngs=rngs, dtype=dtype)
        self.fc2 = Linear(hidden_dim, out_dim, rngs=rngs, dtype=dtype)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        # As rows: with a batch of one between them, XLA does not make activation and quantisation part of the first 8-bit product.
        rows = x.reshape(-1, x.shape[-1])
        return self.fc2(self.activation(self.fc1(rows))).reshape(*x.shape[:-1], -1)


def gelu_tanh(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


def gelu_exact(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)
