"""wav2vec 2.0 speech encoder (arXiv 2006.11477) as InfiniteTalk uses it (`src/audio_analysis/wav2vec2.py`).

The convolutions give 50 features a second; they are interpolated to the video's frames before the transformer, and every layer's
output is kept. "Base" form: group norm behind the first convolution only, norms behind the residual sums.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.config import Wav2Vec2Config
from livetalk_jax.nn.layers import MLP, LayerNorm, Linear, gelu_exact
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel

GROUP_NORM_EPS = 1e-5
WAVEFORM_EPS = 1e-7


def normalize_waveform(waveform: jax.Array | np.ndarray) -> jax.Array:
    """[..., samples] -> float32 of zero mean and unit variance over the samples, as transformers' Wav2Vec2FeatureExtractor does."""
    waveform = jnp.asarray(waveform, jnp.float32)
    centred = waveform - jnp.mean(waveform, -1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + WAVEFORM_EPS)


def interpolate_frames(x: jax.Array, frames: int) -> jax.Array:
    """[B, n, C] -> [B, frames, C], linear in float32, first and last row kept (PyTorch's `align_corners=True`)."""
    last = x.shape[1] - 1
    # float32 as in PyTorch: over minutes of speech the coordinate's rounding shows.
    step = np.float32(last) / np.float32(max(frames - 1, 1))
    where = step * np.arange(frames, dtype=np.float32)
    low = np.minimum(where.astype(np.int32), last)
    share = (where - low)[:, None]
    wide = x.astype(jnp.float32)
    return (wide[:, low] * (1 - share) + wide[:, np.minimum(low + 1, last)] * share).astype(x.dtype)


class Conv1D(nnx.Module):
    """Convolution over time without padding or bias, kernel [taps, in, out]."""

    def __init__(self, taps: int, in_dim: int, out_dim: int, *, stride: int, rngs: nnx.Rngs, dtype):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (taps, in_dim, out_dim), dtype))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(x.dtype)
        return jax.lax.conv_general_dilated(x, kernel, (self.stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))


class ChannelNorm(nnx.Module):
    """Group norm of one group a channel: each channel is normalised over time, in float32."""

    def __init__(self, dim: int, *, dtype):
        self.scale = nnx.Param(jnp.ones((dim,), dtype))
        self.bias = nnx.Param(jnp.zeros((dim,), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        wide = wide - jnp.mean(wide, 1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), 1, keepdims=True) + GROUP_NORM_EPS)
        return (wide * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)


class PositionalConv(nnx.Module):
    """Grouped convolution that tells positions apart: kernel = weight_g · weight_v / |weight_v|, the norm taken for each tap."""

    def __init__(self, config: Wav2Vec2Config, *, rngs: nnx.Rngs, dtype):
        taps, dim, self.groups = config.pos_conv_kernel, config.hidden_size, config.pos_conv_groups
        weight = nnx.initializers.lecun_normal()(rngs.params(), (taps, dim // self.groups, dim), dtype)
        self.weight_v = nnx.Param(weight)
        self.weight_g = nnx.Param(jnp.linalg.norm(weight.astype(jnp.float32), axis=(1, 2), keepdims=True).astype(dtype))
        self.bias = nnx.Param(jnp.zeros((dim,), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        v, g = self.weight_v[...].astype(jnp.float32), self.weight_g[...].astype(jnp.float32)
        kernel = (v * (g / jnp.sqrt(jnp.sum(jnp.square(v), (1, 2), keepdims=True)))).astype(x.dtype)
        # Padding of taps // 2 on both sides; an even kernel then gives one frame too many, and the last is dropped.
        padding = [(kernel.shape[0] // 2, (kernel.shape[0] - 1) // 2)]
        out = jax.lax.conv_general_dilated(
            x, kernel, (1,), padding, dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=self.groups
        )
        return gelu_exact(out + self.bias[...].astype(x.dtype))


class Block(nnx.Module):
    def __init__(self, config: Wav2Vec2Config, *, rngs: nnx.Rngs, dtype):
        dim, self.num_heads = config.hidden_size, config.num_heads
        self.q, self.k, self.v, self.out = (Linear(dim, dim, rngs=rngs, dtype=dtype) for _ in range(4))
        self.norm = LayerNorm(dim, eps=config.eps, dtype=dtype)
        self.mlp = MLP(dim, config.intermediate_size, dim, gelu_exact, rngs=rngs, dtype=dtype)
        self.final_norm = LayerNorm(dim, eps=config.eps, dtype=dtype)

    def __call__(self, x: jax.Array, parallel: Parallel) -> jax.Array:
        q, k, v = (layer(x).reshape(*x.shape[:2], self.num_heads, -1) for layer in (self.q, self.k, self.v))
        x = self.norm(x + self.out(parallel.attend_local(q, k, v).reshape(x.shape)))
        return self.final_norm(x + self.mlp(x))


class Wav2Vec2(nnx.Module):
    """Speech to one feature a video frame and layer.

    Args:
        config: sizes; `Wav2Vec2Config.base()` is chinese-wav2vec2-base (94.4 M parameters).
        rngs: draws the initial weights.
        dtype: of the parameters.
    """

    def __init__(self, config: Wav2Vec2Config, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        widths = (1,) + (config.conv_dim,) * len(config.CONV_KERNELS)
        self.convs = nnx.List(
            [
                Conv1D(taps, in_dim, out_dim, stride=stride, rngs=rngs, dtype=dtype)
                for taps, stride, (in_dim, out_dim) in zip(config.CONV_KERNELS, config.CONV_STRIDES, pairwise(widths), strict=True)
            ]
        )
        self.conv_norm = ChannelNorm(config.conv_dim, dtype=dtype)
        self.projection_norm = LayerNorm(config.conv_dim, eps=config.eps, dtype=dtype)
        self.projection = Linear(config.conv_dim, config.hidden_size, rngs=rngs, dtype=dtype)
        self.pos_conv = PositionalConv(config, rngs=rngs, dtype=dtype)
        self.norm = LayerNorm(config.hidden_size, eps=config.eps, dtype=dtype)
        self.layers = nnx.List([Block(config, rngs=rngs, dtype=dtype) for _ in range(config.num_layers)])

    def __call__(self, input_values: jax.Array, frames: int, *, parallel: Parallel = ONE_DEVICE) -> jax.Array:
        """input_values [B, samples] at 16 kHz, from `normalize_waveform` -> [B, frames, layers, hidden_size].

        `frames` is static: how many video frames the samples last for. Computed in `input_values`' dtype; norms, softmax,
        interpolation and the weight norm in float32.

        Raises:
            ValueError: fewer samples than the convolutions span (400).
        """
        span = 1
        for conv in reversed(self.convs):
            span = (span - 1) * conv.stride + conv.kernel.shape[0]
        if input_values.shape[1] < span:
            raise ValueError(f"speech of {input_values.shape[1]} samples is too short for wav2vec2: it needs at least {span}")

        x = input_values[..., None]
        for index, conv in enumerate(self.convs):
            x = conv(x)
            x = gelu_exact(self.conv_norm(x) if index == 0 else x)
        x = self.projection(self.projection_norm(interpolate_frames(x, frames)))
        x = self.norm(x + self.pos_conv(x))
        states = []
        for layer in self.layers:
            x = layer(x, parallel)
            states.append(x)
        return jnp.stack(states, 2)
