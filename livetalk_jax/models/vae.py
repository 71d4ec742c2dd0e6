"""The causal 3D VAE of Wan2.1: 4×8×8 compression of video, whole or as a stream.

Published: Wan2.1 `wan/modules/vae.py` (arXiv 2503.20314). It walks through a video in pieces (one frame, then four at a time; one
latent frame at a time in decoding) and keeps the frames that each convolution needs from the piece before. Here a video is one
evaluation with the same numbers, and `decode_first` and `decode_next` give the published pieces; both run the same layers.
Videos are [B, F, Y, X, 3] in [-1, 1], latents [B, T, H, W, z_dim], normalised by the published mean and deviation.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from livetalk_jax.config import VAEConfig
from livetalk_jax.nn.conv import CausalConv3d, Conv2d, Conv3d, Past
from livetalk_jax.nn.layers import Linear
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel
from livetalk_jax.shapes import VAE_STRIDE, latent_frames

SCORES = 1 << 24  # that the middle attention holds at a time, but for a single frame with more

Cache = tuple[jax.Array, ...]
"""State of a streaming decode: for each causal convolution of the decoder, in the order in which they run, its last two input
frames [B, 2, rows, columns, C]. Shapes follow from the latent's batch, rows and columns alone, so a second `decode_next` compiles
nothing."""


class ChannelNorm(nnx.Module):
    """x / max(‖x‖, 1e-12) · √C · scale over the channels; computed in float32, returned in x's dtype."""

    def __init__(self, dim: int, *, dtype=jnp.float32):
        self.scale = nnx.Param(jnp.ones((dim,), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        norm = jnp.sqrt(jnp.sum(jnp.square(wide), -1, keepdims=True))
        factor = x.shape[-1] ** 0.5 / jnp.maximum(norm, 1e-12)
        # Kept apart on a GPU, or XLA makes the norm a kernel that the padding behind it cannot join: 20 of 92 GB that a decode at
        # 720×416 moves. On a CPU it would cost a pass.
        factor = jax.lax.platform_dependent(factor, cpu=lambda x: x, default=jax.lax.optimization_barrier)
        return (wide * factor * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class ResidualBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the shortcut is a projection where the width changes."""

    def __init__(self, in_dim: int, out_dim: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.norm1 = ChannelNorm(in_dim, dtype=dtype)
        self.conv1 = CausalConv3d(in_dim, out_dim, (3, 3, 3), rngs=rngs, dtype=dtype)
        self.norm2 = ChannelNorm(out_dim, dtype=dtype)
        self.conv2 = CausalConv3d(out_dim, out_dim, (3, 3, 3), rngs=rngs, dtype=dtype)
        self.shortcut = Linear(in_dim, out_dim, rngs=rngs, dtype=dtype) if in_dim != out_dim else None

    def __call__(self, x: jax.Array, past: Past, parallel: Parallel) -> jax.Array:
        """[B, F, Y, X, in] -> [B, F, Y, X, out]."""
        h = self.conv1(jax.nn.silu(self.norm1(x)), past, parallel)
        h = self.conv2(jax.nn.silu(self.norm2(h)), past, parallel)
        return h + (x if self.shortcut is None else self.shortcut(x))


class FrameAttention(nnx.Module):
    """Single-head attention among the pixels of each frame, added to its input."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.norm = ChannelNorm(dim, dtype=dtype)
        self.qkv = Linear(dim, 3 * dim, rngs=rngs, dtype=dtype)
        self.proj = Linear(dim, dim, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, past: Past, parallel: Parallel) -> jax.Array:
        """[B, F, H, W, C] -> the same."""
        dim = x.shape[-1]
        qkv = self.qkv(self.norm(x)).reshape(-1, *x.shape[2:4], 3 * dim)
        query, key_value = qkv[..., :dim], parallel.gather_spatial(qkv[..., dim:])

        def attend(frame):
            # A head this wide has no fused kernel.
            q, k, v = (part.reshape(1, -1, 1, dim) for part in (frame[0], frame[1][..., :dim], frame[1][..., dim:]))
            return jax.nn.dot_product_attention(q, k, v, implementation="xla")

        # Frame by frame where pictures are large: the scores of one are 4680 × 4680 numbers at 720×416. Small ones all at once.
        at_once = max(1, SCORES // (math.prod(query.shape[1:3]) * math.prod(key_value.shape[1:3])))
        return x + self.proj(jax.lax.map(attend, (query, key_value), batch_size=at_once).reshape(x.shape))


class Downsample(nnx.Module):
    """Halve rows and columns and, with `temporal`, the frames after the first."""

    def __init__(self, dim: int, *, temporal: bool, rngs: nnx.Rngs, dtype=jnp.float32):
        self.conv = Conv2d(dim, dim, (3, 3), rngs=rngs, dtype=dtype)
        self.time_conv = Conv3d(dim, dim, (3, 1, 1), rngs=rngs, dtype=dtype) if temporal else None

    def __call__(self, x: jax.Array, past: Past, parallel: Parallel) -> jax.Array:
        """[B, F, Y, X, C] -> [B, F, Y / 2, X / 2, C]; with `temporal` F / 2 frames, or (F + 1) / 2 where the video begins."""
        x = self.conv(parallel.pad_spatial(x, 0, 1), stride=2)
        if self.time_conv is None:
            return x
        # The first frame of a video stays alone; each later output sees frames 2n, 2n + 1, 2n + 2.
        seen = past.prepend(x, 1)
        if not past.begins:
            return self.time_conv(seen, stride=2)
        return jnp.concatenate([x[:, :1], self.time_conv(x, stride=2)], axis=1)


class Upsample(nnx.Module):
    """Double rows and columns, halve the channels and, with `temporal`, double the frames after the video's first."""

    def __init__(self, dim: int, *, temporal: bool, rngs: nnx.Rngs, dtype=jnp.float32):
        self.time_conv = CausalConv3d(dim, 2 * dim, (3, 1, 1), rngs=rngs, dtype=dtype) if temporal else None
        self.conv = Conv2d(dim, dim // 2, (3, 3), rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, past: Past, parallel: Parallel) -> jax.Array:
        """[B, F, Y, X, C] -> [B, F, 2Y, 2X, C / 2]; with `temporal` 2F frames, or 2F − 1 where the video begins."""
        if self.time_conv is not None:
            # The first frame of a video passes as it is, and the convolution does not see it: its past begins with the second.
            alone = 1 if past.begins else 0
            pairs = self.time_conv(x[:, alone:], past, parallel)
            pairs = jnp.stack(jnp.split(pairs, 2, axis=-1), axis=2).reshape(x.shape[0], -1, *x.shape[2:])
            x = jnp.concatenate([x[:, :alone], pairs], axis=1)
        batch, frames, rows, columns, dim = x.shape
        x = jnp.broadcast_to(x[:, :, :, None, :, None], (batch, frames, rows, 2, columns, 2, dim))
        x = x.reshape(batch, frames, 2 * rows, 2 * columns, dim)
        return self.conv(parallel.pad_spatial(x, 1, 1))


def _middle(dim: int, **options) -> nnx.List:
    return nnx.List([ResidualBlock(dim, dim, **options), FrameAttention(dim, **options), ResidualBlock(dim, dim, **options)])


class Encoder(nnx.Module):
    """Video to mean and log-variance of the latents."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        options = {"rngs": rngs, "dtype": dtype}
        dims = [config.dim * multiplier for multiplier in config.dim_mult]
        self.conv_in = CausalConv3d(3, config.dim, (3, 3, 3), **options)
        self.downsamples: nnx.List = nnx.List()
        in_dim = config.dim
        for level, dim in enumerate(dims):
            for _ in range(config.num_res_blocks):
                self.downsamples.append(ResidualBlock(in_dim, dim, **options))
                in_dim = dim
            if level < len(config.temporal_downsample):
                self.downsamples.append(Downsample(dim, temporal=config.temporal_downsample[level], **options))
        self.middle = _middle(in_dim, **options)
        self.norm_out = ChannelNorm(in_dim, dtype=dtype)
        self.conv_out = CausalConv3d(in_dim, 2 * config.z_dim, (3, 3, 3), **options)

    def __call__(self, x: jax.Array, past: Past, parallel: Parallel) -> jax.Array:
        """[B, F, Y, X, 3] -> [B, T, H, W, 2·z_dim]."""
        x = self.conv_in(x, past, parallel)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, past, parallel)
        return self.conv_out(jax.nn.silu(self.norm_out(x)), past, parallel)


class Decoder(nnx.Module):
    """Latents to video."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        options = {"rngs": rngs, "dtype": dtype}
        dims = [config.dim * multiplier for multiplier in reversed(config.dim_mult)]
        temporal = config.temporal_downsample[::-1]
        in_dim = dims[0]
        self.conv_in = CausalConv3d(config.z_dim, in_dim, (3, 3, 3), **options)
        self.middle = _middle(in_dim, **options)
        self.upsamples: nnx.List = nnx.List()
        for level, dim in enumerate(dims):
            for _ in range(config.num_res_blocks + 1):
                self.upsamples.append(ResidualBlock(in_dim, dim, **options))
                in_dim = dim
            if level < len(temporal):
                self.upsamples.append(Upsample(dim, temporal=temporal[level], **options))
                in_dim = dim // 2
        self.norm_out = ChannelNorm(in_dim, dtype=dtype)
        self.conv_out = CausalConv3d(in_dim, 3, (3, 3, 3), **options)

    def __call__(self, x: jax.Array, past: Past, parallel: Parallel) -> jax.Array:
        """[B, T, H, W, z_dim] -> [B, F, Y, X, 3]."""
        x = self.conv_in(x, past, parallel)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, past, parallel)
        return self.conv_out(jax.nn.silu(self.norm_out(x)), past, parallel)


class VAE(nnx.Module):
    """Encoder and decoder with the latents' normalisation.

    Args:
        config: architecture; its strides must be the 4×8×8 of `shapes.VAE_STRIDE`.
        rngs: keys for the initial weights.
        dtype: of the parameters; activations have the dtype of the input.

    Raises:
        ValueError: the configuration has other strides.
    """

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        levels = len(config.temporal_downsample)
        strides = (2 ** sum(config.temporal_downsample), 2**levels, 2**levels)
        if strides != VAE_STRIDE or len(config.dim_mult) != levels + 1:
            raise ValueError(
                f"temporal_downsample {config.temporal_downsample} with dim_mult {config.dim_mult} does not give the VAE's 4×8×8: "
                "it must have three entries, two of them true, and dim_mult one more"
            )
        self.config = config
        self.encoder = Encoder(config, rngs=rngs, dtype=dtype)
        self.quant = Linear(2 * config.z_dim, 2 * config.z_dim, rngs=rngs, dtype=dtype)
        self.post_quant = Linear(config.z_dim, config.z_dim, rngs=rngs, dtype=dtype)
        self.decoder = Decoder(config, rngs=rngs, dtype=dtype)

    def encode(self, video: jax.Array, *, parallel: Parallel = ONE_DEVICE) -> jax.Array:
        """Mean of the latents of a video.

        Args:
            video: [B, F, Y, X, 3] in [-1, 1]; F is 4n+1, Y and X multiples of 8.

        Returns:
            [B, T, H, W, z_dim], normalised, in the video's dtype.

        Raises:
            ValueError: a size does not fit.
        """
        latent_frames(video.shape[1])
        if video.shape[2] % VAE_STRIDE[1] or video.shape[3] % VAE_STRIDE[2]:
            raise ValueError(f"a picture of {video.shape[2]}×{video.shape[3]} does not fit the VAE: both must be multiples of 8")
        past = Past()
        # The first frame apart: what it sees is zeros but for itself, and a convolution of its own leaves them out.
        moments = self.encoder(video[:, :1], past, parallel)
        if video.shape[1] > 1:
            # One after the other, or XLA merges the matrix products of both and copies what goes in and comes out.
            rest, moments = jax.lax.optimization_barrier((video[:, 1:], moments))
            moments = jnp.concatenate([moments, self.encoder(rest, Past(past.state), parallel)], axis=1)
        mean = self.quant(moments)[..., : self.config.z_dim]
        shift, scale = self._statistics()
        return ((mean - shift) / scale).astype(video.dtype)

    def decode(self, latents: jax.Array, *, parallel: Parallel = ONE_DEVICE) -> jax.Array:
        """[B, T, H, W, z_dim] normalised -> [B, 4T − 3, 8H, 8W, 3], not clamped, in the latents' dtype."""
        return self.decode_first(latents, parallel=parallel)[0]

    def decode_first(self, latents: jax.Array, *, parallel: Parallel = ONE_DEVICE) -> tuple[jax.Array, Cache]:
        """Begin a streaming decode.

        Args:
            latents: [B, T, H, W, z_dim], normalised; T is 1 for the least delay.

        Returns:
            Frames [B, 4T − 3, 8H, 8W, 3], and the cache for `decode_next`.
        """
        return self._decode(latents, Past(), parallel)

    def decode_next(self, latents: jax.Array, cache: Cache, *, parallel: Parallel = ONE_DEVICE) -> tuple[jax.Array, Cache]:
        """Go on with a streaming decode.

        Args:
            latents: [B, T, H, W, z_dim], the ones that follow; T is 1 for the least delay.
            cache: of the call before.

        Returns:
            Frames [B, 4T, 8H, 8W, 3], and the cache for the next call.
        """
        return self._decode(latents, Past(cache), parallel)

    def _decode(self, latents: jax.Array, past: Past, parallel: Parallel) -> tuple[jax.Array, Cache]:
        shift, scale = self._statistics()
        z = (latents * scale + shift).astype(latents.dtype)
        video = self.decoder(self.post_quant(z), past, parallel)
        return video, past.state

    def _statistics(self) -> tuple[jax.Array, jax.Array]:
        return jnp.asarray(self.config.latent_mean, jnp.float32), jnp.asarray(self.config.latent_std, jnp.float32)
