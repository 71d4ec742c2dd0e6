"""Causal convolution over video [B, F, Y, X, C], the same layers for a whole video and for one that arrives piece by piece."""

import functools
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


def _conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    depth = "D" * (len(strides) - 2)  # two strides: rows and columns; three: frames before them
    layout = (f"N{depth}HWC", f"{depth}HWIO", f"N{depth}HWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=layout)


def _frame_by_frame(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """`_conv` of a video as a sum of 2D convolutions, one for each frame of the kernel."""
    taps, (stride, *spatial) = kernel.shape[0], strides
    frames = (x.shape[1] - taps) // stride + 1
    parts = [x[:, tap : tap + stride * (frames - 1) + 1 : stride] for tap in range(taps)]
    convolved = [_conv(part.reshape(-1, *part.shape[2:]), kernel[tap], tuple(spatial)) for tap, part in enumerate(parts)]
    out = functools.reduce(jnp.add, convolved)
    return out.reshape(x.shape[0], frames, *out.shape[1:])


class _Conv(nnx.Module):
    """Kernel [..., in, out] and bias; computed in the input's dtype."""

    def __init__(self, in_dim: int, out_dim: int, kernel: tuple[int, ...], *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.kernel = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (*kernel, in_dim, out_dim), dtype))
        self.bias = nnx.Param(jnp.zeros((out_dim,), dtype))

    def _convolve(self, x: jax.Array, strides: tuple[int, ...]) -> jax.Array:
        """Without padding. No preferred_element_type: on a GPU a wider one converts the inputs first."""
        kernel = self.kernel[...].astype(x.dtype)
        if len(strides) == 2:
            out = _conv(x, kernel, strides)
        else:
            # XLA's 3D convolution on a CPU takes three times as long as one 2D convolution for each frame of the kernel.
            out = jax.lax.platform_dependent(
                x,
                kernel,
                cpu=functools.partial(_frame_by_frame, strides=strides),
                default=functools.partial(_conv, strides=strides),
            )
        return out + self.bias[...].astype(x.dtype)


class Conv2d(_Conv):
    """Convolution of every frame without padding; kernel [kh, kw, in, out]."""

    def __call__(self, x: jax.Array, stride: int = 1) -> jax.Array:
        """[B, F, Y, X, in] -> [B, F, (Y − kh) / stride + 1, (X − kw) / stride + 1, out]."""
        out = self._convolve(x.reshape(-1, *x.shape[2:]), (stride, stride))
        return out.reshape(*x.shape[:2], *out.shape[1:])


class Conv3d(_Conv):
    """Convolution over frames, rows and columns without padding; kernel [kt, kh, kw, in, out]."""

    def __call__(self, x: jax.Array, stride: int = 1) -> jax.Array:
        """[B, F, Y, X, in] -> [B, (F − kt) / stride + 1, Y − kh + 1, X − kw + 1, out]; `stride` counts frames."""
        return self._convolve(x, (stride, 1, 1))


class CausalConv3d(_Conv):
    """Convolution that keeps the video's size and sees no frame later than its own; kernel [kt, kh, kw, in, out], odd kh = kw."""

    def __call__(self, x: jax.Array, past: Past, parallel: Parallel) -> jax.Array:
        """[B, F, Y, X, in] -> [B, F, Y, X, out]."""
        frames, edge = self.kernel.shape[0] - 1, self.kernel.shape[1] // 2
        x = past.prepend(x, frames)
        return self._convolve(parallel.pad_spatial(x, edge, edge) if edge else x, (1, 1, 1))
