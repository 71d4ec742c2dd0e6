"""Causal convolution over video [B, F, Y, X, C], the same layers for a whole video and for one that arrives piece by piece."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from livetalk_jax.parallel.seams import Parallel

GPU_NARROW = 64  # channels


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


def _cpu_conv2d(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """`_conv` of pictures. A row and a column of zeros keep JAX 0.10 from a library that takes up to ten times as long."""
    if kernel.shape[:2] == (1, 1):
        return _conv(x, kernel, strides)
    layout = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(x, kernel, strides, ((0, strides[0]), (0, strides[1])), dimension_numbers=layout)
    return out[:, :-1, :-1]


def _frames_as_channels(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], conv2d: Callable[..., jax.Array], group: int
) -> jax.Array:
    """`_conv` of a video as one 2D convolution, whose channels are those of all the frames that the kernel sees.

    `group` frames come out at once, with zeros in the kernel where a frame is not seen: more arithmetic, of a kind that is faster.
    """
    taps, (stride, *spatial), width = kernel.shape[0], strides, kernel.shape[-1]
    frames = (x.shape[1] - taps) // stride + 1
    groups, seen, step = -(-frames // group), stride * (group - 1) + taps, stride * group
    x = jnp.pad(x, ((0, 0), (0, max(0, step * (groups - 1) + seen - x.shape[1])), (0, 0), (0, 0), (0, 0)))
    x = jnp.concatenate([x[:, frame : frame + step * groups : step] for frame in range(seen)], axis=-1)
    later = [jnp.pad(kernel, ((stride * n, seen - taps - stride * n), *((0, 0),) * 4)) for n in range(group)]
    kernel = jnp.concatenate(later, axis=-1).transpose(1, 2, 0, 3, 4)  # [kh, kw, seen, in, group × out]
    kernel = kernel.reshape(*kernel.shape[:2], -1, group * width)
    out = conv2d(x.reshape(-1, *x.shape[2:]), kernel, tuple(spatial))
    out = out.reshape(x.shape[0], groups, *out.shape[1:3], group, width).transpose(0, 1, 4, 2, 3, 5)
    return out.reshape(x.shape[0], groups * group, *out.shape[3:])[:, :frames]


def _cpu_conv3d(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """`_conv` of a video. Four frames at once of narrow ones: half as much arithmetic again, at twice the speed."""
    group = 4 if kernel.shape[-1] < 16 and kernel.shape[0] > 1 else 1
    return _frames_as_channels(x, kernel, strides, _cpu_conv2d, group)


def _gpu_conv3d(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """`_conv` of a video. cuDNN is slow at narrow ones: the small VAE trains 1.7 times as fast with 64 channels made of frames."""
    if kernel.shape[0] == 1 or max(kernel.shape[-2:]) > GPU_NARROW:
        return _conv(x, kernel, strides)
    return _frames_as_channels(x, kernel, strides, _conv, GPU_NARROW // kernel.shape[-1])


class _Conv(nnx.Module):
    """Kernel [..., in, out] and bias; computed in the input's dtype."""

    def __init__(self, in_dim: int, out_dim: int, kernel: tuple[int, ...], *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.kernel = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (*kernel, in_dim, out_dim), dtype))
        self.bias = nnx.Param(jnp.zeros((out_dim,), dtype))

    def _convolve(self, x: jax.Array, strides: tuple[int, ...], unseen: int = 0) -> jax.Array:
        """Without padding, and without the first `unseen` of the kernel's frames. No preferred_element_type: on a GPU a wider one
        converts the inputs first."""
        kernel = self.kernel[unseen:].astype(x.dtype)
        cpu, gpu = (_cpu_conv2d, _conv) if len(strides) == 2 else (_cpu_conv3d, _gpu_conv3d)
        ways = {name: functools.partial(conv, strides=strides) for name, conv in {"cpu": cpu, "default": gpu}.items()}
        out = jax.lax.platform_dependent(x, kernel, **ways)
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
        taps, edge = self.kernel.shape[0], self.kernel.shape[1] // 2
        # Where a video begins, taps that would see nothing but the zeros before it are left out.
        unseen = max(0, taps - x.shape[1]) if past.begins and x.shape[1] else 0
        x = past.prepend(x, taps - 1)[:, unseen:]
        return self._convolve(parallel.pad_spatial(x, edge, edge) if edge else x, (1, 1, 1), unseen)
