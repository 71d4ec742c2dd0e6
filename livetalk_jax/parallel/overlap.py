"""The published way of running the VAE on several devices, for parity with it: overlapping tiles, computed apart and cropped.

A device takes its part of the picture and a margin of 2 latent rows and columns in decoding, 1 in encoding; at the picture's edge
both margins lie inwards. Convolutions reach farther than that, and the middle attention sees the tile only, so the pixels depend
on the grid. The split "halo" is exact.

Source: `WanVAE.decode_dist_2d` and `encode_dist_2d` in SoulX-FlashTalk's flash_talk/wan/modules/vae.py (as in LightX2V).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel
from livetalk_jax.parallel.spatial import COLUMNS, ROWS, Picture, Side

DECODE_MARGIN, ENCODE_MARGIN = 2, 1  # latents
PIXELS = 8  # of a latent


class _Tile(NamedTuple):
    """Latent rows or columns: the tile is [start, start + size), of which [start + skip, start + skip + keep) is kept."""

    start: jax.Array | int
    size: int
    skip: jax.Array | int
    keep: int


def _tile(side: Side, latents: int, margin: int) -> _Tile:
    if side.parts == 1:
        return _Tile(0, latents, 0, latents)
    keep = latents // side.parts
    size = keep + 2 * margin
    if latents % side.parts or size > latents:
        raise ValueError(f"{latents} latents on {side.parts} devices do not make equal tiles with margins of {margin}")
    first = jax.lax.axis_index(side.names) * keep
    start = jnp.clip(first - margin, 0, latents - size)
    return _Tile(start, size, first - start, keep)


@dataclasses.dataclass(frozen=True)
class OverlapVAE:
    """A VAE on the rows and columns that a device holds.

    Attributes:
        vae: its methods of the same names take whole pictures.
        picture: how pictures lie on devices.
    """

    vae: Any
    picture: Picture

    def decode(self, latents: jax.Array, *, parallel: Parallel) -> jax.Array:
        """Latents held here [B, T, H, W, z_dim] -> pixels held here [B, F, Y, X, 3], clipped to [-1, 1]."""
        return self.decode_first(latents, parallel=parallel)[0]

    def decode_first(self, latents: jax.Array, *, parallel: Parallel) -> tuple[jax.Array, Any]:
        """`decode` of a video that `decode_next` goes on with, and the cache of this device's tile."""
        return self._decode(self.vae.decode_first, latents)

    def decode_next(self, latents: jax.Array, cache: Any, *, parallel: Parallel) -> tuple[jax.Array, Any]:
        """`decode` of the latents that follow, and the cache."""
        return self._decode(lambda tile, parallel: self.vae.decode_next(tile, cache, parallel=parallel), latents)

    def _decode(self, decode: Callable[..., tuple[jax.Array, Any]], latents: jax.Array) -> tuple[jax.Array, Any]:
        def clipped(tile):
            video, cache = decode(tile, parallel=ONE_DEVICE)
            return jnp.clip(video, -1.0, 1.0), cache

        return self._by_tiles(clipped, latents, DECODE_MARGIN, 1, PIXELS)

    def encode(self, video: jax.Array, *, parallel: Parallel) -> jax.Array:
        """Pixels held here [B, F, Y, X, 3] -> latents held here [B, T, H, W, z_dim]."""

        def encode(tile):
            return self.vae.encode(tile, parallel=ONE_DEVICE), None

        return self._by_tiles(encode, video, ENCODE_MARGIN, PIXELS, 1)[0]

    def _by_tiles(
        self, compute: Callable[[jax.Array], tuple[jax.Array, Any]], x: jax.Array, margin: int, unit: int, out_unit: int
    ) -> tuple[jax.Array, Any]:
        """What `compute` makes of tiles, put together, and what else it returns of this device's.

        `unit`, `out_unit`: rows or columns of a latent in x and in the result.
        """
        # Tiles and the rows and columns held here need not be cut at the same places, so both ends go through the whole picture.
        whole = self.picture.gather(x.reshape(-1, *x.shape[2:]))
        tile = whole.reshape(*x.shape[:2], *whole.shape[1:])
        sides = {ROWS: self.picture.rows, COLUMNS: self.picture.columns}
        tiles = {axis: _tile(side, tile.shape[axis] // unit, margin) for axis, side in sides.items()}
        for axis, part in tiles.items():
            tile = jax.lax.dynamic_slice_in_dim(tile, part.start * unit, part.size * unit, axis)
        out, kept = compute(tile)
        for axis, part in tiles.items():
            out = jax.lax.dynamic_slice_in_dim(out, part.skip * out_unit, part.keep * out_unit, axis)
        every = jax.lax.all_gather(out, self.picture.names)
        every = every.reshape(*(side.parts for side in sides.values()), *out.shape)
        every = jnp.moveaxis(every, (0, 1), (ROWS, COLUMNS + 1))
        sizes = [side.parts * out.shape[axis] for axis, side in sides.items()]
        return self.picture.take(every.reshape(*out.shape[:2], *sizes, out.shape[-1]), ROWS), kept
