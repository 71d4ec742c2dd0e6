"""Drawing with soft shapes: masks that know where they lie, and layers that are painted through them.

Coordinates are shares of the drawing, x to the right and y down: (0.5, 0.414) lies between the eyes of every person. A `Grid` says
which part of the drawing is held as pixels, and how densely.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt, gaussian_filter

Points = Sequence[tuple[float, float]] | np.ndarray
Color = tuple[float, float, float] | np.ndarray

FINE = 3  # outlines are filled this many times finer than the grid, and averaged


def smooth(points: Points, closed: bool = True, samples: int = 24) -> np.ndarray:
    """A spline through `points`: [samples · points, 2]."""
    points = np.asarray(points, float)
    if closed:
        points = np.concatenate([points, points[:1]])
    steps = np.concatenate([[0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1)))])
    spline = CubicSpline(steps, points, bc_type="periodic" if closed else "natural")
    return spline(np.linspace(0, steps[-1], samples * len(points)))


def mirrored(half: Points) -> np.ndarray:
    """Close a right half, given as (distance from the middle, y) from top to bottom, by its mirror image."""
    half = np.asarray(half, float)
    left = half[::-1] * [-1, 1]
    skip_bottom, skip_top = int(half[-1, 0] == 0), int(half[0, 0] == 0)
    return np.concatenate([half, left[skip_bottom : len(left) - skip_top]]) + np.array([0.5, 0])


@dataclasses.dataclass(frozen=True)
class Mask:
    """How much of each pixel a shape covers, 0 to 1, in the rectangle outside of which it covers nothing.

    Attributes:
        values: float32 [rows, columns].
        top, left: of the rectangle on its grid.
    """

    values: np.ndarray
    top: int
    left: int

    @property
    def place(self) -> tuple[slice, slice]:
        rows, columns = self.values.shape
        return slice(self.top, self.top + rows), slice(self.left, self.left + columns)

    def __mul__(self, other: "Mask | np.ndarray | float") -> "Mask":
        """Where both are; an array is one of the whole grid."""
        if isinstance(other, np.ndarray):
            return Mask(self.values * other[self.place], self.top, self.left)
        if not isinstance(other, Mask):
            return Mask(self.values * np.float32(other), self.top, self.left)
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.values.shape[0], other.top + other.values.shape[0])
        right = min(self.left + self.values.shape[1], other.left + other.values.shape[1])
        both = [
            mask.values[
                top - mask.top : max(bottom - mask.top, top - mask.top), left - mask.left : max(right - mask.left, left - mask.left)
            ]
            for mask in (self, other)
        ]
        return Mask(both[0] * both[1], top, left)

    def __pow__(self, exponent: float) -> "Mask":
        return Mask(self.values**exponent, self.top, self.left)

    def without(self, other: "Mask") -> "Mask":
        """Where this is and `other` is not."""
        values = self.values.copy()
        both = self * other
        rows, columns = both.values.shape
        values[both.top - self.top : both.top - self.top + rows, both.left - self.left : both.left - self.left + columns] -= (
            both.values
        )
        return Mask(values, self.top, self.left)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A part of the drawing as pixels.

    Attributes:
        left, top: coordinates of its corner.
        step: width of a pixel.
        rows, columns: pixels.
    """

    left: float
    top: float
    step: float
    rows: int
    columns: int

    @functools.cached_property
    def x(self) -> np.ndarray:
        """Pixel centres, [1, columns]."""
        return (self.left + self.step * (np.arange(self.columns, dtype=np.float32) + 0.5))[None]

    @functools.cached_property
    def y(self) -> np.ndarray:
        """Pixel centres, [rows, 1]."""
        return (self.top + self.step * (np.arange(self.rows, dtype=np.float32) + 0.5))[:, None]

    def window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """The pixels that touch a rectangle, cut to the grid."""
        columns = [np.clip(int(np.floor((x - self.left) / self.step)), 0, self.columns) for x in (left, right + self.step)]
        rows = [np.clip(int(np.floor((y - self.top) / self.step)), 0, self.rows) for y in (top, bottom + self.step)]
        return slice(*map(int, rows)), slice(*map(int, columns))

    def part(self, rows: slice, columns: slice) -> "Grid":
        left, top = self.left + columns.start * self.step, self.top + rows.start * self.step
        return Grid(left, top, self.step, rows.stop - rows.start, columns.stop - columns.start)

    def spot(self, x: float, y: float, rx: float, ry: float | None = None) -> Mask:
        """A soft round spot, 1 in the middle."""
        ry = ry or rx
        rows, columns = self.window(x - 3 * rx, y - 3 * ry, x + 3 * rx, y + 3 * ry)
        across = np.exp(-(((self.x[:, columns] - x) / rx) ** 2))
        return Mask(np.exp(-(((self.y[rows] - y) / ry) ** 2)) * across, rows.start, columns.start)

    def fill(self, outline: Points, blur: float = 0.0) -> Mask:
        """The inside of an outline, its edge blurred over a distance."""
        points = np.asarray(outline, float)
        reach = 3 * blur + 2 * self.step
        rows, columns = self.window(*(points.min(0) - reach), *(points.max(0) + reach))
        size = ((columns.stop - columns.start) * FINE, (rows.stop - rows.start) * FINE)
        if not size[0] or not size[1]:
            return Mask(np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32), rows.start, columns.start)
        image = Image.new("L", size)
        corner = (self.left + columns.start * self.step, self.top + rows.start * self.step)
        # Pillow's pixel i spans i - 0.5 to i + 0.5.
        ImageDraw.Draw(image).polygon([tuple(p) for p in (points - corner) / (self.step / FINE) - 0.5], fill=255)
        values = np.asarray(image.reduce(FINE), np.float32) / 255
        return Mask(self.blurred(values, blur), rows.start, columns.start)

    def stroke(self, points: Points, width: float, blur: float = 0.0, taper: tuple[float, float] = (1.0, 1.0)) -> Mask:
        """A brush line whose width is `width`, times `taper` at its two ends."""
        line = smooth(points, closed=False)
        along = np.linspace(0, 1, len(line))
        widths = width * np.interp(along, [0, 0.4, 0.6, 1], [taper[0], 1, 1, taper[1]]) / 2
        tangent = np.gradient(line, axis=0)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1, keepdims=True)
        return self.fill(np.concatenate([line + normal * widths[:, None], (line - normal * widths[:, None])[::-1]]), blur)

    def lines(self, lines: Sequence[np.ndarray], widths: Sequence[float] | np.ndarray, blur: float) -> np.ndarray:
        """Many fine lines at once: float32 [rows, columns]."""
        image = Image.new("L", (self.columns * 2, self.rows * 2))
        draw = ImageDraw.Draw(image)
        for line, width in zip(lines, widths, strict=True):
            points = (line - [self.left, self.top]) / (self.step / 2)
            draw.line([tuple(p) for p in points], fill=255, width=max(1, round(2 * width / self.step)))
        return self.blurred(np.asarray(image.reduce(2), np.float32) / 255, blur)

    def blurred(self, values: np.ndarray, distance: float) -> np.ndarray:
        return gaussian_filter(values, distance / self.step, truncate=3.0) if distance else values

    def moved(self, mask: Mask, x: float, y: float, blur: float) -> Mask:
        """The mask shifted by a whole number of pixels next to (x, y), and blurred, cut to the grid: a shadow."""
        margin = int(np.ceil(3 * blur / self.step))
        values = self.blurred(np.pad(mask.values, margin), blur)
        top, left = mask.top - margin + round(y / self.step), mask.left - margin + round(x / self.step)
        cut_top, cut_left = max(-top, 0), max(-left, 0)
        values = values[cut_top : max(self.rows - top, 0), cut_left : max(self.columns - left, 0)]
        return Mask(values, top + cut_top, left + cut_left)

    def rounded(self, mask: Mask, radius: float, light: tuple[float, float, float]) -> Mask:
        """How bright a cushion of this outline is under a soft lamp: 0 to 1."""
        if min(mask.values.shape) < 2:
            return mask
        inside = np.clip(distance_transform_edt(mask.values > 0.5) / (radius / self.step), 0, 1).astype(np.float32)
        height = self.blurred(np.sqrt(1 - (1 - inside) ** 2), 0.012) * radius
        slope_y, slope_x = np.gradient(height, self.step)
        towards = np.asarray(light, np.float32) / np.linalg.norm(light)
        lit = (-towards[0] * slope_x - towards[1] * slope_y + towards[2]) / np.sqrt(slope_x**2 + slope_y**2 + 1)
        return Mask(np.clip(lit, 0, 1), mask.top, mask.left)

    def noise(self, rng: np.random.Generator, size: float) -> np.ndarray:
        """Smooth noise with bumps of about `size`, whatever the pixels' size; mean 0, deviation 1: float32 [rows, columns]."""
        height, width = (max(4, round(3 * n * self.step / size)) for n in (self.rows, self.columns))
        coarse = gaussian_filter(rng.standard_normal((height, width)), 1.2, mode="wrap").astype(np.float32)
        coarse = (coarse - coarse.mean()) / coarse.std()
        return np.asarray(Image.fromarray(coarse).resize((self.columns, self.rows), Image.Resampling.BICUBIC))


class Layer:
    """Colours with how much they cover: `pixels` float32 [rows, columns, 4], colours of 0 to 255 times the cover of 0 to 1."""

    def __init__(self, grid: Grid):
        self.pixels: np.ndarray = np.zeros((grid.rows, grid.columns, 4), np.float32)

    def paint(self, color: Color, mask: Mask, opacity: float = 1.0) -> None:
        """Cover what is below."""
        part = self.pixels[mask.place]
        amount = (np.clip(mask.values, 0, 1) * np.float32(opacity))[..., None]
        part += (np.array([*color, 1], np.float32) - part) * amount

    def tint(self, color: Color, mask: Mask, opacity: float = 1.0) -> None:
        """Mix a colour in without covering more than was covered."""
        part = self.pixels[mask.place]
        amount = (np.clip(mask.values, 0, 1) * np.float32(opacity))[..., None]
        part[..., :3] += (np.asarray(color, np.float32) * part[..., 3:] - part[..., :3]) * amount

    def shade(self, factor: Color | float, mask: Mask) -> None:
        """Multiply by `factor` (a number, or one for each colour) where the mask is 1."""
        self.pixels[mask.place][..., :3] *= 1 + (np.asarray(factor, np.float32) - 1) * np.clip(mask.values, 0, 1)[..., None]
