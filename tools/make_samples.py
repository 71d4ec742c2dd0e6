"""Draw livetalk_jax/samples/portrait.png and synthesise livetalk_jax/samples/speech.flac.

    python tools/make_samples.py

Needs espeak-ng for the speech (`apt-get install espeak-ng`, made with 1.51); the portrait needs NumPy, SciPy and Pillow.
Both are the same every time.
"""

import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt, gaussian_filter

from livetalk_jax.media import SAMPLES, load_audio
from livetalk_jax.stream.audio import normalize_loudness

TEXT = (
    "Hello! I am a drawing, and a machine made my voice. "
    "Live Talk takes one portrait and live speech, and shows a person who talks."
)

SIZE = 512
SCALE = 4  # drawn four times as large
FULL = SIZE * SCALE


# Shapes. Coordinates are fractions of the picture, x to the right and y down; masks are float32 [FULL, FULL] in [0, 1].


def smooth(points, closed=True, samples=60):
    """A spline through `points`."""
    points = np.asarray(points, float)
    if closed:
        points = np.concatenate([points, points[:1]])
    steps = np.concatenate([[0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1)))])
    spline = CubicSpline(steps, points, bc_type="periodic" if closed else "natural")
    return spline(np.linspace(0, steps[-1], samples * len(points)))


def mirrored(half):
    """Close a right half, given as (distance from the middle, y) from top to bottom, by its mirror image."""
    half = np.asarray(half, float)
    left = half[::-1] * [-1, 1]
    skip_bottom, skip_top = int(half[-1, 0] == 0), int(half[0, 0] == 0)
    whole = np.concatenate([half, left[skip_bottom : len(left) - skip_top]])
    return whole + np.array([0.5, 0])


def blurred(mask, radius):
    return gaussian_filter(mask, radius * FULL) if radius else mask


def fill(outline, blur=0.0):
    image = Image.new("L", (FULL, FULL))
    ImageDraw.Draw(image).polygon([tuple(point) for point in np.asarray(outline) * FULL], fill=255)
    return blurred(np.asarray(image, np.float32) / 255, blur)


def stroke(points, width, blur=0.0, taper=(1.0, 1.0)):
    """A brush line whose width is `width`, times `taper` at its two ends."""
    line = smooth(points, closed=False)
    along = np.linspace(0, 1, len(line))
    widths = width * np.interp(along, [0, 0.4, 0.6, 1], [taper[0], 1, 1, taper[1]]) / 2
    tangent = np.gradient(line, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1, keepdims=True)
    return fill(np.concatenate([line + normal * widths[:, None], (line - normal * widths[:, None])[::-1]]), blur)


Y, X = np.mgrid[0:FULL, 0:FULL].astype(np.float32) / FULL


def spot(x, y, rx, ry=None):
    """A soft round spot, 1 in the middle."""
    return np.exp(-(((X - x) / rx) ** 2) - ((Y - y) / (ry or rx)) ** 2)


def rounded(mask, radius, light=(-0.45, -0.55, 0.7)):
    """How bright a cushion of this outline is under a soft lamp: 0 to 1."""
    inside = np.clip(distance_transform_edt(mask > 0.5) / (radius * FULL), 0, 1).astype(np.float32)
    height = gaussian_filter(np.sqrt(1 - (1 - inside) ** 2), 0.012 * FULL) * radius
    slope_y, slope_x = np.gradient(height, 1 / FULL)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(height)])
    normal /= np.linalg.norm(normal, axis=0)
    return np.clip(np.tensordot(np.asarray(light) / np.linalg.norm(light), normal, 1), 0, 1)


class Canvas:
    def __init__(self):
        self.pixels = np.zeros((FULL, FULL, 3), np.float32)

    def paint(self, color, mask, opacity=1.0):
        self.pixels += (np.asarray(color, np.float32) - self.pixels) * (np.clip(mask, 0, 1) * opacity)[..., None]

    def shade(self, factor, mask):
        """Multiply by `factor` (a number, or one for each colour) where the mask is 1."""
        self.pixels *= 1 + (np.asarray(factor, np.float32) - 1) * np.clip(mask, 0, 1)[..., None]


SKIN, SKIN_DARK, SKIN_LIGHT = (226, 172, 142), (168, 104, 82), (250, 212, 184)
HAIR, HAIR_DARK, HAIR_LIGHT = (74, 46, 36), (38, 23, 20), (142, 94, 66)
SWEATER, SWEATER_DARK, SWEATER_LIGHT = (44, 96, 112), (20, 52, 66), (92, 150, 162)

FACE = [
    (0, 0.195), (0.085, 0.21), (0.135, 0.265), (0.152, 0.345), (0.151, 0.425), (0.143, 0.5), (0.12, 0.57), (0.08, 0.63),
    (0.036, 0.66), (0, 0.665),
]  # fmt: skip


def background(canvas, rng):
    canvas.pixels[:] = np.array((176, 172, 164), np.float32)
    canvas.paint((222, 214, 200), spot(0.22, 0.2, 0.62, 0.7), 0.9)
    canvas.paint((104, 112, 120), np.clip(X * 0.75 + Y * 0.55 - 0.45, 0, 1), 0.75)
    plaster = gaussian_filter(rng.standard_normal((FULL // 8, FULL // 8)), 2.2) + 2 * gaussian_filter(
        rng.standard_normal((FULL // 8, FULL // 8)), 9
    )
    plaster = np.asarray(Image.fromarray(plaster.astype(np.float32)).resize((FULL, FULL), Image.Resampling.BICUBIC))
    canvas.pixels += 3.2 * (plaster / plaster.std())[..., None]


def hair_strands(canvas, mask, rng, inner, outer, count, colors):
    """Fine lines from root to tip between two edges of the hair, kept within the mask."""
    along = np.linspace(0, 1, 40)
    inner, outer = (smooth(edge, closed=False, samples=40) for edge in (inner, outer))
    inner, outer = (edge[(along * (len(edge) - 1)).round().astype(int)] for edge in (inner, outer))
    layers = [Image.new("L", (FULL, FULL)) for _ in colors]
    draws = [ImageDraw.Draw(layer) for layer in layers]
    for _ in range(count):
        line = inner + (outer - inner) * rng.uniform(0, 1) + rng.normal(0, 0.0015, 2)
        begin, length = rng.uniform(-0.2, 0.85), rng.uniform(0.2, 0.5)
        chosen = line[(along >= begin) & (along <= begin + length)] * FULL
        draws[rng.integers(len(colors))].line([tuple(point) for point in chosen], fill=255, width=int(rng.integers(3, 8)))
    for layer, color in zip(layers, colors, strict=True):
        canvas.paint(color, gaussian_filter(np.asarray(layer, np.float32) / 255, 2.5) * mask, 0.34)


def back_hair(canvas, rng):
    outline = mirrored(
        [
            (0, 0.085), (0.1, 0.1), (0.175, 0.165), (0.212, 0.27), (0.218, 0.4), (0.228, 0.52), (0.243, 0.64), (0.232, 0.735),
            (0.185, 0.77), (0.1, 0.76), (0, 0.75),
        ]
    )  # fmt: skip
    mask = fill(smooth(outline), 0.0015)
    canvas.shade(0.72, blurred(np.roll(mask, (20, 34), (0, 1)), 0.02))
    canvas.paint(HAIR_DARK, mask)
    canvas.paint(HAIR, mask * rounded(mask, 0.09) ** 1.4)
    for side in (-1, 1):
        edges = [
            [(0.06, 0.13), (0.13, 0.35), (0.13, 0.58), (0.11, 0.76)],
            [(0.16, 0.13), (0.225, 0.35), (0.245, 0.58), (0.2, 0.78)],
        ]
        inner, outer = ([(0.5 + side * x, y) for x, y in edge] for edge in edges)
        hair_strands(canvas, mask, rng, inner, outer, 300, [HAIR, HAIR_LIGHT, HAIR_DARK])


def body(canvas, rng):
    neck = fill(smooth(mirrored([(0.085, 0.55), (0.082, 0.66), (0.086, 0.74), (0.12, 0.8), (0.1, 0.9), (0, 0.93)])), 0.001)
    canvas.paint(SKIN, neck)
    canvas.shade((0.72, 0.62, 0.58), neck * np.clip((X - 0.5) * 5.5 + 0.25, 0, 1))
    canvas.shade((0.6, 0.47, 0.43), neck * spot(0.51, 0.655, 0.13, 0.062))
    canvas.paint(SKIN_LIGHT, neck * spot(0.465, 0.775, 0.035, 0.04), 0.35)
    for side in (-1, 1):  # collar bones
        bone = stroke([(0.5 + side * 0.018, 0.815), (0.5 + side * 0.06, 0.8), (0.5 + side * 0.11, 0.798)], 0.007, 0.004, (0.6, 0))
        canvas.shade((0.84, 0.75, 0.71), bone * neck)
    sweater = fill(
        np.concatenate(
            [
                smooth(
                    mirrored([(0.085, 0.775), (0.13, 0.768), (0.22, 0.805), (0.33, 0.85), (0.4, 0.93), (0.43, 1.05)])[:6],
                    closed=False,
                ),
                smooth(
                    mirrored([(0.085, 0.775), (0.13, 0.768), (0.22, 0.805), (0.33, 0.85), (0.4, 0.93), (0.43, 1.05)])[6:],
                    closed=False,
                ),
                smooth(
                    [(0.415, 0.775), (0.43, 0.82), (0.465, 0.853), (0.5, 0.862), (0.535, 0.853), (0.57, 0.82), (0.585, 0.775)],
                    closed=False,
                ),
            ]
        ),
        0.001,
    )
    canvas.shade(0.7, blurred(sweater, 0.012) * neck)
    canvas.paint(SWEATER_DARK, sweater)
    light = rounded(sweater, 0.16, (-0.5, -0.6, 0.6))
    canvas.paint(SWEATER, sweater * np.clip(1.25 * light, 0, 1))
    canvas.paint(SWEATER_LIGHT, sweater * spot(0.27, 0.87, 0.14, 0.09), 0.4)
    knit = 0.5 + 0.5 * np.sin(2 * np.pi * (X * 78 + 0.12 * np.sin(2 * np.pi * Y * 60)))
    canvas.shade(0.93, sweater * knit * (Y < 1))
    for points in (
        [(0.3, 1.0), (0.315, 0.945), (0.335, 0.9)],
        [(0.7, 1.0), (0.69, 0.945), (0.668, 0.9)],
        [(0.42, 1.0), (0.435, 0.96), (0.46, 0.93)],
        [(0.6, 1.0), (0.585, 0.965), (0.56, 0.935)],
    ):
        canvas.shade(0.72, sweater * stroke(points, 0.016, 0.007, (1, 0.1)))
    collar = [(0.412, 0.772), (0.428, 0.822), (0.463, 0.857), (0.5, 0.867), (0.537, 0.857), (0.572, 0.822), (0.588, 0.772)]
    canvas.shade(0.6, sweater * stroke(np.add(collar, (0, 0.012)), 0.03, 0.006))
    canvas.paint((58, 116, 132), stroke(collar, 0.021, 0.0008) * (1 - fill(smooth(mirrored(FACE)))))
    canvas.shade(0.78, stroke(np.add(collar, (0, 0.0095)), 0.003, 0.0012))


def face(canvas):
    mask = fill(smooth(mirrored(FACE)), 0.0012)
    light = rounded(mask, 0.13, (-0.38, -0.42, 0.82))
    canvas.paint(SKIN_DARK, mask)
    canvas.paint(SKIN, mask * np.clip(light * 1.25 - 0.02, 0, 1) ** 1.1)
    canvas.paint(SKIN_LIGHT, mask * spot(0.455, 0.29, 0.1, 0.06), 0.5)  # forehead
    canvas.paint(SKIN_LIGHT, mask * spot(0.4, 0.475, 0.042, 0.036), 0.5)  # cheeks
    canvas.paint(SKIN_LIGHT, mask * spot(0.592, 0.475, 0.034, 0.034), 0.28)
    canvas.paint(SKIN_LIGHT, mask * spot(0.487, 0.628, 0.03, 0.018), 0.42)  # chin
    canvas.shade((0.84, 0.76, 0.72), mask * np.clip((X - 0.575) * 9, 0, 1) * np.clip((0.68 - Y) * 6, 0, 1))
    for side, strength in ((-1, 0.34), (1, 0.38)):
        canvas.paint((222, 118, 104), mask * spot(0.5 + side * 0.088, 0.497, 0.045, 0.032), strength)
    canvas.shade((0.88, 0.8, 0.77), mask * spot(0.5, 0.606, 0.034, 0.009))  # below the lower lip
    return mask


def nose(canvas):
    canvas.shade(
        (0.85, 0.76, 0.71), stroke([(0.527, 0.395), (0.519, 0.43), (0.524, 0.475), (0.537, 0.507)], 0.022, 0.009, (0.7, 1))
    )
    canvas.shade((0.9, 0.84, 0.8), stroke([(0.472, 0.39), (0.478, 0.42)], 0.018, 0.008))
    canvas.paint(SKIN_LIGHT, stroke([(0.494, 0.385), (0.493, 0.44), (0.494, 0.49)], 0.013, 0.006, (0.5, 1)), 0.55)
    canvas.paint((255, 232, 214), spot(0.492, 0.497, 0.011, 0.009), 0.75)
    canvas.shade(
        (0.76, 0.62, 0.57),
        stroke([(0.462, 0.514), (0.48, 0.524), (0.5, 0.529), (0.52, 0.524), (0.538, 0.514)], 0.011, 0.0045, (0.5, 0.6)),
    )
    for side in (-1, 1):
        canvas.shade(
            (0.72, 0.58, 0.53),
            stroke(
                [(0.5 + side * 0.03, 0.493), (0.5 + side * 0.039, 0.506), (0.5 + side * 0.033, 0.519)], 0.005, 0.0022, (0.1, 0.6)
            ),
        )
        canvas.shade(
            (0.46, 0.3, 0.27),
            stroke(
                [(0.5 + side * 0.01, 0.5215), (0.5 + side * 0.018, 0.518), (0.5 + side * 0.027, 0.521)], 0.0065, 0.0016, (0.5, 0.5)
            ),
        )


def eye(canvas, side):
    x = 0.5 + side * 0.069

    def at(points):
        return [(x + side * 1.12 * dx, 0.414 + 1.15 * dy) for dx, dy in points]

    canvas.shade((0.8, 0.7, 0.66), spot(x, 0.404, 0.045, 0.022))  # the socket
    canvas.shade((0.86, 0.77, 0.73), spot(x - side * 0.028, 0.412, 0.014, 0.02))
    upper = at([(-0.034, 0.0055), (-0.022, -0.008), (-0.004, -0.0145), (0.016, -0.0125), (0.03, -0.002), (0.036, 0.003)])
    lower = at([(0.036, 0.003), (0.024, 0.0105), (0.006, 0.0135), (-0.014, 0.0115), (-0.034, 0.0055)])
    opening = fill(np.concatenate([smooth(upper, False), smooth(lower, False)]), 0.0008)
    canvas.paint((244, 238, 232), opening)
    canvas.shade((0.86, 0.8, 0.78), opening * np.clip(np.abs(X - x) * 40 - 0.5, 0, 1))
    distance = np.hypot(X - x, Y - 0.4125) / 0.0176
    iris = np.clip((1 - distance) * 14, 0, 1) * opening
    angle = np.arctan2(Y - 0.4125, X - x)
    canvas.paint((66, 42, 28), iris)
    fibres = 0.75 + 0.25 * np.sin(angle * 26 + 3 * np.sin(angle * 7))
    canvas.paint(
        (150, 98, 54), iris * np.exp(-(((distance - 0.62) / 0.22) ** 2)) * fibres * np.clip(0.75 + (Y - 0.4125) * 45, 0.2, 1)
    )
    canvas.paint((14, 9, 8), np.clip((0.45 - distance) * 16, 0, 1) * opening)
    canvas.shade((0.55, 0.5, 0.5), opening * stroke(np.add(upper, (0, 0.004)), 0.009, 0.0028))  # shadow of the lid
    canvas.paint((255, 255, 255), np.clip((0.0043 - np.hypot(X - x + 0.0052, Y - 0.4075)) * 900, 0, 1) * opening)
    canvas.paint((255, 240, 225), np.clip((0.002 - np.hypot(X - x - 0.006, Y - 0.4185)) * 900, 0, 1) * opening, 0.6)
    canvas.paint((214, 138, 122), spot(x - side * 0.0325, 0.4195, 0.004, 0.003), 0.8)  # the inner corner
    canvas.paint((34, 20, 18), stroke([*upper[:-1], *at([(0.041, -0.001)])], 0.0055, 0.0009, (0.35, 0.5)))
    for step in np.linspace(0.25, 1, 9):  # lashes
        root = smooth(upper, False)[int(step * 0.97 * 359)]
        tip = root + np.array([side * (0.001 + 0.0065 * step), -0.004 - 0.002 * step])
        canvas.paint((34, 20, 18), stroke([root, (root + tip) / 2 + [side * 0.001, 0.0008], tip], 0.0022, 0.0006, (1, 0.2)), 0.85)
    canvas.shade((0.66, 0.5, 0.46), stroke(lower, 0.0026, 0.0011, (0.7, 0.3)))
    canvas.shade(
        (0.68, 0.54, 0.49),
        stroke(at([(-0.03, -0.009), (-0.012, -0.0215), (0.01, -0.0235), (0.032, -0.012)]), 0.003, 0.0012, (0.3, 0.3)),
    )
    canvas.paint(SKIN_LIGHT, stroke(at([(-0.015, -0.026), (0.008, -0.03), (0.028, -0.022)]), 0.008, 0.004), 0.4)
    canvas.shade((0.9, 0.84, 0.82), stroke(at([(-0.026, 0.021), (-0.004, 0.026), (0.022, 0.021)]), 0.004, 0.003, (0.3, 0.3)))


def brow(canvas, side, rng):
    points = [(0.5 + side * dx, y) for dx, y in [(0.031, 0.3665), (0.055, 0.3575), (0.085, 0.3545), (0.117, 0.368)]]
    canvas.paint((82, 52, 40), stroke(points, 0.0125, 0.0018, (0.75, 0.15)), 0.75)
    line = smooth(points, False)
    for place in rng.uniform(0.02, 0.9, 70):
        root = line[int(place * len(line))] + [0, rng.uniform(-0.001, 0.0055) * (1 - 0.6 * place)]
        tip = root + np.array([side * rng.uniform(0.006, 0.012), -0.006 * (1 - 1.35 * place)])
        canvas.paint((52, 31, 25), stroke([root, (root + tip) / 2, tip], 0.0016, 0.0006, (1, 0.3)), 0.5)


def mouth(canvas):
    line = [(0.444, 0.5675), (0.463, 0.5745), (0.483, 0.575), (0.5, 0.5768), (0.517, 0.575), (0.537, 0.5745), (0.556, 0.5675)]
    bow = [(0.444, 0.5675), (0.468, 0.5632), (0.488, 0.5585), (0.5, 0.561), (0.512, 0.5585), (0.532, 0.5632), (0.556, 0.5675)]
    bottom = [(0.444, 0.5675), (0.463, 0.5845), (0.484, 0.594), (0.5, 0.5955), (0.516, 0.594), (0.537, 0.5845), (0.556, 0.5675)]
    upper = fill(np.concatenate([smooth(bow, False), smooth(line, False)[::-1]]), 0.0012)
    lower = fill(np.concatenate([smooth(line, False), smooth(bottom, False)[::-1]]), 0.0012)
    canvas.shade((0.93, 0.87, 0.85), spot(0.5, 0.546, 0.006, 0.012))
    canvas.paint((186, 92, 88), upper, 0.9)
    canvas.paint((206, 112, 104), lower, 0.9)
    canvas.shade((0.82, 0.74, 0.74), lower * np.clip((Y - 0.588) * 110, 0, 1))
    canvas.paint((242, 176, 164), lower * spot(0.49, 0.5845, 0.02, 0.0045), 0.65)
    canvas.paint((222, 138, 128), stroke(np.add(bow, (0, -0.0015)), 0.003, 0.0015, (0, 0)), 0.5)
    canvas.paint((96, 38, 40), stroke(line, 0.0034, 0.0009, (0.6, 0.6)), 0.9)
    for side in (-1, 1):
        canvas.shade(
            (0.7, 0.56, 0.52),
            stroke(
                [(0.5 + side * 0.0545, 0.5695), (0.5 + side * 0.0595, 0.565), (0.5 + side * 0.062, 0.5605)], 0.005, 0.0022, (1, 0.3)
            ),
        )
        canvas.shade(
            (0.93, 0.87, 0.84),
            stroke([(0.5 + side * 0.05, 0.517), (0.5 + side * 0.066, 0.54), (0.5 + side * 0.07, 0.562)], 0.007, 0.005, (0.2, 0.3)),
        )


def front_hair(canvas, rng):
    """Two curtains from a parting left of the middle."""
    left = [
        (0.455, 0.108), (0.4, 0.115), (0.335, 0.165), (0.296, 0.27), (0.288, 0.4), (0.277, 0.53), (0.262, 0.65), (0.288, 0.75),
        (0.335, 0.765), (0.372, 0.72), (0.372, 0.64), (0.354, 0.55), (0.347, 0.45), (0.358, 0.35), (0.395, 0.265), (0.45, 0.19),
        (0.462, 0.15),
    ]  # fmt: skip
    right = [
        (0.452, 0.108), (0.53, 0.09), (0.615, 0.118), (0.682, 0.19), (0.71, 0.3), (0.714, 0.42), (0.724, 0.54), (0.738, 0.65),
        (0.716, 0.75), (0.665, 0.765), (0.63, 0.72), (0.63, 0.64), (0.648, 0.55), (0.654, 0.45), (0.644, 0.355), (0.605, 0.285),
        (0.53, 0.235), (0.468, 0.18),
    ]  # fmt: skip
    for side, outline in ((-1, left), (1, right)):
        mask = fill(smooth(outline), 0.0012)
        canvas.shade((0.6, 0.5, 0.47), blurred(np.roll(mask, (14, 10 if side < 0 else -6), (0, 1)), 0.008) * (1 - mask))
        canvas.paint(HAIR_DARK, mask)
        canvas.paint(HAIR, mask * np.clip(1.3 * rounded(mask, 0.05), 0, 1))
        tip = outline.index((0.335, 0.765) if side < 0 else (0.665, 0.765))
        colors = [HAIR_LIGHT, HAIR_DARK, HAIR, (104, 66, 48)]
        hair_strands(canvas, mask, rng, outline[: tip + 1], outline[: tip - 1 : -1], 650, colors)
        shine = np.exp(-(((np.hypot(X - 0.47, Y - 0.36) - 0.2) / 0.022) ** 2)) * np.clip((0.33 - Y) * 9, 0, 1)
        canvas.paint((178, 126, 92), mask * shine * (0.55 if side < 0 else 0.4), 0.6)
        canvas.shade(0.62, mask * np.clip((Y - 0.6) * 5, 0, 1) * (0.55 if side < 0 else 0.75))


def draw_portrait():
    """512×512, the drawing a little cropped."""
    rng = np.random.default_rng(7)
    canvas = Canvas()
    background(canvas, rng)
    back_hair(canvas, rng)
    body(canvas, rng)
    face(canvas)
    nose(canvas)
    for side in (-1, 1):
        eye(canvas, side)
        brow(canvas, side, rng)
    mouth(canvas)
    front_hair(canvas, rng)
    canvas.shade((0.9, 0.9, 0.93), np.clip(np.hypot(X - 0.5, Y - 0.45) * 1.7 - 0.55, 0, 1))
    drawing = Image.fromarray(np.clip(canvas.pixels.round(), 0, 255).astype(np.uint8))
    left, top, side = 0.075 * FULL, 0.035 * FULL, 0.85 * FULL
    return drawing.resize((SIZE, SIZE), Image.Resampling.BOX, box=(left, top, left + side, top + side))


def synthesise_speech(path):
    """FLAC, 16 kHz, mono, 16 bits."""
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder) / "speech.wav"
        subprocess.run(["espeak-ng", "-v", "en-us+f3", "-s", "150", "-p", "48", "-w", spoken, TEXT], check=True)
        samples = normalize_loudness(load_audio(spoken, 16_000), 16_000, -20.0)
    samples = np.concatenate([np.zeros(3200), samples / max(1, np.abs(samples).max() / 0.98), np.zeros(3200)])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray((samples * 32767).round().astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    SAMPLES.mkdir(exist_ok=True)
    draw_portrait().save(SAMPLES / "portrait.png", optimize=True)
    synthesise_speech(SAMPLES / "speech.flac")
    for path in sorted(SAMPLES.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
