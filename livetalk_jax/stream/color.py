"""Colour match: every frame of a chunk gets the mean and deviation of the portrait's Lab channels, so that colours do not drift.

Source: `match_and_blend_colors_torch` and its two conversions in SoulX-FlashTalk's
flash_talk/infinite_talk/utils/multitalk_utils.py, with their constants and clamps. All of it is computed in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel

RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]], np.float32
)
XYZ_TO_RGB = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]], np.float32
)
WHITE_D65 = np.array([0.95047, 1.0, 1.08883], np.float32)
EPSILON, KAPPA = 0.008856, 903.3  # where CIE's cube root turns into a straight line, and the slope of that

ROWS_AND_COLUMNS = (2, 3)


class LabStatistics(NamedTuple):
    """Mean and population deviation of L, a and b over rows and columns: each [B, F, 1, 1, 3], float32."""

    mean: jax.Array
    deviation: jax.Array


def _mix(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    # Three sums of products on the vector units: exact float32 on every device, where a matmul might round to TF32 or bfloat16.
    return jnp.stack([sum(matrix[row, column] * x[..., column] for column in range(3)) for row in range(3)], -1)


def rgb_to_lab(rgb: jax.Array) -> jax.Array:
    """sRGB in [0, 1] -> CIE Lab (D65), channels last."""
    linear = jnp.where(rgb > 0.04045, (jnp.maximum(rgb + 0.055, 0) / 1.055) ** 2.4, rgb / 12.92)
    xyz = jnp.clip(_mix(RGB_TO_XYZ, linear) / WHITE_D65, 1e-8, 1.0)
    fx, fy, fz = jnp.moveaxis(jnp.where(xyz > EPSILON, jnp.cbrt(xyz), (KAPPA * xyz + 16) / 116), -1, 0)
    return jnp.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], -1)


def lab_to_rgb(lab: jax.Array) -> jax.Array:
    """CIE Lab (D65) -> sRGB, clamped to [0, 1], channels last."""
    lightness, a, b = jnp.moveaxis(lab, -1, 0)
    fy = (lightness + 16) / 116
    fx, fz = a / 500 + fy, fy - b / 200

    def cube_or_line(f):
        return jnp.where(f**3 > EPSILON, f**3, (116 * f - 16) / KAPPA)

    y = jnp.where(lightness > KAPPA * EPSILON, fy**3, lightness / KAPPA)
    linear = _mix(XYZ_TO_RGB, jnp.stack([cube_or_line(fx), y, cube_or_line(fz)], -1) * WHITE_D65)
    curved = 1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.clip(jnp.where(linear > 0.0031308, curved, 12.92 * linear), 0.0, 1.0)


def _statistics(lab: jax.Array, parallel: Parallel) -> LabStatistics:
    mean = parallel.mean(lab, ROWS_AND_COLUMNS)
    return LabStatistics(mean, jnp.sqrt(parallel.mean(jnp.square(lab - mean), ROWS_AND_COLUMNS)))


def lab_statistics(reference: jax.Array, parallel: Parallel = ONE_DEVICE) -> LabStatistics:
    """What `match_colors` needs of the portrait; the same for a whole session.

    Args:
        reference: [B, 1, Y, X, 3] in [-1, 1].
    """
    return _statistics(rgb_to_lab((reference.astype(jnp.float32) + 1) / 2), parallel)


def match_colors(video: jax.Array, statistics: LabStatistics, strength: float, parallel: Parallel = ONE_DEVICE) -> jax.Array:
    """Move each frame's Lab mean and deviation to the portrait's, and blend with the frame as it was.

    Args:
        video: [B, F, Y, X, 3] in [-1, 1].
        statistics: of the portrait.
        strength: 0 (the video as it is) to 1 (fully matched); a number known when the function is traced.

    Returns:
        [B, F, Y, X, 3] in `video`'s dtype.

    Raises:
        ValueError: strength outside 0 to 1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"the strength of the colour match must lie between 0 and 1, not {strength}")
    if strength == 0:
        return video
    rgb = (video.astype(jnp.float32) + 1) / 2
    lab = rgb_to_lab(rgb)
    mean, deviation = _statistics(lab, parallel)
    # A frame of one colour only moves. The published bound of 1e-8 is below what float32 leaves of such a frame (the rounding of
    # its mean), which would then be stretched to a full deviation; a thousandth of a Lab unit is still far below one 8-bit step.
    flat = deviation < 1e-3
    matched = (lab - mean) * (statistics.deviation / jnp.where(flat, 1.0, deviation)) + statistics.mean
    blend = (1 - strength) * rgb + strength * lab_to_rgb(matched)
    return (2 * blend - 1).astype(video.dtype)
