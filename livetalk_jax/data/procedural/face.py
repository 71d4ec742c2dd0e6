"""What of a face moves: the mouth with its teeth and tongue, the jaw, the eyes and the brows, drawn anew in every frame."""

import dataclasses

import numpy as np
from scipy.interpolate import PchipInterpolator

from livetalk_jax.data.procedural.identity import Identity, Scene
from livetalk_jax.data.procedural.portrait import Portrait
from livetalk_jax.data.procedural.style import CHIN, EYES, Palette, lamp

# Openings and widths of mouths are given in this length, the distance between the eyes of an average person.
FACE_UNIT = 0.14

UPPER_LID = [(-0.040, 0.0065), (-0.0246, -0.0092), (-0.0045, -0.0167), (0.0179, -0.0144), (0.0336, -0.0023), (0.0403, 0.0035)]
LOWER_LID = [(-0.040, 0.0065), (-0.0157, 0.0132), (0.0067, 0.0155), (0.0269, 0.0121), (0.0403, 0.0035)]


@dataclasses.dataclass(frozen=True)
class Mouth:
    """A mouth's shape; every value from 0 to 1 but `width`.

    Attributes:
        openness: gap between the lips, as a share of what the person opens at most in speech.
        width: corners pulled apart (1) or together (-1).
        rounding: lips pushed forward, narrow and full.
        teeth: how much of both rows shows in the gap.
        tongue: raised to the upper teeth.
        press: lips pressed upon each other, thinner.
        tuck: lower lip under the upper teeth.
    """

    openness: float = 0.0
    width: float = 0.0
    rounding: float = 0.0
    teeth: float = 0.5
    tongue: float = 0.0
    press: float = 0.0
    tuck: float = 0.0


REST = Mouth()


def mouth_gap(who: Identity, mouth: Mouth) -> float:
    """The gap between the lips in the middle, in face units."""
    return mouth.openness * who.gape / FACE_UNIT


def mouth_span(who: Identity, mouth: Mouth) -> float:
    """The distance between the mouth's corners, in face units."""
    return 2 * _half_width(who, mouth) / FACE_UNIT


def _half_width(who: Identity, mouth: Mouth) -> float:
    return who.mouth_width * (1 + 0.13 * mouth.width) * (1 - 0.36 * mouth.rounding) * (1 - 0.06 * mouth.openness)


class Band:
    """Coverage of what lies between curves over the columns of a window."""

    def __init__(self, x: np.ndarray, y: np.ndarray, soft: float):
        self.x, self.y, self.step, self.soft = x, y, float(x[0, 1] - x[0, 0]), soft

    def below(self, curve: np.ndarray) -> np.ndarray:
        """1 below (greater y) the curve [1, columns], with an edge of `soft`."""
        slope = np.gradient(curve[0], self.step)[None]
        return np.clip(0.5 + (self.y - curve) / (self.soft * np.sqrt(1 + slope * slope)), 0, 1)


def _lay(part: np.ndarray, color: np.ndarray, amount: np.ndarray) -> None:
    """Paint on colours [rows, columns, 3] of a place that is fully covered."""
    part += (color - part) * amount[..., None]


class Face:
    """A portrait whose face can move.

    The head's texture is kept as a buffer; each frame draws the places that move anew, eyes and jaw, and leaves the rest.
    """

    def __init__(self, portrait: Portrait, who: Identity, scene: Scene):
        grid = self.grid = portrait.grid
        self.who, self.tint = who, lamp(scene)
        self.skin = Palette(who)
        self._light = np.sign(scene.light)
        over = portrait.over.pixels
        self.texture = portrait.head.pixels * (1 - over[..., 3:]) + over
        self._head, self._over = portrait.head.pixels, over
        self._soft = 2 * grid.step
        self._prepare_jaw()
        self._prepare_eyes()

    def color(self, *rgb: float) -> np.ndarray:
        return np.array(rgb, np.float32) * self.tint

    def draw(self, mouth: Mouth, blink: float, gaze: tuple[float, float], brow: float) -> np.ndarray:
        """The head's texture, float32 [rows, columns, 4]; valid until the next call.

        Args:
            blink: 0 open to 1 closed.
            gaze: where the eyes look, -1 to 1 to the right and down.
            brow: raised, -1 to 1.
        """
        for place, part in ((self._jaw_place, self._jaw(mouth)), (self._eye_place, self._eyes(blink, gaze, brow))):
            over = self._over[place]
            np.add(part * (1 - over[..., 3:]), over, out=self.texture[place])
        return self.texture

    # Jaw and mouth

    def _prepare_jaw(self) -> None:
        grid, who = self.grid, self.who
        place = self._jaw_place = grid.window(0.5 - 0.175, who.mouth_y - 0.06, 0.5 + 0.175, CHIN + 0.09)
        part = grid.part(*place)
        down = np.clip((part.y - who.mouth_y) / (CHIN + who.chin_drop - who.mouth_y), 0, 1)
        across = np.cos(np.clip(np.abs(part.x - 0.5) / 0.172, 0, 1) ** 2.5 * np.pi / 2)
        # How far each pixel's skin comes from above, in pixels, when the jaw drops by a whole length.
        self._jaw_move = (down * down * (3 - 2 * down) * across / grid.step).astype(np.float32)
        rows, columns = part.rows, part.columns
        self._jaw_skin = np.ascontiguousarray(self._head[place]).reshape(-1, 4)
        self._jaw_index = np.arange(rows, dtype=np.float32)[:, None] + np.zeros((1, columns), np.float32)
        self._jaw_columns = np.arange(columns)[None]
        inner = part.window(0.5 - 0.1, who.mouth_y - 0.05, 0.5 + 0.1, who.mouth_y + 0.095)
        lips = part.part(*inner)
        self._lips_place, self._lips_x, self._lips_y = inner, lips.x.astype(np.float32), lips.y.astype(np.float32)

    def _jaw(self, mouth: Mouth) -> np.ndarray:
        drop = self.who.gape * 0.72 * mouth.openness
        source = np.maximum(self._jaw_index - self._jaw_move * np.float32(drop), 0)
        whole = source.astype(np.int32)
        share = (source - whole)[..., None]
        index = whole * self._jaw_columns.size + self._jaw_columns
        below = np.minimum(index + self._jaw_columns.size, len(self._jaw_skin) - 1)
        upper = self._jaw_skin.take(index, 0)
        part = upper + (self._jaw_skin.take(below, 0) - upper) * share
        self._draw_mouth(part[self._lips_place][..., :3], mouth)
        return part

    def _draw_mouth(self, part: np.ndarray, mouth: Mouth) -> None:
        who, x, y = self.who, self._lips_x - 0.5, self._lips_y
        band = Band(x, y, self._soft)
        half = _half_width(who, mouth)
        gap = mouth.openness * who.gape
        full = (1 + 0.22 * mouth.rounding) * (1 - 0.38 * mouth.press) * (1 - 0.1 * max(mouth.width, 0))
        inner = np.clip(x / (half * 0.87), -1, 1)
        outer = np.clip(x / half, -1, 1)
        smile = who.smile * (1 + 0.5 * mouth.width - 0.7 * mouth.rounding)
        middle = who.mouth_y - smile * outer**2 + 0.0012 * np.exp(-((outer / 0.2) ** 2)) * (1 - mouth.rounding)
        bow = (1 - np.abs(outer) ** 1.7) * (1 - 0.2 * np.exp(-((outer / 0.17) ** 2)) * (1 - 0.6 * mouth.rounding))
        up_inner, up_outer = 1 - np.abs(inner) ** 2.2, 1 - outer**2
        down_inner, down_outer = 1 - np.abs(inner) ** 2.7, 1 - np.abs(outer) ** 2.4
        lower_full = full * (1 - 0.5 * mouth.tuck)
        inner_top, inner_bottom = middle - 0.3 * gap * up_inner, middle + 0.7 * gap * down_inner
        outer_top = middle - who.lip_upper * full * bow - 0.3 * gap * up_outer
        outer_bottom = middle + who.lip_lower * lower_full * (1 - np.abs(outer) ** 2.3) + 0.7 * gap * down_outer

        # Corners, and the shadow that a full lower lip casts.
        for flank in (-1, 1):
            corner = np.exp(-(((x - flank * (half + 0.002)) / 0.007) ** 2) - ((y - (who.mouth_y - smile)) / 0.008) ** 2)
            part *= 1 + (self.skin.shadow.astype(np.float32) - 1) * (0.6 * corner)[..., None]

        under_top, under_bottom = band.below(outer_top), band.below(outer_bottom)
        under_inner_top, under_inner_bottom = band.below(inner_top), band.below(inner_bottom)
        upper, lower = np.maximum(under_top - under_inner_top, 0), np.maximum(under_inner_bottom - under_bottom, 0)
        cavity = np.maximum(under_inner_top - under_inner_bottom, 0)

        lip = np.array(who.lip_color, np.float32) * self.tint
        _lay(part, lip * 0.86, upper)
        _lay(part, lip, lower)
        depth = np.clip((y - inner_bottom) / (who.lip_lower * lower_full), 0, 1)
        part *= 1 - (0.2 * lower * depth**3)[..., None]
        shine = np.exp(-(((x - self._light * 0.012) / 0.024) ** 2)) * np.exp(-(((depth - 0.4) / 0.22) ** 2))
        _lay(part, lip + (255 - lip) * 0.42, 0.6 * lower * shine)
        rise = np.clip((inner_top - y) / (who.lip_upper * full), 0, 1)
        part *= 1 - (0.16 * upper * (1 - rise) ** 2)[..., None]

        # Inside: dark, with the tongue, the lower and then the upper teeth before it.
        _lay(part, self.color(58, 18, 20), cavity)
        tongue_height = 0.010 + 0.010 * mouth.openness + 0.6 * mouth.tongue * gap
        tongue_top = middle + 0.7 * gap - tongue_height * np.sqrt(np.maximum(1 - (x / (half * 0.72)) ** 2, 0))
        tongue = cavity * band.below(tongue_top)
        _lay(part, self.color(176, 84, 84), 0.92 * tongue)
        _lay(
            part,
            self.color(206, 118, 112),
            0.5 * tongue * np.exp(-((x / (half * 0.3)) ** 2) - ((y - tongue_top - 0.006) / 0.006) ** 2),
        )
        arch = np.maximum(1 - (x / (half * 0.80)) ** 2, 0)
        white = self.color(243, 238, 228) * (1 - 0.35 * np.clip(np.abs(x) / half, 0, 1)[..., None] ** 2)
        lower_edge = inner_bottom - 0.0105 * mouth.teeth * (1 - mouth.tuck) * (1 - 0.45 * mouth.openness) * arch**0.3
        _lay(part, white * 0.88, cavity * band.below(lower_edge) * (1 - mouth.tongue * 0.5))
        upper_edge = who.mouth_y - 0.0125 + (0.0165 * mouth.teeth + 0.004 * mouth.tuck) * arch**0.4
        _lay(part, white, cavity * (1 - band.below(upper_edge)))
        part *= 1 - (0.5 * cavity * np.exp(-np.maximum(y - inner_top, 0) / 0.004))[..., None]  # the upper lip's shadow

        # Where the lips touch there is a fine dark line.
        line = np.exp(-(((y - middle) / (0.0016 + 0.4 * self._soft)) ** 2)) * np.clip((half - np.abs(x)) / 0.006, 0, 1)
        _lay(part, lip * [0.42, 0.34, 0.36], (0.85 * np.exp(-gap / 0.004) * line).astype(np.float32))

    # Eyes and brows

    def _prepare_eyes(self) -> None:
        grid, who = self.grid, self.who
        place = self._eye_place = grid.window(0.5 - 0.16, EYES - 0.095, 0.5 + 0.16, EYES + 0.045)
        part = grid.part(*place)
        self._eye_skin = self._head[place]

        brow = np.zeros((part.rows, part.columns), np.float32)
        hairs = []
        rng = np.random.default_rng([0xB205, who.number])
        for flank in (-1, 1):
            arch = 0.006 * (who.brow_arch - 1)
            offset = who.eye_distance - 0.069
            points = [(0.031, 0.3675), (0.055, 0.3585 - arch), (0.085, 0.3555 - 1.4 * arch), (0.119, 0.3695)]
            points = [(0.5 + flank * (dx + offset), v - who.brow_height) for dx, v in points]
            mask = part.stroke(points, 0.0115 * who.brow_width, 0.0018, (0.75, 0.15))
            brow[mask.place] = np.maximum(brow[mask.place], mask.values)
            for at in rng.uniform(0.02, 0.9, 40):
                x, y = (np.interp(at, np.linspace(0, 1, 4), values) for values in zip(*points, strict=True))
                y += rng.uniform(-0.002, 0.005) * (1 - 0.6 * at)
                tip = (x + flank * rng.uniform(0.006, 0.012), y - 0.006 * (1 - 1.35 * at))
                hairs.append(np.array([(x, y), tip]))
        fine = part.lines(hairs, [0.0016] * len(hairs), 0.0006)
        self._brow = np.clip(0.72 * brow + 0.4 * fine, 0, 1)
        dark = np.array(who.hair_dark if who.hair != "scarf" else (50, 36, 30))
        if dark.mean() > 90:
            dark = 0.55 * dark + 0.45 * np.array((70, 56, 48))
        self._brow_color = dark.astype(np.float32) * self.tint

        # Both eyes at once: [2, rows, columns], u outwards from the eye's middle.
        width = int(0.052 / grid.step)
        top, bottom = (int((EYES + d - part.top) / grid.step) for d in (-0.042, 0.032))
        centers = [0.5 - who.eye_distance, 0.5 + who.eye_distance]
        lefts = [int((c - part.left) / grid.step) - width for c in centers]
        self._windows = [(slice(top, bottom), slice(left, left + 2 * width)) for left in lefts]
        self._u = np.stack([f * (part.x[:, w[1]] - c) for f, c, w in zip((-1, 1), centers, self._windows, strict=True)])
        self._v = part.y[top:bottom][None] - EYES
        u, stretch = self._u / who.eye_width, who.eye_height / 1.15
        tilt = -who.eye_tilt * u / 0.036
        inside = np.clip(u, -0.040, 0.0403)
        self._upper = (PchipInterpolator(*zip(*UPPER_LID, strict=True))(inside) * stretch + tilt).astype(np.float32)
        self._lower = (PchipInterpolator(*zip(*LOWER_LID, strict=True))(inside) * stretch + tilt).astype(np.float32)
        edge = np.where(np.abs(u) > 0.0400, 0.5 * (self._upper + self._lower), 0)
        self._upper = np.where(edge != 0, edge, self._upper)
        self._lower = np.where(edge != 0, edge, self._lower)
        self._lash = np.clip(1 - (np.abs(u - 0.001) / 0.0425) ** 6, 0, 1) * (0.55 + 0.45 * np.clip((u + 0.03) / 0.06, 0, 1))
        crease = self._upper - 0.0065 - 0.003 * (1 - (u / 0.04) ** 2)
        self._crease = np.exp(-(((self._v - crease) / (0.0012 + 0.5 * grid.step)) ** 2)) * np.clip(
            1 - (np.abs(u) / 0.036) ** 4, 0, 1
        )

    def _below(self, curve: np.ndarray) -> np.ndarray:
        return np.clip(0.5 + (self._v - curve) / self._soft, 0, 1)

    def _eyes(self, blink: float, gaze: tuple[float, float], brow: float) -> np.ndarray:
        part = self._eye_skin.copy()
        whole, share = divmod(-brow * 0.007 / self.grid.step, 1.0)
        moved = np.roll(self._brow, int(whole), 0)
        _lay(part[..., :3], self._brow_color, moved + (np.roll(moved, 1, 0) - moved) * np.float32(share))
        eyes = np.stack([part[w][..., :3] for w in self._windows])
        self._draw_eyes(eyes, blink, gaze)
        for window, eye in zip(self._windows, eyes, strict=True):
            part[window][..., :3] = eye
        return part

    def _draw_eyes(self, part: np.ndarray, blink: float, gaze: tuple[float, float]) -> None:
        who, u, v = self.who, self._u, self._v
        height = self._lower - self._upper
        lower = self._lower - 0.18 * blink * height
        upper = lower - (lower - self._upper) * (1 - blink)
        shadow = self.skin.shadow.astype(np.float32)
        under_upper, under_lower = self._below(upper), self._below(lower)
        opening = np.maximum(under_upper - under_lower, 0)
        lid = np.maximum(self._below(self._upper) - under_upper, 0)
        part *= 1 + (shadow - 1) * (0.45 * lid)[..., None]
        part *= 1 + (shadow - 1) * (0.9 * (1 - 0.6 * blink) * self._crease)[..., None]

        white = self.color(244, 239, 233) * (1 - 0.22 * np.clip(np.abs(u) * 40 - 0.5, 0, 1)[..., None])
        _lay(part, white, opening)
        # Both eyes look the same way: u is outwards, so it is mirrored in the left one.
        outward = np.array([-1, 1], np.float32)[:, None, None]
        du, dv = u - outward * (0.0075 * gaze[0]), v + 0.0012 - 0.004 * gaze[1]
        distance = np.sqrt(du * du + dv * dv) / 0.0176
        edge = self._soft / 0.0176
        iris = np.clip(0.5 + (1 - distance) / edge, 0, 1) * opening
        _lay(part, self.color(*who.iris_rim), iris)
        glow = np.exp(-(((distance - 0.62) / 0.22) ** 2)) * np.clip(0.75 + dv * 45, 0.2, 1)
        _lay(part, self.color(*who.iris_glow), 0.85 * iris * glow)
        _lay(part, self.color(14, 9, 8), np.clip(0.5 + (0.45 - distance) / edge, 0, 1) * opening)
        part *= 1 - (0.5 * opening * np.exp(-np.maximum(v - upper, 0) / 0.0035))[..., None]  # shadow of the lid
        for x, y, radius, strength in ((0.0052 * self._light, -0.005, 0.0043, 1.0), (-0.006 * self._light, 0.006, 0.002, 0.6)):
            point = np.sqrt((outward * du - x) ** 2 + (dv - y) ** 2)
            _lay(part, self.color(255, 252, 246), strength * np.clip(0.5 + (radius - point) / self._soft, 0, 1) * opening)
        _lay(part, self.color(214, 138, 122), 0.7 * opening * np.exp(-(((u + 0.036) / 0.005) ** 2)))
        # Lashes along the lid's edge, and the lower lid's line.
        thick = (0.0011 + 0.0019 * who.lashes) * self._lash
        lash = np.clip(0.5 + (thick + 0.25 * self._soft - np.abs(v - upper + thick * 0.5)) / self._soft, 0, 1) * np.clip(
            self._lash * 3, 0, 1
        )
        _lay(part, self.color(36, 22, 19), (0.6 + 0.35 * who.lashes) * lash)
        line = np.exp(-(((v - lower) / (0.001 + 0.5 * self._soft)) ** 2)) * self._lash
        part *= 1 + (shadow - 1) * (0.8 * line)[..., None]
