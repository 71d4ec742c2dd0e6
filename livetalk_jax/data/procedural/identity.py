"""Who is drawn: everything about a person and a scene that stays the same in a clip, from their numbers alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

RGB = tuple[float, float, float]

SKINS: tuple[RGB, ...] = (
    (248, 214, 190), (240, 198, 168), (226, 176, 146), (212, 158, 124), (190, 134, 100), (164, 110, 80), (134, 88, 64),
    (106, 70, 52),
)  # fmt: skip
# Hair: colour, dark, light, and how often.
HAIRS: tuple[tuple[RGB, RGB, RGB, int], ...] = (
    ((40, 32, 32), (20, 15, 17), (86, 74, 74), 5),
    ((74, 46, 36), (38, 23, 20), (142, 94, 66), 5),
    ((108, 70, 46), (58, 36, 26), (176, 124, 84), 3),
    ((128, 62, 36), (74, 32, 20), (196, 112, 66), 2),
    ((186, 142, 84), (116, 82, 48), (238, 204, 144), 3),
    ((156, 120, 80), (96, 70, 48), (208, 174, 126), 2),
    ((150, 148, 148), (96, 94, 98), (212, 212, 212), 2),
    ((216, 212, 206), (150, 146, 146), (246, 244, 240), 1),
)
IRISES: tuple[tuple[RGB, RGB], ...] = (  # rim, glow
    ((66, 42, 28), (150, 98, 54)), ((40, 26, 20), (104, 66, 40)), ((52, 84, 114), (140, 182, 206)), ((58, 84, 58), (144, 160, 96)),
    ((72, 82, 90), (158, 170, 174)),
)  # fmt: skip
CLOTHES: tuple[RGB, ...] = (
    (44, 96, 112), (126, 52, 58), (54, 66, 104), (78, 96, 70), (150, 118, 78), (62, 62, 68), (206, 196, 180), (150, 90, 120),
    (196, 132, 60), (96, 128, 152), (232, 228, 222), (110, 86, 140),
)  # fmt: skip
WALLS: tuple[tuple[RGB, RGB], ...] = (  # light side, dark side
    ((222, 214, 200), (104, 112, 120)), ((196, 212, 216), (96, 116, 130)), ((228, 206, 190), (140, 104, 96)),
    ((206, 214, 192), (98, 112, 92)), ((214, 204, 220), (108, 98, 124)), ((168, 176, 184), (62, 70, 84)),
    ((236, 228, 206), (150, 130, 100)),
    ((120, 142, 150), (44, 58, 68)),
)  # fmt: skip

Hair = Literal["long", "bob", "fringe", "wavy", "short", "swept", "buzz", "bald", "curly", "bun", "scarf"]
HAIR_STYLES: tuple[tuple[Hair, int], ...] = (
    ("long", 3), ("bob", 3), ("fringe", 3), ("wavy", 2), ("short", 4), ("swept", 4), ("buzz", 2), ("bald", 1), ("curly", 3),
    ("bun", 3), ("scarf", 1),
)  # fmt: skip
Beard = Literal["none", "stubble", "moustache", "full"]
Collar = Literal["round", "v", "shirt", "high"]
Backdrop = Literal["plaster", "window", "shelf", "panels"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """A person. Lengths are in the drawing's coordinates, factors are around 1."""

    number: int
    skin: RGB
    hair: Hair
    hair_color: RGB
    hair_dark: RGB
    hair_light: RGB
    hair_volume: float
    hair_length: float
    parting: float
    face_width: float
    jaw: float
    chin: float
    chin_drop: float
    ear: float
    brow_width: float
    brow_arch: float
    brow_height: float
    eye_width: float
    eye_height: float
    eye_distance: float
    eye_tilt: float
    iris_rim: RGB
    iris_glow: RGB
    lashes: float
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_y: float
    lip_upper: float
    lip_lower: float
    lip_color: RGB
    smile: float
    gape: float
    blush: float
    age: float
    freckles: float
    beard: Beard
    glasses: Literal["none", "round", "square"]
    glasses_color: RGB
    earrings: bool
    neck: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Where and how a person sits: clothes, wall and light. `light` is -1 for a lamp on the left, 1 for one on the right."""

    seed: int
    cloth: RGB
    collar: Collar
    pattern: Literal["knit", "stripes", "plain"]
    wall_light: RGB
    wall_dark: RGB
    backdrop: Backdrop
    light: float
    warmth: float
    brightness: float
    framing: float
    shift: float


def mix(a, b, share: float) -> RGB:
    """Between two colours."""
    red, green, blue = (float(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def make_identity(number: int) -> Identity:
    """The person of this number, for ever the same."""
    rng = np.random.default_rng([0x1DE7, number])

    def around(middle: float, spread: float) -> float:
        return float(np.clip(rng.normal(middle, spread / 2), middle - spread, middle + spread))

    def pick(options: Sequence, weights=None) -> Any:
        share = None if weights is None else np.asarray(weights) / sum(weights)
        return options[int(rng.choice(len(options), p=share))]

    masculine = bool(rng.random() < 0.48)
    place = rng.uniform(0, len(SKINS) - 1.001)
    skin = mix(SKINS[int(place)], SKINS[int(place) + 1], place % 1)
    skin = tuple(np.clip(np.array(skin) * [1, around(1, 0.025), around(1, 0.05)], 30, 252).tolist())
    age = float(np.clip(rng.beta(1.2, 2.2), 0, 1))
    weights = np.array([entry[3] for entry in HAIRS], float)
    if place > 3.5:  # darker skin has darker hair, unless it is grey
        weights[2:6] *= 0.12
    weights[6:] *= 6 * age**2
    hair_color, hair_dark, hair_light, _ = HAIRS[int(rng.choice(len(HAIRS), p=weights / weights.sum()))]
    short: set[Hair] = {"short", "swept", "buzz", "bald", "curly"}
    liking = [
        count * (1 if name == "curly" else (4 if masculine else 0.25) if name in short else (0.12 if masculine else 1))
        for name, count in HAIR_STYLES
    ]
    hair = pick([name for name, _ in HAIR_STYLES], liking)
    beard: Beard = pick(("none", "stubble", "moustache", "full"), (8, 4, 2, 4)) if masculine else "none"
    natural = mix(np.array(skin) * [0.86, 0.62, 0.62], (178, 70, 78), 0.28)
    lipstick = pick(((190, 60, 72), (204, 92, 96), (150, 50, 70), (214, 110, 100)))
    lip_color = natural if masculine or rng.random() < 0.5 else mix(natural, lipstick, rng.uniform(0.35, 0.8))
    iris_rim, iris_glow = pick(IRISES, (5, 4, 2, 2, 1) if place < 3 else (4, 8, 0.2, 0.4, 0.2))
    scarf = pick(CLOTHES)
    return Identity(
        number=number,
        skin=skin,
        hair=hair,
        hair_color=scarf if hair == "scarf" else hair_color,
        hair_dark=mix(scarf, (0, 0, 0), 0.45) if hair == "scarf" else hair_dark,
        hair_light=mix(scarf, (255, 255, 255), 0.3) if hair == "scarf" else hair_light,
        hair_volume=around(1.0, 0.12),
        hair_length=rng.uniform(0.66, 0.9),
        parting=pick((-1, 1)) * rng.uniform(0.01, 0.06),
        face_width=around(1.04 if masculine else 1.0, 0.07),
        jaw=around(1.12 if masculine else 1.0, 0.1),
        chin=around(1.2 if masculine else 1.0, 0.25),
        chin_drop=around(0.006 if masculine else 0.0, 0.014),
        ear=around(1.0, 0.15),
        brow_width=around(1.35 if masculine else 0.95, 0.35),
        brow_arch=around(0.7 if masculine else 1.1, 0.5),
        brow_height=around(0.0, 0.006),
        eye_width=around(1.08, 0.12),
        eye_height=around(1.05 if masculine else 1.2, 0.22),
        eye_distance=around(0.070, 0.006),
        eye_tilt=around(0.0, 0.006),
        iris_rim=iris_rim,
        iris_glow=iris_glow,
        lashes=0.25 if masculine else rng.uniform(0.5, 1.0),
        nose_width=around(1.08 if masculine else 0.98, 0.22),
        nose_length=around(0.0, 0.01),
        mouth_width=around(0.067 if masculine else 0.063, 0.008),
        mouth_y=around(0.577, 0.006),
        lip_upper=around(0.0135 if masculine else 0.0155, 0.005),
        lip_lower=around(0.0185 if masculine else 0.0205, 0.005),
        lip_color=lip_color,
        smile=around(0.005, 0.005),
        gape=around(0.062, 0.007),
        blush=rng.uniform(0.05, 0.25) if masculine else rng.uniform(0.15, 0.45),
        age=age,
        freckles=rng.uniform(0.3, 1.0) if place < 3 and rng.random() < 0.2 else 0.0,
        beard="none" if hair == "scarf" else beard,
        glasses=pick(("none", "round", "square"), (7, 1, 1)),
        glasses_color=pick(((38, 34, 36), (96, 58, 40), (150, 120, 70), (70, 80, 100), (140, 40, 50))),
        earrings=bool(not masculine and rng.random() < 0.35),
        neck=around(1.16 if masculine else 0.96, 0.09),
    )


def make_scene(seed: int) -> Scene:
    """The scene of this seed, for ever the same."""
    rng = np.random.default_rng([0x5CE4E, seed])

    def pick(options: Sequence) -> Any:
        return options[int(rng.integers(len(options)))]

    wall_light, wall_dark = pick(WALLS)
    cloth = pick(CLOTHES)
    return Scene(
        seed=seed,
        cloth=tuple(np.clip(np.array(cloth) + rng.normal(0, 8, 3), 10, 245).tolist()),
        collar=pick(("round", "v", "shirt", "high")),
        pattern=pick(("knit", "plain", "plain", "stripes")),
        wall_light=wall_light,
        wall_dark=wall_dark,
        backdrop=pick(("plaster", "plaster", "window", "shelf", "panels")),
        light=float(pick((-1, 1)) * rng.uniform(0.6, 1.0)),
        warmth=float(rng.normal(0, 0.02)),
        brightness=float(rng.uniform(0.94, 1.06)),
        framing=float(rng.uniform(0.96, 1.06)),
        shift=float(rng.uniform(-0.02, 0.02)),
    )
