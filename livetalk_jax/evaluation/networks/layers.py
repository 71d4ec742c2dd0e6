"""Layers of published classifiers: convolution, batch norm as it is after training, pooling, resizing.

Arrays are channels last, [B, (F,) Y, X, C] float32. Every statistic is a parameter: these networks are never trained here.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.conversion.table import SAME, Rule

Padding = str | int | Sequence[int]
"""Zeros beside each axis: the same on all, one number an axis, or "SAME" as TensorFlow counts them (the odd one behind)."""


def pads(shape: Sequence[int], kernel: Sequence[int], strides: Sequence[int], padding: Padding) -> list[tuple[int, int]]:
    """Before and behind of the axes between batch and channels."""
    if isinstance(padding, str):
        return list(jax.lax.padtype_to_pads(shape[1:-1], kernel, strides, padding))
    each = (padding,) * len(kernel) if isinstance(padding, int) else padding
    return [(amount, amount) for amount in each]


class Conv(nnx.Module):
    """Convolution, kernel [(kt,) kh, kw, in, out]."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel: tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: Padding = 0,
        dilation: int = 1,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (*kernel, in_dim, out_dim)))
        self.bias = nnx.Param(jnp.zeros((out_dim,))) if use_bias else None
        self.strides = (stride,) * len(kernel) if isinstance(stride, int) else stride
        self.padding, self.dilation = padding, dilation

    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = pads(x.shape, self.kernel.shape[:-2], self.strides, self.padding)
        axes = "DHW"[-len(zeros) :]
        layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
        spread = (self.dilation,) * len(zeros)
        kernel = self.kernel[...]
        out = jax.lax.conv_general_dilated(x, kernel, self.strides, zeros, rhs_dilation=spread, dimension_numbers=layout)
        return out if self.bias is None else out + self.bias[...]


class BatchNorm(nnx.Module):
    """(x − mean) / √(variance + eps) · scale + bias, over the last axis."""

    def __init__(self, dim: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((dim,)))
        self.bias = nnx.Param(jnp.zeros((dim,)))
        self.mean = nnx.Param(jnp.zeros((dim,)))
        self.variance = nnx.Param(jnp.ones((dim,)))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.scale[...] * jax.lax.rsqrt(self.variance[...] + self.eps)
        return x * scale + (self.bias[...] - self.mean[...] * scale)


def batch_norm_rules(published: str, ours: str) -> tuple[Rule, ...]:
    """Of a table: PyTorch's names of a `BatchNorm` at these two paths."""
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    return tuple(Rule(f"{published}.{theirs}", f"{ours}.{name}", SAME) for theirs, name in names.items())


def max_pool(x: jax.Array, kernel: tuple[int, ...], stride: int | tuple[int, ...], padding: Padding = 0) -> jax.Array:
    """Largest value of every window; beyond the edge there is nothing."""
    strides = (stride,) * len(kernel) if isinstance(stride, int) else stride
    around = [(0, 0), *pads(x.shape, kernel, strides, padding), (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *kernel, 1), (1, *strides, 1), around)


def mean_pool(x: jax.Array, kernel: tuple[int, ...], padding: Padding = 0) -> jax.Array:
    """Mean of every window, stride 1, over the values that the picture has there."""
    ones = (1,) * len(kernel)
    around = [(0, 0), *pads(x.shape, kernel, ones, padding), (0, 0)]

    def total(array):
        return jax.lax.reduce_window(array, 0.0, jax.lax.add, (1, *kernel, 1), (1, *ones, 1), around)

    return total(x) / total(jnp.ones((1, *x.shape[1:-1], 1)))


def resize_bilinear(x: jax.Array | np.ndarray, height: int, width: int) -> jax.Array:
    """[..., Y, X, C] -> [..., height, width, C], pixel centres, without antialias (PyTorch's `align_corners=False`)."""
    return jax.image.resize(x, (*x.shape[:-3], height, width, x.shape[-1]), "linear", antialias=False)
