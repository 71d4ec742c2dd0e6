"""The VAE as pieces of work: each convolution of a call, and the attention in the middle."""

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from livetalk_jax.benchmarks.cost.work import BF16, FLOAT32, Work, linear
from livetalk_jax.config import VAEConfig
from livetalk_jax.parallel.plan import Pair
from livetalk_jax.shapes import latent_frames


class Conv(NamedTuple):
    """A convolution: channels, taps in time and in each spatial direction, frames that it reads (with those before them) and
    writes, the rows and columns that it writes for each that a latent has times `scale`, and the spatial padding on either side."""

    in_dim: int
    out_dim: int
    time: int
    space: int
    read_frames: int
    frames: int
    scale: float
    low: int
    high: int
    stride: int = 1


def _causal(in_dim: int, out_dim: int, frames: int, scale: float, taps: int) -> Conv:
    return Conv(in_dim, out_dim, taps, 3, frames + taps - 1, frames, scale, 1, 1)


def _res(in_dim: int, out_dim: int, frames: int, scale: float, taps: int = 3) -> Iterator[Conv]:
    yield _causal(in_dim, out_dim, frames, scale, taps)
    yield _causal(out_dim, out_dim, frames, scale, taps)
    if in_dim != out_dim:
        yield Conv(in_dim, out_dim, 1, 1, frames, frames, scale, 0, 0)


def decoder_convs(config: VAEConfig, frames: int) -> Iterator[Conv]:
    """Of a decode to `frames` frames; scale 1 is a latent."""
    dims = [config.dim * multiplier for multiplier in reversed(config.dim_mult)]
    f, scale, width = latent_frames(frames), 1.0, dims[0]
    yield Conv(config.z_dim, width, 3, 3, f + 2, f, scale, 1, 1)
    for _ in range(2):
        yield from _res(width, width, f, scale)
    for level, dim in enumerate(dims):
        for _ in range(config.num_res_blocks + 1):
            yield from _res(width, dim, f, scale)
            width = dim
        if level < len(config.temporal_downsample):
            if config.temporal_downsample[::-1][level] and f > 1:
                yield Conv(dim, 2 * dim, 3, 1, f + 1, f - 1, scale, 0, 0)
                f = 2 * f - 1
            scale *= 2
            width = dim // 2
            yield Conv(dim, width, 1, 3, f, f, scale, 1, 1)
    yield Conv(width, 3, 3, 3, f + 2, f, scale, 1, 1)


def encoder_convs(config: VAEConfig, frames: int) -> Iterator[Conv]:
    """Of an encode of `frames` frames: of the first by itself, which sees no other, and of those that follow."""
    yield from _encoder_pass(config, 1, 1)
    if frames > 1:
        yield from _encoder_pass(config, frames - 1, 3)


def _encoder_pass(config: VAEConfig, frames: int, taps: int) -> Iterator[Conv]:
    dims = [config.dim * multiplier for multiplier in config.dim_mult]
    f, scale, width = frames, 8.0, config.dim
    yield _causal(3, width, f, scale, taps)
    for level, dim in enumerate(dims):
        for _ in range(config.num_res_blocks):
            yield from _res(width, dim, f, scale, taps)
            width = dim
        if level < len(config.temporal_downsample):
            scale /= 2
            yield Conv(dim, dim, 1, 3, f, f, scale, 0, 1, stride=2)
            if config.temporal_downsample[level] and taps > 1:
                yield Conv(dim, dim, 3, 1, f + 1, f // 2, scale, 0, 0)
                f //= 2
    for _ in range(2):
        yield from _res(width, width, f, scale, taps)
    yield _causal(width, 2 * config.z_dim, f, scale, taps)


# Measured on an H200: FLOP/s of norm, SiLU and a causal 3×3×3 convolution, by channels (docs/sharding.md).
CONV_RATES = {96: 403e12, 192: 517e12, 384: 640e12}


def conv_work(part: Literal["decode", "encode"], conv: Conv, rows: int, columns: int) -> Work:
    """On `rows` × `columns` latents, with the norm and activation before it; FLOPs as at the rate of 384 channels."""
    pixels = conv.frames * rows * columns * conv.scale**2
    flops = 2.0 * conv.time * conv.space**2 * conv.in_dim * conv.out_dim * pixels
    # Fewer channels than the tensor cores' 8 cost as much as 8.
    narrow = max(min(conv.in_dim, conv.out_dim), 8)
    below = max((c for c in CONV_RATES if c <= narrow), default=min(CONV_RATES))
    rate = CONV_RATES[below] * min(narrow / below, 1.0)
    traffic = BF16 * pixels * (conv.in_dim * conv.stride**2 + conv.out_dim)
    return Work(part, flops * CONV_RATES[384] / rate, traffic)


def vae_work(config: VAEConfig, part: Literal["decode", "encode"], frames: int, local: Pair, whole: Pair) -> list[Work]:
    """One call on a device that holds `local` (rows, columns) of the latents and attends to `whole` in the middle."""
    convs = decoder_convs(config, frames) if part == "decode" else encoder_convs(config, frames)
    dim, f = config.dim * config.dim_mult[-1], latent_frames(frames)
    queries, keys = math.prod(local), math.prod(whole)
    # The middle attention, frame by frame and not fused: float32 scores are written, read twice and written again.
    scores = Work("matmul", 4.0 * queries * keys * dim * f, 4.0 * FLOAT32 * queries * keys * f)
    return [
        *(conv_work(part, conv, *local) for conv in convs),
        linear(f * queries, dim, 3 * dim),
        linear(f * queries, dim, dim),
        scores,
    ]
