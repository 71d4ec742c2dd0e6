"""What is around a person's head: the wall, and the body in its clothes."""

import numpy as np

from livetalk_jax.data.procedural.canvas import Grid, Layer, Mask, mirrored, smooth
from livetalk_jax.data.procedural.identity import Identity, Scene, mix
from livetalk_jax.data.procedural.style import CHIN, Palette, lamp, soften


def draw_wall(grid: Grid, scene: Scene) -> np.ndarray:
    """float32 [rows, columns, 3] of the whole grid; it stands still, behind everything."""
    rng = np.random.default_rng([0xBACC, scene.seed])
    side = scene.light
    fall = np.clip(0.5 - side * (grid.x - 0.5) * 0.75 + (grid.y - 0.5) * 0.55, 0, 1)[..., None]
    light, dark = np.array(scene.wall_light, np.float32), np.array(scene.wall_dark, np.float32)
    pixels = light + (dark - light) * fall

    def box(color, left: float, top: float, right: float, bottom: float, blur: float, opacity: float) -> None:
        _over(pixels, color, grid.fill([(left, top), (right, top), (right, bottom), (left, bottom)], blur), opacity)

    if scene.backdrop == "window":
        middle = 0.5 + np.sign(side) * rng.uniform(0.26, 0.4)
        width, top, bottom = rng.uniform(0.16, 0.22), rng.uniform(0.0, 0.1), rng.uniform(0.45, 0.62)
        left, right = middle - width, middle + width
        box((244, 246, 240), left, top, right, bottom, 0.012, 0.75)
        for x in (left, middle, right):
            box(dark * 0.9, x - 0.008, top, x + 0.008, bottom, 0.008, 0.8)
        for y in (top, (top + bottom) / 2, bottom):
            box(dark * 0.9, left, y - 0.008, right, y + 0.008, 0.008, 0.8)
    elif scene.backdrop == "shelf":
        for board in np.arange(rng.uniform(0.02, 0.1), 1.2, 0.24):
            x = -0.3
            while x < 1.3:
                width, height = rng.uniform(0.02, 0.06), rng.uniform(0.11, 0.19)
                if rng.random() < 0.85:
                    book = mix(mix(light, dark, 0.6), rng.uniform(40, 220, 3), 0.35)
                    box(book, x, board - height, x + width, board, 0.009, 0.7)
                x += width
            box(dark * 0.8, -0.4, board, 1.4, board + 0.02, 0.009, 0.75)
    elif scene.backdrop == "panels":
        for x in np.arange(rng.uniform(-0.3, -0.15), 1.3, rng.uniform(0.14, 0.24)):
            box(dark * 0.85, x, -0.4, x + 0.008, 1.4, 0.005, 0.6)
            box(light + 8, x + 0.01, -0.4, x + 0.016, 1.4, 0.004, 0.5)
    strength = 3.2 if scene.backdrop == "plaster" else 1.4
    pixels += strength * ((grid.noise(rng, 0.035) + 2 * grid.noise(rng, 0.14)) / np.sqrt(5))[..., None].astype(np.float32)
    # The person's shadow, on the side away from the lamp.
    _over(pixels, dark * 0.55, grid.spot(0.5 - 0.10 * side, 0.5, 0.30, 0.42), 0.35)
    return pixels * lamp(scene)


def _over(pixels: np.ndarray, color, mask: Mask, opacity: float) -> None:
    part = pixels[mask.place]
    part += (np.asarray(color, np.float32) - part) * (mask.values * opacity)[..., None]


def draw_body(grid: Grid, who: Identity, scene: Scene) -> Layer:
    layer, skin, side = Layer(grid), Palette(who), scene.light
    width = who.neck
    throat = [(0.085 * width, 0.5), (0.083 * width, 0.66), (0.088 * width, 0.73), (0.125, 0.79), (0.14, 0.93), (0, 0.97)]
    neck = grid.fill(smooth(mirrored(throat)), 0.002)
    layer.paint(skin.base, neck)
    layer.shade(soften(skin.shadow, 1.2), neck * np.clip((side * (0.5 - grid.x)) * 5.5 + 0.2, 0, 1).repeat(grid.rows, 0))
    layer.shade(soften(skin.shadow, 1.7), neck * grid.spot(0.5 - 0.01 * side, CHIN + who.chin_drop - 0.02, 0.15, 0.075))
    layer.tint(skin.light, neck * grid.spot(0.5 + 0.035 * side, 0.775, 0.035, 0.04), 0.3)
    for flank in (-1, 1):  # collar bones
        bone = [(0.5 + flank * 0.018, 0.815), (0.5 + flank * 0.06, 0.8), (0.5 + flank * 0.11, 0.798)]
        layer.shade(soften(skin.shadow, 0.8), grid.stroke(bone, 0.007, 0.004, (0.6, 0)) * neck)
    shoulder = 1 + 0.35 * (who.neck - 1)
    hem = [(0.1, 0.765), (0.14, 0.77), (0.22, 0.8)]
    hem += [(0.33 * shoulder, 0.845), (0.41 * shoulder, 0.93), (0.46 * shoulder, 1.1), (0.48, 1.3)]
    depth = {"round": 0.865, "v": 0.93, "shirt": 0.875, "high": 0.76}[scene.collar]
    if scene.collar == "v":
        inner = [(0.1, 0.765), (0.075, 0.82), (0.04, 0.88), (0, depth)]
    elif scene.collar == "high":
        inner = [(0.088 * width, 0.715), (0.06, 0.728), (0.03, 0.733), (0, 0.735)]
        hem[0] = (0.09 * width, 0.712)
        hem.insert(1, (0.1 * width, 0.75))
    else:
        inner = [(0.1, 0.765), (0.085, 0.81), (0.05, depth - 0.015), (0, depth)]
    right = smooth([(0.5 + x, y) for x, y in hem], closed=False)
    left = smooth([(0.5 - x, y) for x, y in hem], closed=False)[::-1]
    neckline = np.array([*[(0.5 - x, y) for x, y in inner], *[(0.5 + x, y) for x, y in inner[-2::-1]]])
    if scene.collar != "v":  # a spline would round its point
        neckline = smooth(neckline, closed=False)
    cloth = grid.fill(np.concatenate([neckline, right, left]), 0.001)
    color, dark = np.array(scene.cloth), np.array(scene.cloth) * 0.5
    light = color + (255 - color) * 0.25
    layer.shade(0.75, grid.moved(cloth, 0, -0.008, 0.012) * neck)
    layer.paint(dark, cloth)
    layer.tint(color, cloth * grid.rounded(cloth, 0.16, (0.5 * side, -0.6, 0.6)) * 1.25)
    layer.tint(light, cloth * grid.spot(0.5 + 0.23 * side, 0.87, 0.14, 0.09), 0.4)
    if scene.pattern == "knit":
        stitches = 0.5 + 0.5 * np.sin(2 * np.pi * (grid.x * 60 + 0.12 * np.sin(2 * np.pi * grid.y * 60)))
        layer.shade(0.93, cloth * stitches.astype(np.float32))
    elif scene.pattern == "stripes":
        stripes = np.clip(4 * np.sin(2 * np.pi * ((grid.y + 0.3 * (grid.x - 0.5) ** 2) * 16)), 0, 1).astype(np.float32)
        layer.tint(light if color.mean() < 150 else dark, cloth * stripes, 0.45)
    for x, top in ((-0.19, 0.9), (0.19, 0.9), (-0.06, 0.95), (0.08, 0.95)):  # folds
        fold = [(0.5 + x, top + 0.14), (0.5 + 1.02 * x, top + 0.06), (0.5 + 0.92 * x, top)]
        layer.shade(0.75, cloth * grid.stroke(fold, 0.016, 0.008, (1, 0.1)))
    if scene.collar == "shirt":
        for flank in (-1, 1):
            corners = ((0.105, 0.752), (0.075, 0.76), (0.012, 0.872), (0.05, 0.915), (0.125, 0.82))
            lapel = grid.fill([(0.5 + flank * x, y) for x, y in corners], 0.002)
            layer.shade(0.6, grid.moved(lapel, 0, 0.012, 0.008) * cloth)
            layer.paint(mix(color, light, 0.5), lapel)
            layer.shade(0.85, lapel * np.clip((0.5 - grid.x) * side * 20, 0, 1).repeat(grid.rows, 0))
    else:
        rim = neckline[2:-2]
        layer.shade(0.65, cloth * grid.fill(_band(np.add(rim, (0, 0.012)), 0.03), 0.006))
        layer.tint(mix(color, light, 0.6), grid.fill(_band(rim, 0.019), 0.001))
        layer.shade(0.8, grid.fill(_band(np.add(rim, (0, 0.0095)), 0.004), 0.0015))
    layer.pixels[..., :3] *= lamp(scene)
    return layer


def _band(line: np.ndarray, width: float) -> np.ndarray:
    tangent = np.gradient(line, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / (np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9)
    return np.concatenate([line + normal * width / 2, (line - normal * width / 2)[::-1]])
