"""Pieces of work, and the transformer as such: what one device computes, reads and writes."""

import math
from typing import Literal, NamedTuple

from livetalk_jax.config import DiTConfig
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.shapes import Geometry

BF16, FLOAT32 = 2, 4
IMAGE_TOKENS = 257  # of CLIP's ViT-H/14


class Work(NamedTuple):
    """A piece of work.

    Attributes:
        kind: which efficiency it has; "decode" and "encode" are convolutions of the VAE.
        flops: of it.
        bytes: read and written.
        tiles: ways to cut it into tiles, of which a multiprocessor computes one at a time: (tiles, speed within a tile).
    """

    kind: Literal["matmul", "attention", "decode", "encode", "memory"]
    flops: float
    bytes: float
    tiles: tuple[tuple[int, float], ...] = ()

    def times(self, count: float) -> "Work":
        return self._replace(flops=self.flops * count, bytes=self.bytes * count)


# Columns of a matrix product's tiles of 128 rows, and how fast small ones are beside large ones.
TILE_COLUMNS = {256: 1.0, 192: 0.98, 128: 0.95}


def linear(rows: int, inner: int, outer: int) -> Work:
    """[rows, inner] · [inner, outer] in bf16."""
    traffic = BF16 * (rows * inner + inner * outer + rows * outer)
    tiles = tuple((math.ceil(rows / 128) * math.ceil(outer / columns), speed) for columns, speed in TILE_COLUMNS.items())
    return Work("matmul", 2.0 * rows * inner * outer, traffic, tiles)


def attention(queries: int, keys: int, heads: int, width: int, batch: int = 1) -> Work:
    """Fused attention, in tiles of 128 queries of a head."""
    traffic = BF16 * batch * heads * width * 2.0 * (queries + keys)
    tiles = batch * heads * math.ceil(queries / 128)
    return Work("attention", 4.0 * batch * queries * keys * heads * width, traffic, ((tiles, 1.0),))


def passes(rows: int, width: int, count: float) -> Work:
    """`count` reads or writes of [rows, width] in bf16."""
    return Work("memory", 0.0, BF16 * count * rows * width)


# Reads and writes of [tokens, D] in a block beside its matrix products and attention: two modulated norms (3 each), q and k
# normalised and turned (3 each), norms before both cross-attentions and of their queries (8), the sum of text and image (3), and
# what two gated residuals take beside the product's own result (2 each).
BLOCK_PASSES = 6 + 6 + 8 + 3 + 4


def tokens_held(plan: Plan, geometry: Geometry) -> int:
    """Tokens of a device, padding included."""
    h, w = plan.local_tokens(geometry.token_grid[1:])
    return geometry.token_grid[0] * h * w


def self_attention_work(config: DiTConfig, plan: Plan, geometry: Geometry) -> list[Work]:
    """Of one layer, beside the projections. Padding is never a key."""
    local = tokens_held(plan, geometry)
    heads = config.num_heads // plan.ulysses
    queries, keys = local * plan.ulysses, math.ceil(geometry.tokens / plan.ring)
    group = heads // plan.head_groups
    work = [attention(queries, keys, group, config.head_dim)] * (plan.ring * plan.head_groups)
    if plan.ulysses > 1:  # v and the result are put in the order that the exchange wants; q and k are on their way anyhow
        work.append(passes(local, config.dim, 4))
    if plan.ring > 1:  # every block's result is merged in float32: read in bf16, the sum read and written
        work.append(passes(local, config.dim, 5 * plan.ring))
    return work


def block_work(config: DiTConfig, plan: Plan, geometry: Geometry) -> list[Work]:
    """One transformer block on one device."""
    n, dim = tokens_held(plan, geometry), config.dim
    frames = geometry.token_grid[0]
    heads = (config.num_heads, config.head_dim)
    return [
        *[linear(n, dim, dim)] * 8,  # self: q, k, v, o; text and image: q, o; audio: q, o
        linear(n, dim, config.ffn_dim),
        linear(n, config.ffn_dim, dim),
        attention(n, config.text_len, *heads),
        attention(n, IMAGE_TOKENS, *heads),
        attention(n // frames, config.audio_context_tokens, *heads, batch=frames),
        passes(n, dim, BLOCK_PASSES),
        *self_attention_work(config, plan, geometry),
    ]


def step_work(config: DiTConfig, plan: Plan, geometry: Geometry) -> list[Work]:
    """One prediction of the velocity."""
    n = tokens_held(plan, geometry)
    ends = [linear(n, 4 * config.in_channels, config.dim), linear(n, config.dim, 4 * config.out_channels)]
    # Products with one row: their weights are read.
    time = [
        linear(1, inner, outer)
        for inner, outer in ((config.freq_dim, config.dim), (config.dim, config.dim), (config.dim, 6 * config.dim))
    ]
    return [*block_work(config, plan, geometry) * config.num_layers, *ends, *time]


def audio_work(config: DiTConfig, geometry: Geometry) -> list[Work]:
    """Audio keys and values of a chunk, whole on every device."""
    tokens = geometry.latent_grid[0] * config.audio_context_tokens
    return [linear(tokens, config.audio_output_dim, 2 * config.dim)] * config.num_layers
