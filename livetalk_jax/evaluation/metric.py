"""What a metric is.

A metric is a module with

    def begin(clip: Clip, weights: Path | None) -> Meter

A `Meter` is given the frames of one video in order and in pieces, each frame once, and then asked for its scores: so 1,000 s are
scored while they are generated, and never lie in memory. What a meter keeps must be small: numbers or features, no frames.
A metric that cannot be had for a clip raises `Absent`, in `begin` or in `scores`; it is then reported as absent, never as zero.

A metric that compares sets of videos (FID, FVD) gives `Scores.features` for every video, of ours and of the references, and has

    def compare(ours: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> dict[str, float]

`registry.METRICS` lists the modules with their columns, sources and weights.
"""

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

SAMPLE_RATE = 16_000

Better = Literal["higher", "lower", "zero", "neither"]


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is known of a video of the procedural set.

    Attributes:
        frames: of each frame, arrays [F], as `data.procedural.dataset.Truth`.
        person, scene: their numbers.
    """

    frames: dict[str, np.ndarray]
    person: int
    scene: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """What is known of a video before its first frame.

    Attributes:
        name: of the sample.
        height, width: pixels of its frames.
        fps: frames a second.
        waveform: float32 [samples], its sound at 16 kHz; empty if it has none.
        portrait: uint8 [Y, X, 3], what it was made from, in the video's size.
        joins: a chunk begins at each multiple of so many frames; None where that is not known.
        codec: through which the frames came, as FFmpeg names it; None if they were never compressed.
        truth: None beside the procedural set.
    """

    name: str
    height: int
    width: int
    fps: float
    waveform: np.ndarray
    portrait: np.ndarray
    joins: int | None = None
    codec: str | None = None
    truth: Truth | None = None


class Absent(Exception):
    """A metric that cannot be had; the message is the reason, in one line."""


class Curve(NamedTuple):
    """A measure over time: seconds [N] and values [N]."""

    seconds: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a meter found.

    Attributes:
        numbers: by the names of the metric's columns; one that does not apply to this video is left out.
        curves: by name; a point a second is enough (`curve`).
        features: float32 [N, D], only of metrics that compare sets.
    """

    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    curves: dict[str, Curve] = dataclasses.field(default_factory=dict)
    features: np.ndarray | None = None


class Meter(Protocol):
    """One metric at work on one video."""

    def add(self, frames: np.ndarray) -> None:
        """The next frames, uint8 [F, Y, X, 3], F at least 1."""

    def scores(self) -> Scores:
        """Asked for once, behind the last frame."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A number in the report.

    Attributes:
        name: in tables and files.
        better: what is good: "higher", "lower", near "zero", or "neither" (it describes, or is compared with the reference's).
        says: what it is, in half a sentence, with its unit.
        needs: what a video must have for it; its metric leaves the number out where it does not.
    """

    name: str
    better: Better
    says: str
    needs: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """An entry of the registry.

    Attributes:
        name: as `--metrics` takes it.
        module: has `begin`, and `compare` where `sets`.
        version: of the computation; raised when its numbers change, so that finished samples are scored again.
        source: paper or code that defines it.
        weights: files in the folder `--weights`, by these names.
        sets: compares all videos with all references.
        fps: frames a second that it is defined for; the harness then gives it the nearest frames at that rate.
    """

    name: str
    module: str
    columns: tuple[Column, ...]
    source: str
    version: int = 1
    weights: tuple[str, ...] = ()
    sets: bool = False
    fps: int | None = None


def weight_file(weights: Path | None, name: str) -> Path:
    """A file of published weights.

    Raises:
        Absent: it is not there.
    """
    if weights is None:
        raise Absent(f"needs {name}: give its folder by --weights")
    if not (weights / name).exists():
        raise Absent(f"needs {name}, which is not in {weights}")
    return weights / name


def curve(values: np.ndarray, fps: float, seconds: float = 1.0) -> Curve:
    """Means of a track [F] over stretches of `seconds`, NaN aside; a stretch without any value is left out."""
    step = max(round(seconds * fps), 1)
    parts = [values[k : k + step] for k in range(0, len(values), step)]
    found = [(k, part[np.isfinite(part)]) for k, part in enumerate(parts)]
    kept = [((k * step + len(parts[k]) / 2) / fps, part.mean()) for k, part in found if len(part)]
    times, means = np.array(kept, np.float64).reshape(-1, 2).T
    return Curve(times, means)


def ends(track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last ten values of a track [N] of seconds; of a short one, the first and last third."""
    count = max(min(10, len(track) // 3), 1)
    return track[:count], track[-count:]
