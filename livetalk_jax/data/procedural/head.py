"""The head without what moves in it: skin, ears, nose, beard and the signs of age."""

import numpy as np

from livetalk_jax.data.procedural.canvas import Grid, Layer, Mask, mirrored, smooth
from livetalk_jax.data.procedural.identity import Identity, Scene, mix
from livetalk_jax.data.procedural.style import CHIN, EYES, Palette, soften

FACE = [
    (0, 0.145), (0.072, 0.154), (0.122, 0.190), (0.148, 0.255), (0.154, 0.330), (0.152, 0.410), (0.144, 0.490), (0.122, 0.566),
    (0.083, 0.628), (0.038, 0.660), (0, CHIN),
]  # fmt: skip


def face_outline(who: Identity) -> np.ndarray:
    half = np.array(FACE)
    low = np.clip((half[:, 1] - 0.45) / 0.2, 0, 1)
    half[:, 0] *= who.face_width * (1 + (who.jaw - 1) * np.sin(low * np.pi * 0.75))
    half[-2, 0] *= who.chin
    half[-3, 0] *= 1 + 0.4 * (who.chin - 1)
    half[:, 1] += who.chin_drop * np.clip((half[:, 1] - 0.5) / 0.16, 0, 1)
    return smooth(mirrored(half))


def draw_head(grid: Grid, who: Identity, scene: Scene) -> Layer:
    layer, skin, side = Layer(grid), Palette(who), scene.light
    if who.hair in ("short", "swept", "buzz", "bald", "curly", "bun"):
        for flank in (-1, 1):
            _ear(layer, grid, who, skin, flank)
    face = grid.fill(face_outline(who), 0.0012)
    lit = grid.rounded(face, 0.13, (0.38 * side, -0.42, 0.82))
    layer.paint(skin.dark, face)
    layer.tint(skin.base, face * Mask(np.clip(lit.values * 1.25 - 0.02, 0, 1) ** 1.1, lit.top, lit.left))
    layer.tint(skin.light, face * grid.spot(0.5 + 0.045 * side, 0.29, 0.1, 0.06), 0.45)  # forehead
    layer.tint(skin.light, face * grid.spot(0.5 + 0.1 * side, 0.475, 0.042, 0.036), 0.4)  # cheeks
    layer.tint(skin.light, face * grid.spot(0.5 - 0.092 * side, 0.475, 0.034, 0.034), 0.22)
    layer.tint(skin.light, face * grid.spot(0.5 + 0.013 * side, 0.635, 0.03, 0.016), 0.35)  # chin
    far = (np.clip(side * (0.5 - grid.x) * 9 - 0.68, 0, 1) * np.clip((0.68 - grid.y) * 6, 0, 1)).astype(np.float32)
    layer.shade(soften(skin.shadow, 0.75), face * far)
    for flank in (-1, 1):
        layer.tint(skin.blush, face * grid.spot(0.5 + flank * 0.09, 0.497, 0.045, 0.032), who.blush)
    if who.freckles:
        rng = np.random.default_rng([0xF2EC, who.number])
        for _ in range(int(60 * who.freckles)):
            x, y = 0.5 + rng.normal(0, 0.065), rng.normal(0.475, 0.022)
            layer.shade((0.72, 0.6, 0.55), face * grid.spot(x, y, 0.0022) * rng.uniform(0.3, 0.8))
    _beard(layer, grid, who, face)
    _age(layer, grid, who, skin, face)
    layer.shade(soften(skin.shadow, 0.5), grid.spot(0.5, who.mouth_y + 0.031, 0.034, 0.008))  # below the lower lip
    layer.shade(soften(skin.shadow, 0.3), grid.spot(0.5, who.mouth_y - 0.031, 0.006, 0.011))
    _nose(layer, grid, who, skin, side)
    for flank in (-1, 1):
        x = 0.5 + flank * who.eye_distance
        layer.shade(soften(skin.shadow, 0.75), grid.spot(x, EYES - 0.012, 0.047, 0.023))  # the sockets
        layer.shade(soften(skin.shadow, 0.5), grid.spot(x - flank * 0.03, EYES - 0.002, 0.014, 0.02))
        bag = [(x - flank * 0.03, EYES + 0.022), (x, EYES + 0.029), (x + flank * 0.026, EYES + 0.023)]
        layer.shade(soften(skin.shadow, 0.35 + 0.6 * who.age), grid.stroke(bag, 0.004, 0.003, (0.3, 0.3)))
    return layer


def _spot(grid: Grid, places, rx: float, ry: float) -> Mask:
    ((x, y),) = places
    return grid.spot(x, y, rx, ry)


def _ear(layer: Layer, grid: Grid, who: Identity, skin: Palette, flank: int) -> None:
    x = 0.5 + flank * 0.152 * who.face_width

    def at(points):
        return [(x + flank * dx * who.ear, 0.455 + dy * who.ear) for dx, dy in points]

    edge = [(-0.01, -0.05), (0.012, -0.058), (0.027, -0.043), (0.026, -0.012), (0.016, 0.022), (0.004, 0.043), (-0.01, 0.04)]
    ear = grid.fill(smooth(at(edge)), 0.0012)
    layer.paint(skin.base * 0.97, ear)
    layer.shade(soften(skin.shadow, 1.1), ear * _spot(grid, at([(0.006, -0.012)]), 0.010, 0.026))
    layer.tint(skin.blush, ear, 0.22)
    rim = at([(0.004, -0.052), (0.021, -0.04), (0.021, -0.012), (0.013, 0.018)])
    layer.tint(skin.light, ear * grid.stroke(rim, 0.005, 0.002), 0.35)
    if who.earrings:
        layer.paint((224, 196, 120), _spot(grid, at([(0.006, 0.042)]), 0.0055, 0.0055), 1.0)
        layer.paint((255, 246, 214), _spot(grid, at([(0.005, 0.040)]), 0.002, 0.002), 0.9)


def _beard(layer: Layer, grid: Grid, who: Identity, face: Mask) -> None:
    if who.beard == "none":
        return
    rng = np.random.default_rng([0xBEA2D, who.number])
    grain = np.clip(0.86 + 0.12 * grid.noise(rng, 0.004), 0, 1)
    y = who.mouth_y
    lip = [(0, -0.034), (0.03, -0.034), (0.058, -0.022), (0.074, -0.003), (0.06, -0.005), (0.03, -0.014), (0, -0.016)]
    moustache = grid.fill(smooth(mirrored([(x, y + dy) for x, dy in lip])), 0.004)
    cheek = [(0.16, 0.44), (0.145, 0.5), (0.105, 0.545), (0.078, y - 0.012), (0.079, y + 0.02)]
    outline = [(0.5 + x, v) for x, v in cheek] + [(0.54, y + 0.034), (0.5, y + 0.036), (0.46, y + 0.034)]
    outline += [(0.5 - x, v) for x, v in reversed(cheek)] + [(0.28, 0.62), (0.4, 0.74), (0.5, 0.76), (0.6, 0.74), (0.72, 0.62)]
    jaw = grid.fill(smooth(outline), 0.006)
    color = mix((52, 40, 36) if who.hair == "bald" else who.hair_dark, who.hair_color, 0.4)
    strength = {"stubble": 0.26, "moustache": 0.85, "full": 0.85}[who.beard]
    layer.tint(color, face * moustache * grain, strength)
    if who.beard != "moustache":
        layer.tint(color, face * jaw * grain, strength)
        layer.tint(color, face * grid.spot(0.5, y + 0.045, 0.02, 0.014) * grain, 0.6 * strength)


def _age(layer: Layer, grid: Grid, who: Identity, skin: Palette, face: Mask) -> None:
    for flank in (-1, 1):  # from the nose to beside the mouth
        fold = [(0.5 + flank * 0.045, 0.518), (0.5 + flank * 0.066, 0.54), (0.5 + flank * 0.077, 0.568)]
        layer.shade(soften(skin.shadow, 0.3 + 1.1 * who.age), grid.stroke(fold, 0.006, 0.004, (0.2, 0.3)))
    if who.age > 0.45:
        shadow = soften(skin.shadow, 0.9 * (who.age - 0.35))
        for y, reach in ((0.272, 0.07), (0.294, 0.085), (0.316, 0.075)):
            line = [(0.5 - reach, y + 0.004), (0.47, y), (0.53, y + 0.001), (0.5 + reach, y + 0.004)]
            layer.shade(shadow, face * grid.stroke(line, 0.004, 0.002, (0.1, 0.1)))
        for flank in (-1, 1):
            x = 0.5 + flank * (who.eye_distance + 0.052)
            for dy in (-0.008, 0.004, 0.014):
                line = [(x, EYES + 0.3 * dy), (x + flank * 0.01, EYES + 0.7 * dy), (x + flank * 0.02, EYES + 1.3 * dy)]
                layer.shade(shadow, face * grid.stroke(line, 0.003, 0.0015, (0.6, 0.1)))


def _nose(layer: Layer, grid: Grid, who: Identity, skin: Palette, side: float) -> None:
    far, near, w, drop = -np.sign(side), np.sign(side), who.nose_width, who.nose_length

    def at(*points):
        return [(0.5 + x * w, y + drop * np.clip((y - 0.4) / 0.11, 0, 1)) for x, y in points]

    def shade(amount: float, points, width: float, blur: float, taper: tuple[float, float] = (1.0, 1.0)) -> None:
        layer.shade(soften(skin.shadow, amount), grid.stroke(at(*points), width, blur, taper))

    shade(0.75, [(far * 0.027, 0.395), (far * 0.019, 0.43), (far * 0.024, 0.475), (far * 0.037, 0.507)], 0.022, 0.009, (0.7, 1))
    shade(0.5, [(near * 0.028, 0.39), (near * 0.022, 0.42), (near * 0.02, 0.44)], 0.018, 0.008)
    ridge = at((near * 0.006, 0.385), (near * 0.007, 0.44), (near * 0.006, 0.49))
    layer.tint(skin.light, grid.stroke(ridge, 0.013, 0.006, (0.5, 1)), 0.5)
    tip = at((near * 0.008, 0.497))
    layer.tint(skin.light + (255 - skin.light) * 0.35, _spot(grid, tip, 0.011, 0.009), 0.65)
    shade(1.15, [(-0.038, 0.514), (-0.02, 0.524), (0, 0.529), (0.02, 0.524), (0.038, 0.514)], 0.011, 0.0045, (0.5, 0.6))
    for flank in (-1, 1):
        shade(1.35, [(flank * 0.03, 0.493), (flank * 0.039, 0.506), (flank * 0.033, 0.519)], 0.005, 0.0022, (0.1, 0.6))
        nostril = at((flank * 0.01, 0.5215), (flank * 0.018, 0.518), (flank * 0.027, 0.521))
        layer.shade((0.46, 0.3, 0.27), grid.stroke(nostril, 0.0065, 0.0016, (0.5, 0.5)))
