"""From phonemes with their times to the mouth's shape in every frame.

Each phoneme has a shape, and says how much each part of the shape matters to it: a /k/ leaves the lips to its neighbours, an /u/
insists on rounding. Shapes are blended by these dominances over about 100 ms (after Cohen and Massaro, Modeling Coarticulation in
Synthetic Visual Speech, 1993), a little ahead of the sound as lips are; and lips that must touch, do.
"""

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

RATE = 200  # steps a second in which shapes are blended
BLEND = 0.042  # seconds, the deviation of the blending
LEAD = 0.018  # seconds by which lips are ahead of the sound
CLOSED_AT_LEAST = 0.064  # seconds: longer than a frame, so that each closure is seen
FLANK = 0.075  # seconds in which lips close and part

PARTS = ("openness", "width", "rounding", "teeth", "tongue", "press", "tuck")  # of `face.Mouth`, in the order of its fields


class Phoneme(NamedTuple):
    """A phoneme as the synthesiser names it ("" is silence), and its seconds."""

    name: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Shape:
    """A mouth's target, and how much of its openness, spread or rounding, and tongue are the phoneme's own."""

    openness: float
    width: float = 0.0
    rounding: float = 0.0
    teeth: float = 0.6
    tongue: float = 0.0
    tuck: float = 0.0
    open_dominance: float = 1.0
    lip_dominance: float = 0.6
    weight: float = 1.0  # its share of a phoneme of several letters


def _vowel(openness: float, width: float = 0.0, rounding: float = 0.0, teeth: float | None = None) -> Shape:
    teeth = 0.6 + 0.35 * max(width, 0) - 0.5 * rounding if teeth is None else teeth
    return Shape(openness, width, rounding, teeth, lip_dominance=0.7 + 0.5 * rounding)


SILENCE = Shape(0.0, teeth=0.5, open_dominance=0.8, lip_dominance=0.5)
CLOSED = Shape(0.0, open_dominance=0.35, lip_dominance=0.3)
DEFAULT = Shape(0.28, open_dominance=0.4, lip_dominance=0.2)
BREATH = Shape(0.3, open_dominance=0.25, lip_dominance=0.1, weight=0.4)

_LABIODENTAL = Shape(0.13, 0.1, 0.0, 0.95, 0.0, 1.0, open_dominance=1.6, lip_dominance=0.9)
_DENTAL = Shape(0.2, 0.1, 0.0, 0.8, 0.95, open_dominance=0.8, lip_dominance=0.3)
_ALVEOLAR = Shape(0.2, 0.15, 0.0, 0.75, 0.7, open_dominance=0.45, lip_dominance=0.25, weight=0.7)
_SIBILANT = Shape(0.14, 0.5, 0.0, 1.0, open_dominance=1.1, lip_dominance=0.6)
_BACK = Shape(0.3, open_dominance=0.35, lip_dominance=0.15, weight=0.8)

SHAPES: dict[str, Shape] = {
    # vowels: open, wide, round
    **dict.fromkeys("aä", _vowel(0.9, 0.25)), **dict.fromkeys("ɑɐ", _vowel(0.85)), "æ": _vowel(0.8, 0.5), "ʌ": _vowel(0.62, 0.1),
    "ɒ": _vowel(0.72, 0, 0.35), "ɔ": _vowel(0.62, 0, 0.5), "o": _vowel(0.44, 0, 0.72), "ʊ": _vowel(0.28, 0, 0.62),
    "u": _vowel(0.2, 0, 0.95),
    "ɯ": _vowel(0.22, 0.2), "ɨ": _vowel(0.2, 0.3), "ʉ": _vowel(0.2, 0, 0.7), "i": _vowel(0.2, 0.9),
    **dict.fromkeys("ɪᵻ", _vowel(0.3, 0.55)), "e": _vowel(0.4, 0.65),
    "ɛ": _vowel(0.56, 0.5), "ə": _vowel(0.34, 0.05), "ɘ": _vowel(0.32), "ɜ": _vowel(0.42, 0, 0.15), "ɝ": _vowel(0.4, 0, 0.25),
    "ɚ": _vowel(0.34, 0, 0.25), "ɞ": _vowel(0.45, 0, 0.3), "y": _vowel(0.18, 0, 0.9), "ʏ": _vowel(0.22, 0, 0.75),
    "ø": _vowel(0.36, 0, 0.72),
    "œ": _vowel(0.5, 0, 0.58), "ɶ": _vowel(0.7, 0, 0.4), "ɤ": _vowel(0.42), "ɵ": _vowel(0.3, 0, 0.6), "E": _vowel(0.5, 0.5),
    "I": _vowel(0.3, 0.55),
    # consonants, from the lips inwards
    **dict.fromkeys("mbpɓ", CLOSED),
    **dict.fromkeys("fvʋɱ", _LABIODENTAL),
    **dict.fromkeys("βɸ", Shape(0.1, 0, 0.15, 0.4, open_dominance=1.4, lip_dominance=0.5)),
    **dict.fromkeys("wʍ", Shape(0.14, 0, 1.0, 0.1, open_dominance=1.3, lip_dominance=1.3)),
    "ɥ": Shape(0.14, 0, 0.9, 0.2, open_dominance=1.2, lip_dominance=1.2),
    **dict.fromkeys("θð", _DENTAL),
    **dict.fromkeys("tdnlɾɫɬɮɗ", _ALVEOLAR), **dict.fromkeys("ʈɖɳɭɽ", dataclasses.replace(_ALVEOLAR, rounding=0.1)),
    **dict.fromkeys("sz", _SIBILANT),
    **dict.fromkeys("ʃʒ", Shape(0.22, 0, 0.5, 0.95, open_dominance=1.0, lip_dominance=0.9)),
    **dict.fromkeys("ʂʐ", Shape(0.2, 0, 0.3, 0.95, open_dominance=0.9, lip_dominance=0.6)),
    **dict.fromkeys("ɕʑ", Shape(0.18, 0.35, 0, 1.0, open_dominance=0.9, lip_dominance=0.6)),
    **dict.fromkeys("ɹɻ", Shape(0.26, 0, 0.45, 0.5, open_dominance=0.6, lip_dominance=0.6)),
    "r": Shape(0.28, 0.1, 0, 0.7, 0.5, open_dominance=0.6, lip_dominance=0.2),
    "j": Shape(0.22, 0.6, 0, 0.8, 0.1, open_dominance=0.6, lip_dominance=0.5, weight=0.6),
    **dict.fromkeys("ɲʎcɟçʝ", Shape(0.24, 0.35, 0, 0.8, 0.4, open_dominance=0.5, lip_dominance=0.3)),
    **dict.fromkeys("kɡgŋxɣqɢɴχʁħʕʔʀR", _BACK), **dict.fromkeys("hɦʰ", BREATH),
}  # fmt: skip

# The synthesiser's spellings of sounds that IPA writes with one letter.
_SPELLINGS = (
    ("s.", "ʂ"),
    ("z.", "ʐ"),
    ("t.", "ʈ"),
    ("d.", "ɖ"),
    ("n.", "ɳ"),
    ("l.", "ɭ"),
    ("i.", "ɨ"),
    ("l^", "ʎ"),
    ("n^", "ɲ"),
    ("u-", "ʉ"),
)
LABIAL = frozenset("mbpɓ")


def shapes_of(name: str) -> list[Shape]:
    """The shapes that a phoneme goes through: two for a diphthong or an affricate, one for most.

    Length, tone and other marks are passed over; a phoneme that nothing is known about has `DEFAULT`.
    """
    if not name or name.startswith(("(", "_")):
        return [SILENCE]
    for spelling, letter in _SPELLINGS:
        name = name.replace(spelling, letter)
    letters = [c for c in unicodedata.normalize("NFC", name) if c in SHAPES]
    if not letters:  # a letter with its mark in one
        letters = [c for c in unicodedata.normalize("NFD", name) if c in SHAPES]
    return [SHAPES[letter] for letter in letters] or [DEFAULT]


def closure(phoneme: Phoneme) -> tuple[float, float] | None:
    """The seconds in which a phoneme's lips touch; None if they need not.

    The synthesiser tells a /p/ when it bursts, the silence of its closed lips lies before; /m/ and /b/ sound while they are closed
    (measured from the sound: docs/procedural.md).
    """
    if not phoneme.name or phoneme.name[0] not in LABIAL:
        return None
    start, end = (
        (phoneme.start - 0.045, phoneme.start + 0.012)
        if phoneme.name[0] == "p"
        else (phoneme.start, min(phoneme.end, phoneme.start + 0.14))
    )
    missing = max(CLOSED_AT_LEAST - (end - start), 0.0)
    return (start - missing, end) if phoneme.name[0] == "p" else (start - 0.4 * missing, end + 0.6 * missing)


def closed_at(phonemes: Sequence[Phoneme], times: np.ndarray) -> np.ndarray:
    """bool [times]: whether the lips of an /m/, /b/ or /p/ touch then."""
    closed = np.zeros(len(times), bool)
    for start, end in filter(None, map(closure, phonemes)):
        closed |= (times >= start) & (times <= end)
    return closed


def name_at(phonemes: Sequence[Phoneme], times: np.ndarray) -> list[str]:
    """The phoneme that sounds at each time, "" in silence."""
    starts = np.array([p.start for p in phonemes] or [np.inf])
    chosen = np.searchsorted(starts, times, side="right") - 1
    return [phonemes[k].name if k >= 0 and t < phonemes[k].end else "" for k, t in zip(chosen, times, strict=True)]


def mouth_track(phonemes: Sequence[Phoneme], times: np.ndarray) -> np.ndarray:
    """The mouth's shape, float32 [times, PARTS], as values for `face.Mouth`.

    Args:
        phonemes: in the order of their times; between them it is silent.
        times: seconds, ascending.
    """
    pad = 0.5
    begin = float(times[0]) - pad
    grid = begin + np.arange(int((float(times[-1]) + pad - begin) * RATE) + 1) / RATE
    rest = np.array([0.0, 0.0, 0.0, SILENCE.teeth, 0.0, 0.0])
    target = np.tile(rest, (len(grid), 1))
    weight = np.tile([SILENCE.open_dominance, SILENCE.lip_dominance], (len(grid), 1))
    for phoneme in phonemes:
        shapes = shapes_of(phoneme.name)
        ends = phoneme.start + (phoneme.end - phoneme.start) * np.cumsum([s.weight for s in shapes]) / sum(s.weight for s in shapes)
        start = phoneme.start
        for shape, end in zip(shapes, ends, strict=True):
            now = slice(*np.searchsorted(grid, [start, end]))
            target[now] = shape.openness, shape.width, shape.rounding, shape.teeth, shape.tongue, shape.tuck
            weight[now] = shape.open_dominance, shape.lip_dominance
            start = end
    part_weight = weight[:, [0, 1, 1, 0, 0, 0]]  # openness, width, rounding, teeth, tongue, tuck
    blend = BLEND * RATE
    track = gaussian_filter1d(target * part_weight, blend, axis=0) / gaussian_filter1d(part_weight, blend, axis=0)
    ahead = np.minimum(np.arange(len(grid)) + round(LEAD * RATE), len(grid) - 1)
    track = track[ahead]

    shut = np.zeros(len(grid))
    for start, end in filter(None, map(closure, phonemes)):
        away = np.maximum(np.maximum(start - grid, grid - end), 0) / FLANK
        shut = np.maximum(shut, np.where(away < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(away, 1)), 0))
    openness, width, rounding, teeth, tongue, tuck = track.T
    # In silence the lips rest on each other, and do not just come near.
    openness = np.maximum(openness - 0.02, 0) / 0.98 * (1 - shut)
    track = np.stack([openness, width, rounding, teeth, tongue * (1 - shut), 0.6 * shut, tuck * (1 - shut)], 1)
    return np.stack([np.interp(times, grid, part) for part in track.T], 1).astype(np.float32)
