"""Bounds on the published scores of a recording: which are kept.

The bounds of "base" and "high" are those of the SpeakerVid-5M paper (arXiv 2507.09862) for its two tiers. That one person talks,
alone and in sync, is asked for by us: the model hears one voice and moves one mouth.
"""

from collections.abc import Iterable
from typing import NamedTuple

from livetalk_jax.data.record import LeftOut, Record

# name: what the score says. Sources translate their own fields to these.
MEASURES = {
    "dover": "video quality (DOVER); SpeakerVid-5M 0 to 1, TalkVid on a scale of its own with 8.9 in its example",
    "luminance": "mean brightness, 0 to 255",
    "blur": "sharpness of the picture, 0 to 1, more is sharper",
    "face_blur": "sharpness of the face, 0 to 1, more is sharper",
    "hand": "sharpness of the hands, 0 to 1, more is sharper",
    "motion": "how much moves",
    "asr_confidence": "mean log-probability of the transcript",
    "no_speech": "probability that nobody speaks",
    "compression": "compression ratio of the transcript; high where the recogniser repeats itself",
    "talking": "1 where the person talks",
    "speakers": "how many persons speak",
    "sync": "SyncNet's confidence that lips and sound belong together",
    "cotracker": "share of points that stay in place (TalkVid)",
    "movement": "head: steadiness of place, 0 to 100 (TalkVid)",
    "rotation": "head: steadiness of angle, 0 to 100 (TalkVid)",
    "completeness": "head: how much of it is in the picture, 0 to 100 (TalkVid)",
    "resolution": "head: its size (TalkVid)",
    "orientation": "head: how far it faces the camera, 0 to 100 (TalkVid)",
}


class Bound(NamedTuple):
    """Both ends are allowed; None is no bound."""

    low: float | None = None
    high: float | None = None

    def allows(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        return ":".join("" if end is None else f"{end:g}" for end in self)


Filters = dict[str, Bound]

_OURS: Filters = {"talking": Bound(1, None), "speakers": Bound(None, 1), "sync": Bound(3, None)}
_BASE: Filters = {
    **_OURS,
    "dover": Bound(0.25, None),
    "luminance": Bound(10, 210),
    "blur": Bound(0.1, None),
    "asr_confidence": Bound(-1.5, None),
    "no_speech": Bound(None, 0.8),
    "compression": Bound(None, 2.5),
}
_HIGH: Filters = {
    **_BASE,
    "dover": Bound(0.6, None),
    "face_blur": Bound(0.7, None),
    "hand": Bound(0.5, None),
    "motion": Bound(2, None),
    "asr_confidence": Bound(-1, None),
}
# By name, for --filters. TalkVid was filtered before it was published, with bounds of other scales: "none" is its default.
TIERS: dict[str, Filters] = {"none": {}, "base": _BASE, "high": _HIGH}
DEFAULT_TIER = {"talkvid": "none", "speakervid": "base", "folder": "none"}


def parse_filters(tier: str, changes: Iterable[str]) -> Filters:
    """A tier with some of its bounds changed.

    Args:
        tier: a name in `TIERS`.
        changes: "dover=0.6:" (at least), "compression=:2.5" (at most), "luminance=10:210", "sync=off".

    Raises:
        ValueError: a name or a bound that does not exist.
    """
    filters = dict(TIERS[tier])
    for change in changes:
        name, equals, bound = change.partition("=")
        if name not in MEASURES:
            raise ValueError(f"there is no measure {name!r}; there are {', '.join(MEASURES)}")
        if bound == "off":
            filters.pop(name, None)
            continue
        low, colon, high = bound.partition(":")
        try:
            if not (equals and colon):
                raise ValueError
            filters[name] = Bound(*(float(end) if end else None for end in (low, high)))
        except ValueError:
            raise ValueError(
                f"{change!r} is no bound: give {name}=LOW:HIGH, either of them may be left out, or {name}=off"
            ) from None
    return filters


def apply(filters: Filters, record: Record) -> LeftOut | None:
    """Why a recording is not kept, or None. A score that its source does not give keeps nothing out (`unknown` tells)."""
    for name, bound in filters.items():
        value = record.measures.get(name)
        if value is not None and not bound.allows(value):
            return LeftOut(record.key, f"filter {name}", f"{name} is {value:g}, allowed is {bound}")
    return None


def unknown(filters: Filters, record: Record) -> list[str]:
    """Filters that could not be applied, because the source gives no such score."""
    return [name for name in filters if name not in record.measures]
