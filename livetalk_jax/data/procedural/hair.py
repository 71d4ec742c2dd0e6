"""Hair behind and before the face, a scarf, and glasses."""

from collections.abc import Callable

import numpy as np

from livetalk_jax.data.procedural.canvas import Grid, Layer, Mask, mirrored, smooth
from livetalk_jax.data.procedural.identity import Hair, Identity, Scene, mix
from livetalk_jax.data.procedural.style import EYES, Palette, lamp, soften

# Right halves, from the top down, as distances from the middle.
LONG_BACK = [
    (0, 0.085), (0.1, 0.1), (0.175, 0.165), (0.212, 0.27), (0.218, 0.4), (0.228, 0.52), (0.243, 0.64), (0.232, 0.735),
    (0.185, 0.77), (0.1, 0.76), (0, 0.75),
]  # fmt: skip
KNOT = [(0, 0.015), (0.045, 0.022), (0.075, 0.06), (0.07, 0.1), (0.03, 0.125), (0, 0.13)]
BELOW_KNOT = [(0, 0.2), (0.15, 0.25), (0.155, 0.4), (0.12, 0.53), (0, 0.56)]
SCARF_BACK = [
    (0, 0.07), (0.11, 0.085), (0.19, 0.16), (0.222, 0.28), (0.222, 0.45), (0.21, 0.6), (0.22, 0.75), (0.26, 0.95), (0, 1.0),
]  # fmt: skip
SCARF = [
    (0, 0.068), (0.11, 0.083), (0.192, 0.16), (0.224, 0.28), (0.222, 0.45), (0.2, 0.6), (0.19, 0.72), (0.12, 0.8), (0, 0.84),
]  # fmt: skip
SCARF_OPENING = [
    (0, 0.222), (0.085, 0.233), (0.132, 0.28), (0.15, 0.36), (0.149, 0.47), (0.126, 0.575), (0.085, 0.65), (0.04, 0.69),
    (0, 0.697),
]  # fmt: skip
# A curtain of hair from a parting in the middle: its outer edge down to the tip, and its inner edge up.
CURTAIN = [
    (-0.012, 0.104), (0.07, 0.098), (0.15, 0.135), (0.194, 0.215), (0.210, 0.32), (0.218, 0.43), (0.228, 0.54), (0.238, 0.65),
    (0.214, 0.75), (0.165, 0.765), (0.13, 0.72), (0.130, 0.64), (0.146, 0.55), (0.153, 0.45), (0.144, 0.362), (0.112, 0.29),
    (0.052, 0.225), (-0.012, 0.185),
]  # fmt: skip
TIP = 9  # of CURTAIN
CURLY_HAIRLINE = [(0.645, 0.36), (0.63, 0.285), (0.585, 0.243), (0.5, 0.23), (0.415, 0.243), (0.37, 0.285), (0.355, 0.36)]


class _Brush:
    """Draws one person's hair on a layer.

    Args:
        head: what the hair's shadow falls on; None for hair behind it.
        salt: of the random strands.
    """

    def __init__(self, grid: Grid, who: Identity, scene: Scene, head: Layer | None, salt: int):
        self.layer, self.grid, self.who, self.scene, self.head = Layer(grid), grid, who, scene, head
        self.rng = np.random.default_rng([salt, who.number])

    def cast(self, mask: Mask, strength: float = 1.3) -> None:
        if self.head is not None:
            shadow = self.grid.moved(mask, -0.006 * self.scene.light, 0.009, 0.008).without(mask)
            self.head.shade(soften(Palette(self.who).shadow, strength), shadow)

    def mass(self, mask: Mask, radius: float) -> None:
        """Dark, and lit as a cushion."""
        self.layer.paint(self.who.hair_dark, mask)
        lit = self.grid.rounded(mask, radius, (0.4 * self.scene.light, -0.55, 0.7))
        self.layer.tint(self.who.hair_color, mask * lit * 1.3)

    def strands(self, mask: Mask, pieces: list[np.ndarray], opacity: float = 0.34) -> None:
        who = self.who
        for number, color in enumerate((who.hair_light, who.hair_dark, who.hair_color, mix(who.hair_color, who.hair_light, 0.4))):
            chosen = pieces[number::4]
            lines = self.grid.lines(chosen, self.rng.uniform(0.0015, 0.004, len(chosen)), 0.0012)
            self.layer.tint(color, mask * lines, opacity)

    def between(self, inner: np.ndarray, outer: np.ndarray, count: int) -> list[np.ndarray]:
        """Pieces of lines from root to tip, between two edges of hair."""
        along = np.linspace(0, 1, 40)
        inner, outer = (smooth(edge, closed=False) for edge in (inner, outer))
        inner, outer = (edge[(along * (len(edge) - 1)).round().astype(int)] for edge in (inner, outer))
        pieces = []
        for _ in range(count):
            line = inner + (outer - inner) * self.rng.uniform(0, 1) + self.rng.normal(0, 0.0015, 2)
            begin, length = self.rng.uniform(-0.2, 0.85), self.rng.uniform(0.2, 0.5)
            chosen = line[(along >= begin) & (along <= begin + length)]
            if len(chosen) > 1:
                pieces.append(chosen)
        return pieces

    def curls(self, mask: Mask) -> None:
        rings, rng = [], self.rng
        for _ in range(420):
            angle, reach = rng.uniform(-0.3 * np.pi, 1.3 * np.pi), np.sqrt(rng.uniform(0.2, 1.2))
            x, y = 0.5 + 0.19 * reach * np.cos(angle), 0.31 - 0.23 * reach * np.sin(angle)
            begin = rng.uniform(0, 6)
            turn = np.linspace(begin, begin + rng.uniform(2.5, 5), 10)
            r = rng.uniform(0.006, 0.014)
            rings.append(np.stack([x + r * np.cos(turn), y + r * np.sin(turn)], 1))
        self.strands(mask, rings, 0.5)

    def shine(self, mask: Mask, opacity: float) -> None:
        """A ring of light around the crown, brighter towards the lamp."""
        x, y = self.grid.x, self.grid.y
        ring = np.exp(-(((np.hypot(x - 0.5, y - 0.37) - 0.205) / 0.022) ** 2)) * np.clip((0.33 - y) * 9, 0, 1)
        towards = np.clip(0.6 + self.scene.light * (x - 0.5) * 4, 0.25, 1)
        self.layer.tint(self.who.hair_light, mask * (ring * towards).astype(np.float32), opacity)

    def darken(self, mask: Mask, factor: float, top: float, slope: float) -> None:
        """Darker from `top` downwards."""
        amount = np.clip((self.grid.y - top) * slope, 0, 1).repeat(self.grid.columns, 1).astype(np.float32)
        self.layer.shade(factor, mask * amount)

    def waves(self, line: np.ndarray) -> np.ndarray:
        """An outline or a strand as this person's hair waves."""
        if self.who.hair != "wavy":
            return line
        amount = 0.012 * np.clip((line[:, 1] - 0.25) / 0.15, 0, 1) * np.sin(line[:, 1] * 70)
        return line + np.stack([amount, np.zeros_like(amount)], 1)

    def cloud(self, size: float) -> np.ndarray:
        """An outline of many curls around the skull."""
        angle, rng = np.linspace(-0.25 * np.pi, 1.25 * np.pi, 200), self.rng
        bumps = 0.007 * np.abs(np.sin(angle * 11 + rng.uniform(0, 6))) + 0.004 * np.sin(angle * 5 + rng.uniform(0, 6))
        r = size * self.who.hair_volume
        return np.stack([0.5 + (0.178 * r + bumps) * np.cos(angle), 0.31 - (0.215 * r + bumps) * np.sin(angle)], 1)


def _lengthened(points: list[tuple[float, float]], who: Identity) -> np.ndarray:
    """Long hair's outline, as long as this person's."""
    length = {"bob": 0.64, "fringe": 0.5 * (0.66 + who.hair_length)}.get(who.hair, who.hair_length)
    longer = np.array(points, float)
    low = longer[:, 1] > 0.45
    longer[low, 1] = 0.45 + (longer[low, 1] - 0.45) * (length - 0.45) / (0.765 - 0.45)
    return longer


# Behind the head


def draw_back_hair(grid: Grid, who: Identity, scene: Scene) -> Layer:
    brush = _Brush(grid, who, scene, None, 0xBAC4)
    if who.hair in BACKS:
        BACKS[who.hair](brush)
        brush.darken(Mask(np.ones((grid.rows, grid.columns), np.float32), 0, 0), 0.72, 0.5, 3)
        brush.layer.pixels[..., :3] *= lamp(scene)
    return brush.layer


def _long_back(brush: _Brush) -> None:
    who, grid = brush.who, brush.grid
    outline = _lengthened(LONG_BACK, who)
    outline[:, 0] *= who.hair_volume
    mask = grid.fill(brush.waves(smooth(mirrored(outline))), 0.0015)
    brush.layer.paint(who.hair_dark, mask)
    brush.layer.tint(who.hair_color, mask * grid.rounded(mask, 0.09, (0.4 * brush.scene.light, -0.5, 0.7)) ** 1.4)
    end = outline[:, 1].max()
    inner = np.array([(0.06, 0.13), (0.13, 0.35), (0.13, 0.5 * (0.35 + end)), (0.11, end)])
    outer = np.array([(0.16, 0.13), (0.225, 0.35), (0.245, 0.5 * (0.35 + end)), (0.2, end)]) * [who.hair_volume, 1]
    for flank in (-1, 1):
        brush.strands(mask, brush.between([0.5, 0] + inner * [flank, 1], [0.5, 0] + outer * [flank, 1], 200))


def _curly_back(brush: _Brush) -> None:
    mask = brush.grid.fill(brush.cloud(1.18), 0.003)
    brush.mass(mask, 0.08)
    brush.curls(mask)


def _bun_back(brush: _Brush) -> None:
    knot = brush.grid.fill(smooth(mirrored(KNOT)), 0.0015)
    brush.mass(knot, 0.05)
    turns = brush.rng.uniform(0, 6, (60, 1)) + np.linspace(0, 1.2, 9)
    radii = brush.rng.uniform(0.01, 0.07, (60, 1))
    brush.strands(knot, list(np.stack([0.5 + radii * np.cos(turns), 0.07 + 0.8 * radii * np.sin(turns)], 2)))
    brush.layer.paint(brush.who.hair_dark, brush.grid.fill(smooth(mirrored(BELOW_KNOT)), 0.003))


def _scarf_back(brush: _Brush) -> None:
    brush.mass(brush.grid.fill(smooth(mirrored(SCARF_BACK)), 0.0015), 0.1)


BACKS: dict[Hair, Callable[[_Brush], None]] = {
    "long": _long_back, "bob": _long_back, "fringe": _long_back, "wavy": _long_back, "curly": _curly_back, "bun": _bun_back,
    "scarf": _scarf_back,
}  # fmt: skip


# Before the face


def draw_over(grid: Grid, who: Identity, scene: Scene, head: Layer) -> Layer:
    """Front hair and glasses; their shadows fall on `head`."""
    brush = _Brush(grid, who, scene, head, 0xF207)
    for draw in FRONTS[who.hair]:
        draw(brush)
    if who.glasses != "none":
        _glasses(brush.layer, grid, who, head)
    brush.layer.pixels[..., :3] *= lamp(scene)
    return brush.layer


def _curtains(brush: _Brush) -> None:
    who = brush.who
    for flank in (-1, 1):
        shape = _lengthened(CURTAIN, who)
        shape[:, 0] *= np.where(shape[:, 0] > 0.16, who.hair_volume, 1)
        shape[:, 0] *= 1 - flank * who.parting * np.clip((0.3 - shape[:, 1]) * 4, 0, 1)
        shape = np.array([0.5, 0]) + shape * [flank, 1]
        shape[:, 0] += who.parting * np.clip((0.36 - shape[:, 1]) * 5, 0, 1)
        mask = brush.grid.fill(brush.waves(smooth(shape)), 0.0012)
        brush.cast(mask)
        brush.mass(mask, 0.05)
        pieces = brush.between(shape[: TIP + 1], shape[: TIP - 1 : -1], 320)
        brush.strands(mask, [brush.waves(piece) for piece in pieces])
        brush.shine(mask, 0.4)
        brush.darken(mask, 0.7, 0.6, 5)


def _fringe(brush: _Brush) -> None:
    low = 0.325 + 0.02 * brush.who.brow_height / 0.006
    shape = [
        (0.36, 0.16), (0.42, 0.125), (0.5, 0.115), (0.58, 0.125), (0.64, 0.16), (0.648, 0.26), (0.645, low + 0.045),
        (0.6, low + 0.012), (0.5, low), (0.4, low + 0.012), (0.355, low + 0.045), (0.352, 0.26),
    ]  # fmt: skip
    mask = brush.grid.fill(smooth(shape), 0.0025)
    brush.cast(mask)
    brush.mass(mask, 0.06)
    pieces, rng = [], brush.rng
    for x in rng.uniform(-0.15, 0.15, 260):
        y = rng.uniform(0.13, low - 0.03)
        tip = (0.5 + x + rng.normal(0, 0.004), y + rng.uniform(0.07, 0.11))
        pieces.append(smooth([(0.5 + 0.75 * x, y), (0.5 + 0.95 * x, y + 0.05), tip], closed=False, samples=4))
    brush.strands(mask, pieces)
    brush.shine(mask, 0.45)


def _curly_front(brush: _Brush) -> None:
    cloud = brush.cloud(1.04)
    hairline = smooth(CURLY_HAIRLINE, closed=False)
    hairline += brush.rng.normal(0, 0.0022, hairline.shape)
    mask = brush.grid.fill(np.concatenate([cloud[cloud[:, 1] < 0.37], hairline[::-1]]), 0.0035)
    brush.cast(mask)
    brush.mass(mask, 0.06)
    brush.curls(mask)


def _scarf_front(brush: _Brush) -> None:
    grid = brush.grid
    mask = grid.fill(smooth(mirrored(SCARF)), 0.0015).without(grid.fill(smooth(mirrored(SCARF_OPENING)), 0.0015))
    brush.cast(mask)
    brush.mass(mask, 0.06)
    folds = []
    for flank in (-1, 1):
        for k in range(5):
            fold = [(0.06, 0.1 + 0.02 * k), (0.175 + 0.008 * k, 0.3), (0.165 + 0.008 * k, 0.52), (0.07, 0.75 + 0.012 * k)]
            folds.append(smooth([(0.5 + flank * x, y) for x, y in fold], closed=False))
    brush.layer.shade(0.8, mask * grid.lines(folds, [0.005] * len(folds), 0.003))


def _cap(brush: _Brush) -> None:
    """Hair that stays above the ears."""
    who, grid, rng = brush.who, brush.grid, brush.rng
    volume = {"buzz": 0.006, "bun": 0.016, "short": 0.03 * who.hair_volume, "swept": 0.042 * who.hair_volume}[who.hair]
    width = 0.154 * who.face_width
    side = volume * 0.45
    p = np.sign(who.parting) * (0.03 if who.hair == "swept" else 0.0)
    low = 0.43 if who.hair != "bun" else 0.40
    outer = np.array([
        (0.5 + width + 0.002, low), (0.5 + width + 0.35 * side, 0.36), (0.5 + width + side, 0.295),
        (0.5 + 0.82 * width + side, 0.21 - 0.35 * volume), (0.5 + 0.45 * width + p, 0.152 - volume),
        (0.5 + p, 0.143 - 1.15 * volume), (0.5 - 0.45 * width + p, 0.152 - volume),
        (0.5 - 0.82 * width - side, 0.21 - 0.35 * volume), (0.5 - width - side, 0.295),
        (0.5 - width - 0.35 * side, 0.36), (0.5 - width - 0.002, low),
    ])  # fmt: skip
    recede = 0.012 * who.age
    line = np.array([
        (0.5 - width + 0.008, low), (0.5 - width + 0.014, 0.345), (0.5 - 0.8 * width - 0.2 * recede, 0.282),
        (0.5 - 0.52 * width - recede, 0.242 - recede), (0.5 - 0.1 * width + p, 0.228 + 0.3 * recede),
        (0.5 + 0.15 * width + p, 0.228 + 0.3 * recede), (0.5 + 0.52 * width + recede, 0.242 - recede),
        (0.5 + 0.8 * width + 0.2 * recede, 0.282), (0.5 + width - 0.014, 0.345), (0.5 + width - 0.008, low),
    ])  # fmt: skip
    if who.hair == "swept":  # the front falls over to one side
        line[3:7, 1] += np.array([0.02, 0.012, -0.006, -0.012])[:: 1 if who.parting > 0 else -1]
    outline = np.concatenate([smooth(outer, closed=False), smooth(line, closed=False)])
    if who.hair == "buzz":
        mask = grid.fill(outline, 0.005)
        brush.cast(mask, 0.5)
        grain = np.clip(0.85 + 0.12 * grid.noise(rng, 0.006), 0, 1)
        brush.layer.paint(mix(who.hair_dark, who.skin, 0.25), mask * grain, 0.8)
        return
    mask = grid.fill(outline, 0.002)
    brush.cast(mask, 1.1)
    brush.mass(mask, 0.05)
    if who.hair == "short":  # upwards, from the hairline
        front, back = smooth(line, closed=False), smooth(outer, closed=False)[::-1]
        bend = np.array([who.parting * 0.3, -0.004])
        pieces = []
        for place in rng.uniform(0.12, 0.88, 340):
            root, tip = front[int(place * len(front))], back[int((place + rng.normal(0, 0.03)) * len(back))]
            begin, length = rng.uniform(-0.1, 0.8), rng.uniform(0.25, 0.5)
            first, last = np.clip([begin, begin + length], 0, 1.02)
            along = np.linspace(first, last, 6)[:, None]
            pieces.append(root + (tip - root) * along + bend * np.sin(np.pi * along))
    else:
        pieces = brush.between(line, outer[::-1], 420)
    brush.strands(mask, pieces)
    brush.shine(mask, 0.35)


FRONTS: dict[Hair, tuple[Callable[[_Brush], None], ...]] = {
    "long": (_curtains,), "bob": (_curtains,), "wavy": (_curtains,), "fringe": (_curtains, _fringe), "short": (_cap,),
    "swept": (_cap,), "buzz": (_cap,), "bun": (_cap,), "curly": (_curly_front,), "scarf": (_scarf_front,), "bald": (),
}  # fmt: skip


def _glasses(layer: Layer, grid: Grid, who: Identity, head: Layer) -> None:
    color, center_y = np.array(who.glasses_color), EYES + 0.004
    rx, ry, power = (0.049, 0.044, 1.0) if who.glasses == "round" else (0.053, 0.036, 0.55)
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    across, down = (np.sign(v) * np.abs(v) ** power for v in (np.cos(angle), np.sin(angle)))
    for flank in (-1, 1):
        x = 0.5 + flank * (who.eye_distance + 0.003)
        rim = np.stack([x + rx * across, center_y + ry * down], 1)
        whole, hole = grid.fill(rim, 0.0008), grid.fill(rim + ([x, center_y] - rim) * 0.12, 0.0008)
        frame = whole.without(hole)
        head.shade(soften(Palette(who).shadow, 0.9), grid.moved(frame, 0, 0.008, 0.004))
        layer.paint((255, 255, 255), hole * grid.spot(x - 0.018, EYES - 0.014, 0.022, 0.012), 0.16)
        layer.paint(color, frame)
        layer.tint(color + (255 - color) * 0.5, frame * grid.spot(x - 0.02, EYES - 0.03, 0.03, 0.012), 0.5)
        edge, ear = x + flank * rx, 0.5 + flank * 0.156 * who.face_width
        side = [(edge - flank * 0.003, EYES - 0.006), (edge + flank * 0.015, EYES - 0.008), (ear, EYES - 0.004)]
        layer.paint(color, grid.stroke(side, 0.006, 0.001))
    inner = who.eye_distance + 0.003 - (0.047 if who.glasses == "round" else 0.051)
    bridge = [(0.5 - inner, EYES + 0.002), (0.5, EYES - 0.006), (0.5 + inner, EYES + 0.002)]
    layer.paint(color, grid.stroke(bridge, 0.0055, 0.001))
