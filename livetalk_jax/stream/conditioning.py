"""What a session knows before anybody speaks: portrait, prompt, rotary tables and the persons' places."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from livetalk_jax.diffusion.sampler import Motion
from livetalk_jax.models.clip_vision import CLIPVision
from livetalk_jax.models.dit import ContextKV, DiT
from livetalk_jax.models.vae import VAE
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.parallel.layout import WHOLE, Layout
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel
from livetalk_jax.shapes import PATCH, VAE_STRIDE, Geometry
from livetalk_jax.stream.color import LabStatistics, lab_statistics

MASK_CHANNELS = VAE_STRIDE[0]


class Conditions(NamedTuple):
    """Everything of a session that stays the same from chunk to chunk.

    Attributes:
        reference: mask and reference latents [B, T, H, W, 20].
        context, negative: keys and values of prompt and portrait, and of the negative prompt (None without text guidance).
        color: Lab statistics of the portrait.
        rope: cos and sin [T, h, w, K/2].
        masks: with two persons [3, h·w], else None.
    """

    reference: jax.Array
    context: list[ContextKV]
    negative: list[ContextKV] | None
    color: LabStatistics
    rope: tuple[jax.Array, jax.Array]
    masks: jax.Array | None


def reference_video(portrait: jax.Array, frames: int, reference: Literal["first", "all"]) -> jax.Array:
    """What is encoded as reference, [B, F, Y, X, 3]: the portrait [B, 1, Y, X, 3], and blank frames or itself again."""
    following = jnp.zeros_like(portrait) if reference == "first" else portrait
    return jnp.concatenate([portrait, jnp.repeat(following, frames - 1, axis=1)], axis=1)


def mark_reference(latents: jax.Array) -> jax.Array:
    """Reference latents [B, T, H, W, 16] behind the mask that says which frame of them is the portrait itself: [B, T, H, W, 20]."""
    mask = jnp.zeros((*latents.shape[:-1], MASK_CHANNELS), latents.dtype).at[:, 0].set(1.0)
    return jnp.concatenate([mask, latents], axis=-1)


def first_motion(vae: VAE, portrait: jax.Array, geometry: Geometry, parallel: Parallel = ONE_DEVICE) -> Motion:
    """The portrait's latent as the only motion frame of the first chunk."""
    return portrait_motion(vae.encode(portrait, parallel=parallel), geometry.motion_latents)


def portrait_motion(latent: jax.Array, motion_latents: int) -> Motion:
    """`first_motion` of the portrait's latent [B, 1, H, W, 16]."""
    rest = jnp.zeros((latent.shape[0], motion_latents - 1, *latent.shape[2:]), latent.dtype)
    return Motion(jnp.concatenate([latent, rest], axis=1), jnp.int32(1))


def prepare(
    dit: DiT,
    vae: VAE,
    clip: CLIPVision,
    portrait: jax.Array,
    text: jax.Array,
    negative_text: jax.Array | None,
    masks: jax.Array | None,
    geometry: Geometry,
    reference: Literal["first", "all"],
    parallel: Parallel = ONE_DEVICE,
) -> tuple[Conditions, Motion]:
    """Conditions and first motion of a session, of the rows and columns that `parallel` holds here.

    Args:
        portrait: [B, 1, Y, X, 3] in [−1, 1], whole.
        text, negative_text: umT5 states [B, L, C], zero where there is no token.
        masks: `person_masks`, for two persons.
        reference: of the stream's configuration.
    """
    image = clip(portrait[:, 0], parallel=parallel)
    portrait = parallel.take_spatial(portrait, 2)
    cos, sin = (
        parallel.take_spatial(jnp.asarray(table).reshape(*geometry.token_grid, -1), 1)
        for table in rotary_3d(geometry.token_grid, dit.config.head_dim)
    )
    conditions = Conditions(
        reference=mark_reference(vae.encode(reference_video(portrait, geometry.frames, reference), parallel=parallel)),
        context=dit.context(text, image),
        negative=None if negative_text is None else dit.context(negative_text, image),
        color=lab_statistics(portrait, parallel),
        rope=(cos, sin),
        masks=masks,
    )
    return conditions, first_motion(vae, portrait, geometry, parallel)


def specs(layout: Layout) -> tuple[Conditions, Motion]:
    """How the results of `prepare` lie on a layout's devices."""
    conditions = Conditions(reference=layout.cut(2), context=WHOLE, negative=WHOLE, color=WHOLE, rope=layout.cut(1), masks=WHOLE)  # type: ignore[arg-type]
    return conditions, Motion(layout.cut(2), WHOLE)  # type: ignore[arg-type]


Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the image as given
_MARGIN = 0.05  # of a half picture, left free around a person when no boxes are given


def default_boxes(image_size: tuple[int, int]) -> tuple[Box, Box]:
    """The left and the right half of an image of (rows, columns), less a margin."""
    rows, columns = image_size
    half = columns // 2
    top, bottom = int(rows * _MARGIN), int(rows * (1 - _MARGIN))
    left, right = int(half * _MARGIN), int(half * (1 - _MARGIN))
    return (left, top, right, bottom), (half + left, top, half + right, bottom)


def person_masks(image_size: tuple[int, int], boxes: Sequence[Box], geometry: Geometry) -> np.ndarray:
    """Where each of two persons is: float32 [3, h·w], person 1, person 2 and background, 1 inside.

    The boxes go the way of the portrait: cover resize and centre crop to the video, then nearest neighbours down to tokens.

    Raises:
        ValueError: not two boxes, a box that is empty or leaves the image, or one that covers no token.
    """
    if len(boxes) != 2:
        raise ValueError(f"two persons need two boxes, not {len(boxes)}")
    rows, columns = image_size
    scale = max(geometry.height / rows, geometry.width / columns)
    scaled_rows, scaled_columns = math.ceil(scale * rows), math.ceil(scale * columns)
    top, left = round((scaled_rows - geometry.height) / 2), round((scaled_columns - geometry.width) / 2)
    _, h, w = geometry.token_grid
    cell_y, cell_x = VAE_STRIDE[1] * PATCH[1], VAE_STRIDE[2] * PATCH[2]
    # The pixel of the image that each token's first pixel comes from, in float32 like torch's nearest neighbours.
    y = np.floor(np.float32(np.arange(h) * cell_y + top) * (np.float32(rows) / np.float32(scaled_rows)))
    x = np.floor(np.float32(np.arange(w) * cell_x + left) * (np.float32(columns) / np.float32(scaled_columns)))
    masks = []
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        if not (0 <= x0 < x1 <= columns and 0 <= y0 < y1 <= rows):
            raise ValueError(f"box {number} ({x0},{y0},{x1},{y1}) is not left,top,right,bottom inside the {columns}×{rows} image")
        mask = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None, :]
        if not mask.any():
            raise ValueError(f"box {number} ({x0},{y0},{x1},{y1}) covers nothing of the cropped picture; make it larger")
        masks.append(mask)
    masks.append(~(masks[0] | masks[1]))
    return np.stack(masks).reshape(3, -1).astype(np.float32)
