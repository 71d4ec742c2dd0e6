"""Hair behind and before the face, a scarf, and glasses."""

import numpy as np

from livetalk_jax.data.procedural.canvas import Grid, Layer, Mask, mirrored, smooth
from livetalk_jax.data.procedural.identity import Identity, Scene, mix
from livetalk_jax.data.procedural.style import EYES, Palette, lamp, soften

BACK = [
    (0, 0.085), (0.1, 0.1), (0.175, 0.165), (0.212, 0.27), (0.218, 0.4), (0.228, 0.52), (0.243, 0.64), (0.232, 0.735),
    (0.185, 0.77),
    (0.1, 0.76), (0, 0.75),
]  # fmt: skip


# A curtain of hair from a parting at (0, 0.108) outwards: outer edge down, tip, inner edge up.
CURTAIN = [
    (-0.012, 0.104), (0.07, 0.098), (0.15, 0.135), (0.194, 0.215), (0.210, 0.32), (0.218, 0.43), (0.228, 0.54), (0.238, 0.65),
    (0.214, 0.75),
    (0.165, 0.765), (0.13, 0.72), (0.130, 0.64), (0.146, 0.55), (0.153, 0.45), (0.144, 0.362), (0.112, 0.29), (0.052, 0.225),
    (-0.012, 0.185),
]  # fmt: skip


TIP = 9


def _lengthen(points, length: float) -> np.ndarray:
    points = np.array(points, float)
    low = points[:, 1] > 0.45
    points[low, 1] = 0.45 + (points[low, 1] - 0.45) * (length - 0.45) / (0.765 - 0.45)
    return points


def _between(inner: np.ndarray, outer: np.ndarray, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Pieces of lines from root to tip, between two edges of hair."""
    along = np.linspace(0, 1, 40)
    inner, outer = (smooth(edge, closed=False) for edge in (inner, outer))
    inner, outer = (edge[(along * (len(edge) - 1)).round().astype(int)] for edge in (inner, outer))
    pieces = []
    for _ in range(count):
        line = inner + (outer - inner) * rng.uniform(0, 1) + rng.normal(0, 0.0015, 2)
        begin, length = rng.uniform(-0.2, 0.85), rng.uniform(0.2, 0.5)
        chosen = line[(along >= begin) & (along <= begin + length)]
        if len(chosen) > 1:
            pieces.append(chosen)
    return pieces


def _strands(
    layer: Layer, grid: Grid, mask: Mask, pieces: list[np.ndarray], who: Identity, rng: np.random.Generator, opacity: float = 0.34
) -> None:
    for number, color in enumerate((who.hair_light, who.hair_dark, who.hair_color, mix(who.hair_color, who.hair_light, 0.4))):
        chosen = pieces[number::4]
        layer.tint(color, mask * grid.lines(chosen, rng.uniform(0.0015, 0.004, len(chosen)), 0.0012), opacity)


def _mass(layer: Layer, grid: Grid, mask: Mask, who: Identity, scene: Scene, radius: float) -> None:
    layer.paint(who.hair_dark, mask)
    layer.tint(who.hair_color, mask * grid.rounded(mask, radius, (0.4 * scene.light, -0.55, 0.7)) * 1.3)


def _shine(layer: Layer, grid: Grid, mask: Mask, who: Identity, scene: Scene, opacity: float) -> None:
    ring = np.exp(-(((np.hypot(grid.x - 0.5, grid.y - 0.37) - 0.205) / 0.022) ** 2)) * np.clip((0.33 - grid.y) * 9, 0, 1)
    layer.tint(who.hair_light, mask * (ring * np.clip(0.6 + side_of(grid, scene), 0.25, 1)).astype(np.float32), opacity)


def side_of(grid: Grid, scene: Scene) -> np.ndarray:
    return scene.light * (grid.x - 0.5) * 4


def draw_back_hair(grid: Grid, who: Identity, scene: Scene) -> Layer:
    layer, rng = Layer(grid), np.random.default_rng([0xBAC4, who.number])
    if who.hair in ("short", "swept", "buzz", "bald"):
        return layer
    if who.hair == "curly":
        mask = grid.fill(_blob(who, rng, 1.18), 0.003)
        _mass(layer, grid, mask, who, scene, 0.08)
        _curls(layer, grid, mask, who, rng)
    elif who.hair == "bun":
        knot = grid.fill(
            smooth(mirrored([(0, 0.015), (0.045, 0.022), (0.075, 0.06), (0.07, 0.1), (0.03, 0.125), (0, 0.13)])), 0.0015
        )
        _mass(layer, grid, knot, who, scene, 0.05)
        turns = rng.uniform(0, 6, (60, 1)) + np.linspace(0, 1.2, 9)
        radii = rng.uniform(0.01, 0.07, (60, 1))
        rings = list(np.stack([0.5 + radii * np.cos(turns), 0.07 + 0.8 * radii * np.sin(turns)], 2))
        _strands(layer, grid, knot, rings, who, rng)
        low = grid.fill(smooth(mirrored([(0, 0.2), (0.15, 0.25), (0.155, 0.4), (0.12, 0.53), (0, 0.56)])), 0.003)
        layer.paint(who.hair_dark, low)
    elif who.hair == "scarf":
        cloth = grid.fill(
            smooth(
                mirrored(
                    [
                        (0, 0.07),
                        (0.11, 0.085),
                        (0.19, 0.16),
                        (0.222, 0.28),
                        (0.222, 0.45),
                        (0.21, 0.6),
                        (0.22, 0.75),
                        (0.26, 0.95),
                        (0, 1.0),
                    ]
                )
            ),
            0.0015,
        )
        _mass(layer, grid, cloth, who, scene, 0.1)
    else:
        outline = _lengthen(BACK, _length(who))
        outline[:, 0] *= who.hair_volume
        mask = grid.fill(_waves(smooth(mirrored(outline)), who), 0.0015)
        layer.paint(who.hair_dark, mask)
        layer.tint(who.hair_color, mask * grid.rounded(mask, 0.09, (0.4 * scene.light, -0.5, 0.7)) ** 1.4)
        end = outline[:, 1].max()
        for flank in (-1, 1):
            inner = np.array([(0.06, 0.13), (0.13, 0.35), (0.13, 0.5 * (0.35 + end)), (0.11, end)])
            outer = np.array([(0.16, 0.13), (0.225, 0.35), (0.245, 0.5 * (0.35 + end)), (0.2, end)]) * [who.hair_volume, 1]
            middle = np.array([0.5, 0])
            pieces = _between(middle + inner * [flank, 1], middle + outer * [flank, 1], rng, 200)
            _strands(layer, grid, mask, pieces, who, rng)
    layer.shade(0.72, _everywhere(grid) * np.clip((grid.y - 0.5) * 3, 0, 1).repeat(grid.columns, 1).astype(np.float32))
    layer.pixels[..., :3] *= lamp(scene)
    return layer


def _everywhere(grid: Grid) -> Mask:
    return Mask(np.ones((grid.rows, grid.columns), np.float32), 0, 0)


def _length(who: Identity) -> float:
    return {"bob": 0.64, "fringe": 0.5 * (0.66 + who.hair_length)}.get(who.hair, who.hair_length)


def _waves(outline: np.ndarray, who: Identity) -> np.ndarray:
    if who.hair != "wavy":
        return outline
    amount = 0.012 * np.clip((outline[:, 1] - 0.25) / 0.15, 0, 1) * np.sin(outline[:, 1] * 70)
    return outline + np.stack([amount, np.zeros_like(amount)], 1)


def _blob(who: Identity, rng: np.random.Generator, size: float) -> np.ndarray:
    """An outline of many curls around the skull."""
    angle = np.linspace(-0.25 * np.pi, 1.25 * np.pi, 200)
    bumps = 0.007 * np.abs(np.sin(angle * 11 + rng.uniform(0, 6))) + 0.004 * np.sin(angle * 5 + rng.uniform(0, 6))
    r = size * who.hair_volume
    return np.stack([0.5 + (0.178 * r + bumps) * np.cos(angle), 0.31 - (0.215 * r + bumps) * np.sin(angle)], 1)


def _curls(layer: Layer, grid: Grid, mask: Mask, who: Identity, rng: np.random.Generator) -> None:
    rings = []
    for _ in range(420):
        angle, reach = rng.uniform(-0.3 * np.pi, 1.3 * np.pi), np.sqrt(rng.uniform(0.2, 1.2))
        x, y = 0.5 + 0.19 * reach * np.cos(angle), 0.31 - 0.23 * reach * np.sin(angle)
        turn = np.linspace(s := rng.uniform(0, 6), s + rng.uniform(2.5, 5), 10)
        r = rng.uniform(0.006, 0.014)
        rings.append(np.stack([x + r * np.cos(turn), y + r * np.sin(turn)], 1))
    _strands(layer, grid, mask, rings, who, rng, 0.5)


def draw_over(grid: Grid, who: Identity, scene: Scene, head: Layer) -> Layer:
    """Front hair and glasses; their shadows fall on `head`."""
    layer, rng, skin = Layer(grid), np.random.default_rng([0xF207, who.number]), Palette(who)

    def cast(mask: Mask, strength: float = 1.3) -> None:
        head.shade(soften(skin.shadow, strength), grid.moved(mask, -0.006 * scene.light, 0.009, 0.008).without(mask))

    if who.hair in ("long", "bob", "wavy", "fringe"):
        for flank in (-1, 1):
            shape = _lengthen(CURTAIN, _length(who))
            shape[:, 0] *= np.where(shape[:, 0] > 0.16, who.hair_volume, 1) * (
                1 - flank * who.parting * np.clip((0.3 - shape[:, 1]) * 4, 0, 1)
            )
            shape = np.array([0.5, 0]) + shape * [flank, 1]
            shape[:, 0] += who.parting * np.clip((0.36 - shape[:, 1]) * 5, 0, 1)
            mask = grid.fill(_waves(smooth(shape), who), 0.0012)
            cast(mask)
            _mass(layer, grid, mask, who, scene, 0.05)
            pieces = _between(shape[: TIP + 1], shape[: TIP - 1 : -1], rng, 320)
            _strands(layer, grid, mask, [_waves(piece, who) for piece in pieces], who, rng)
            _shine(layer, grid, mask, who, scene, 0.4)
            layer.shade(0.7, mask * np.clip((grid.y - 0.6) * 5, 0, 1).repeat(grid.columns, 1).astype(np.float32))
    if who.hair == "fringe":
        low = 0.325 + 0.02 * who.brow_height / 0.006
        shape = np.array(
            [
                (0.36, 0.16),
                (0.42, 0.125),
                (0.5, 0.115),
                (0.58, 0.125),
                (0.64, 0.16),
                (0.648, 0.26),
                (0.645, low + 0.045),
                (0.6, low + 0.012),
                (0.5, low),
                (0.4, low + 0.012),
                (0.355, low + 0.045),
                (0.352, 0.26),
            ]
        )
        mask = grid.fill(smooth(shape), 0.0025)
        cast(mask)
        _mass(layer, grid, mask, who, scene, 0.06)
        pieces = []
        for x in rng.uniform(-0.15, 0.15, 260):
            y = rng.uniform(0.13, low - 0.03)
            pieces.append(
                smooth(
                    [
                        (0.5 + 0.75 * x, y),
                        (0.5 + 0.95 * x, y + 0.05),
                        (0.5 + 1.0 * x + rng.normal(0, 0.004), y + rng.uniform(0.07, 0.11)),
                    ],
                    closed=False,
                    samples=4,
                )
            )
        _strands(layer, grid, mask, pieces, who, rng)
        _shine(layer, grid, mask, who, scene, 0.45)
    if who.hair in ("short", "swept", "bun", "buzz"):
        _cap(layer, grid, who, scene, rng, cast)
    if who.hair == "curly":
        line = np.array([(0.645, 0.36), (0.63, 0.285), (0.585, 0.243), (0.5, 0.23), (0.415, 0.243), (0.37, 0.285), (0.355, 0.36)])
        blob = _blob(who, rng, 1.04)
        blob = blob[(blob[:, 1] < 0.37)]
        jitter = smooth(line, closed=False) + rng.normal(0, 0.0022, (24 * 7, 2))
        mask = grid.fill(np.concatenate([blob, jitter[::-1]]), 0.0035)
        cast(mask)
        _mass(layer, grid, mask, who, scene, 0.06)
        _curls(layer, grid, mask, who, rng)
    if who.hair == "scarf":
        ring = np.concatenate(
            [
                smooth(
                    mirrored(
                        [
                            (0, 0.068),
                            (0.11, 0.083),
                            (0.192, 0.16),
                            (0.224, 0.28),
                            (0.222, 0.45),
                            (0.2, 0.6),
                            (0.19, 0.72),
                            (0.12, 0.8),
                            (0, 0.84),
                        ]
                    )
                )
            ]
        )
        hole = smooth(
            mirrored(
                [
                    (0, 0.222),
                    (0.085, 0.233),
                    (0.132, 0.28),
                    (0.15, 0.36),
                    (0.149, 0.47),
                    (0.126, 0.575),
                    (0.085, 0.65),
                    (0.04, 0.69),
                    (0, 0.697),
                ]
            )
        )
        mask = grid.fill(ring, 0.0015).without(grid.fill(hole, 0.0015))
        cast(mask)
        _mass(layer, grid, mask, who, scene, 0.06)
        folds = [
            smooth(
                [
                    (0.5 + f * x, 0.1 + 0.02 * k),
                    (0.5 + f * (0.175 + 0.008 * k), 0.3),
                    (0.5 + f * (0.165 + 0.008 * k), 0.52),
                    (0.5 + f * 0.07, 0.75 + 0.012 * k),
                ],
                closed=False,
            )
            for f in (-1, 1)
            for k in range(5)
            for x in [0.06]
        ]
        layer.shade(0.8, mask * grid.lines(folds, [0.005] * len(folds), 0.003))
    if who.glasses != "none":
        _glasses(layer, grid, who, head, skin)
    layer.pixels[..., :3] *= lamp(scene)
    return layer


def _cap(layer: Layer, grid: Grid, who: Identity, scene: Scene, rng: np.random.Generator, cast) -> None:
    """Hair that stays above the ears."""
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
        line[3:7, 1] += np.array([0.02, 0.012, -0.006, -0.012])[:: int(np.sign(who.parting)) or 1]
    mask = grid.fill(
        np.concatenate([smooth(outer, closed=False), smooth(line, closed=False)]), 0.005 if who.hair == "buzz" else 0.002
    )
    cast(mask, 0.5 if who.hair == "buzz" else 1.1)
    if who.hair == "buzz":
        layer.paint(mix(who.hair_dark, who.skin, 0.25), mask * np.clip(0.85 + 0.12 * grid.noise(rng, 0.006), 0, 1), 0.8)
        return
    _mass(layer, grid, mask, who, scene, 0.05)
    if who.hair == "short":  # upwards, from the hairline
        front, back = smooth(line, closed=False), smooth(outer, closed=False)[::-1]
        pieces = []
        for place in rng.uniform(0.12, 0.88, 340):
            root, tip = front[int(place * len(front))], back[int((place + rng.normal(0, 0.03)) * len(back))]
            begin, length = rng.uniform(-0.1, 0.8), rng.uniform(0.25, 0.5)
            ends = np.clip([begin, begin + length], 0, 1.02)
            bend = np.array([who.parting * 0.3, -0.004])
            pieces.append(np.array([root + (tip - root) * s + bend * np.sin(np.pi * s) for s in np.linspace(ends[0], ends[1], 6)]))
    else:
        pieces = _between(line, outer[::-1], rng, 420)
    _strands(layer, grid, mask, pieces, who, rng)
    _shine(layer, grid, mask, who, scene, 0.35)


def _glasses(layer: Layer, grid: Grid, who: Identity, head: Layer, skin: Palette) -> None:
    color = np.array(who.glasses_color)
    for flank in (-1, 1):
        x = 0.5 + flank * (who.eye_distance + 0.003)
        angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        power = 1.0 if who.glasses == "round" else 0.55
        rx, ry = (0.049, 0.044) if who.glasses == "round" else (0.053, 0.036)
        rim = np.stack(
            [
                x + rx * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power,
                EYES + 0.004 + ry * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power,
            ],
            1,
        )
        inner = rim + (np.array([x, EYES + 0.004]) - rim) * 0.12
        whole, hole = grid.fill(rim, 0.0008), grid.fill(inner, 0.0008)
        frame = whole.without(hole)
        head.shade(soften(skin.shadow, 0.9), grid.moved(frame, 0, 0.008, 0.004))
        layer.paint((255, 255, 255), hole * grid.spot(x - 0.018, EYES - 0.014, 0.022, 0.012), 0.16)
        layer.paint(color, frame)
        layer.tint(color + (255 - color) * 0.5, frame * grid.spot(x - 0.02, EYES - 0.03, 0.03, 0.012), 0.5)
        edge = x + flank * rx
        layer.paint(
            color,
            grid.stroke(
                [
                    (edge - flank * 0.003, EYES - 0.006),
                    (edge + flank * 0.015, EYES - 0.008),
                    (0.5 + flank * 0.156 * who.face_width, EYES - 0.004),
                ],
                0.006,
                0.001,
            ),
        )
    inner_edge = who.eye_distance + 0.003 - (0.047 if who.glasses == "round" else 0.051)
    layer.paint(
        color, grid.stroke([(0.5 - inner_edge, EYES + 0.002), (0.5, EYES - 0.006), (0.5 + inner_edge, EYES + 0.002)], 0.0055, 0.001)
    )
