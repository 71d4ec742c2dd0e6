"""What a source of training data finds: recordings of one person, and what it had to leave out."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# A caption that is missing; the sets' own captions describe what is seen, this says no more than what is sure.
FALLBACK_CAPTION = "A person is talking."

NUMBER = (int, float)  # for `first`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One recording of one person.

    Attributes:
        key: names it for ever: source, and the file's path below the root (with the interval, where a file holds several).
        video: file with the pictures.
        sound: files that may hold the sound, the first that exists and has any is taken; cut like `video`.
        start, end: seconds of `video` that belong to it, None for the file's end. Nothing outside is ever read.
        person: who it is, by the source's own numbering; what train and test are kept apart by.
        caption: what is seen, for the text encoder.
        source: "talkvid", "speakervid" or "folder".
        crop: left, top, right, bottom of the person as shares of the picture, or None where the file is cropped already.
        measures: published scores by the names of `filters.MEASURES`.
    """

    key: str
    video: str
    sound: tuple[str, ...]
    start: float
    end: float | None
    person: str
    caption: str
    source: str
    crop: tuple[float, float, float, float] | None = None
    measures: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """What was not used: its key or path, the reason (few different ones, they are counted), and the details in one line."""

    key: str
    reason: str
    detail: str = ""


class Damaged(ValueError):
    """A file that cannot be used.

    Args:
        reason: as in `LeftOut`.
        detail: one line that names the file.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def read_json(path: Path) -> Any:
    """Raises Damaged where the file cannot be read as JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Damaged("annotation unreadable", f"{path}: {' '.join(str(error).split())}") from error


def first(mapping: Any, names: Iterable[str], kind: type | tuple[type, ...]) -> Any:
    """The first of several possible fields that is there and of the kind wanted, else None; numbers in quotes count as numbers.

    The published sets are not of one mind about names and kinds.
    """
    for name in names:
        value = mapping.get(name) if isinstance(mapping, dict) else None
        if isinstance(value, str) and kind == NUMBER:
            try:
                value = float(value)
            except ValueError:
                continue
        if isinstance(value, kind) and value != "":
            return value
    return None
