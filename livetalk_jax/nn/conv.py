"""Causal convolution over video [B, F, Y, X, C], the same layers for a whole video and for one that arrives piece by piece."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from livetalk_jax.parallel.seams import Parallel


class Past:
    """The frames that each causal convolution saw last, in the order in which the convolutions run.

    `Past()` begins a video: nothing lies before its first frame. `Past(state)` goes on where the evaluation that left `state`
    ended. One object serves one evaluation, and `state` is then what the next one needs: an array [B, frames, Y, X, C] for each
    convolution, whose shapes do not depend on how many frames the evaluation had.
    """

    def __init__(self, state: Sequence[jax.Array] | None = None):
        self.begins = state is None
        self._before = iter(() if state is None else state)
        self._last: list[jax.Array] = []

    @property
    def state(self) -> tuple[jax.Array, ...]:
        return tuple(self._last)

    def prepend(self, x: jax.Array, frames: int) -> jax.Array:
        """[B, F, Y, X, C] -> [B, frames + F, Y, X, C]: x behind the frames before it, zeros where the video begins."""
        if self.begins:
            x = jnp.pad(x, ((0, 0), (frames, 0), (0, 0), (0, 0), (0, 0)))
        else:
            x = jnp.concatenate([next(self._before).astype(x.dtype), x], axis=1)
        self._last.append(x[:, x.shape[1] - frames :])
        return x


def pad_picture(x: jax.Array, low: int, high: int, parallel: Parallel) -> jax.Array:
    """Pad rows and columns of [B, F, Y, X, C] by what the neighbours hold, zeros at the picture's edge."""
    if low or high:
        x = parallel.pad_spatial(x, 2, low, high)
        x = parallel.pad_spatial(x, 3, low, high)
    return x


class Conv2d(nnx.Module):
    """Convolution of every frame; kernel [kh, kw, in, out], no padding."""

    def __init__(self, in_dim: int, out_dim: int, kernel: tuple[int, int], *, stride: int = 1, rngs: nnx.Rngs, dtype=jnp.float32):
        self.kernel = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (*kernel, in_dim, out_dim), dtype))
        self.bias = nnx.Param(jnp.zeros((out_dim,), dtype))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, F, Y, X, in] -> [B, F, (Y − kh) / stride + 1, (X − kw) / stride + 1, out]."""
        out = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[2:]),
            self.kernel[...].astype(x.dtype),
            window_strides=(self.stride, self.stride),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out.reshape(*x.shape[:2], *out.shape[1:]) + self.bias[...].astype(x.dtype)


class Conv3d(nnx.Module):
    """Convolution over frames, rows and columns; kernel [kt, kh, kw, in, out], no padding; `stride` counts frames."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel: tuple[int, int, int], *, stride: int = 1, rngs: nnx.Rngs, dtype=jnp.float32
    ):
        self.kernel = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (*kernel, in_dim, out_dim), dtype))
        self.bias = nnx.Param(jnp.zeros((out_dim,), dtype))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, F, Y, X, in] -> [B, (F − kt) / stride + 1, Y − kh + 1, X − kw + 1, out]."""
        out = jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            window_strides=(self.stride, 1, 1),
            padding="VALID",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        return out + self.bias[...].astype(x.dtype)


class CausalConv3d(Conv3d):
    """Convolution that keeps the video's size and sees no frame later than its own; odd kh = kw, stride 1."""

    def __init__(self, in_dim: int, out_dim: int, kernel: tuple[int, int, int], *, rngs: nnx.Rngs, dtype=jnp.float32):
        super().__init__(in_dim, out_dim, kernel, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, past: Past, parallel: Parallel) -> jax.Array:
        """[B, F, Y, X, in] -> [B, F, Y, X, out]."""
        frames, rows = self.kernel.shape[0] - 1, self.kernel.shape[1] // 2
        return super().__call__(pad_picture(past.prepend(x, frames), rows, rows, parallel))
