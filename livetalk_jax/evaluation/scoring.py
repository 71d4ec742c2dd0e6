"""One video through all meters, once."""

import dataclasses
import functools
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from livetalk_jax.evaluation.metric import Absent, Clip, Curve, Meter, Metric, Scores

Frames = Iterable[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A video to be scored.

    Attributes:
        frames: its frames in order, in blocks uint8 [F, Y, X, 3]; called once.
        reference: frames of the real video that it is compared with, if there is one.
    """

    clip: Clip
    frames: Callable[[], Frames]
    reference: Callable[[], Frames] | None = None


@dataclasses.dataclass
class Result:
    """What was found in a video.

    Attributes:
        numbers: by column.
        absent: metric → why it has no numbers.
        curves: "metric: name" → the measure over time.
        features: metric → [N, D], of metrics that compare sets; `reference_features` those of the reference.
        seconds: metric → seconds that it took.
        frames, fps, height, width, codec: of the video; sizes are 0 in runs of before they were kept.
    """

    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    absent: dict[str, str] = dataclasses.field(default_factory=dict)
    curves: dict[str, Curve] = dataclasses.field(default_factory=dict)
    features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    reference_features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0
    codec: str | None = None


def module_of(metric: Metric) -> Any:
    return importlib.import_module(metric.module)


class _Paced:
    """Gives a meter the frames of another rate: at each of its times the frame that is shown then."""

    def __init__(self, meter: Meter, rate: float, fps: float):
        self._meter, self._ratio = meter, rate / fps
        self._seen = self._given = 0

    def add(self, frames: np.ndarray) -> None:
        self._seen += len(frames)
        chosen = []
        while (place := int((self._given + 0.5) * self._ratio)) < self._seen:
            chosen.append(place - (self._seen - len(frames)))
            self._given += 1
        if chosen:
            self._meter.add(frames[chosen])

    def scores(self) -> Scores:
        return self._meter.scores()


class _Panel:
    """Meters of all metrics at work on one stream of frames; those that cannot go on fall out with their reason."""

    def __init__(self, clip: Clip, metrics: Sequence[Metric], weights: Path | None):
        self.absent: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._meters: dict[str, Meter] = {}
        for metric in metrics:
            self._timed(metric.name, functools.partial(self._begin, metric, clip, weights))

    def _begin(self, metric: Metric, clip: Clip, weights: Path | None) -> None:
        if metric.fps is not None and metric.fps != clip.fps:
            paced = dataclasses.replace(clip, fps=float(metric.fps), joins=None, truth=None)
            meter = module_of(metric).begin(paced, weights)
            self._meters[metric.name] = _Paced(meter, clip.fps, metric.fps)
        else:
            self._meters[metric.name] = module_of(metric).begin(clip, weights)

    def _timed(self, name: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        try:
            return call()
        except Absent as absent:
            self.absent[name] = str(absent)
            self._meters.pop(name, None)
            return None
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun

    def add(self, frames: np.ndarray) -> None:
        for name, meter in list(self._meters.items()):
            self._timed(name, functools.partial(meter.add, frames))

    def scores(self) -> dict[str, Scores]:
        found = {name: self._timed(name, meter.scores) for name, meter in list(self._meters.items())}
        return {name: scores for name, scores in found.items() if scores is not None}


def score(sample: Sample, metrics: Sequence[Metric], weights: Path | None, watch: Callable[[np.ndarray], None]) -> Result:
    """Score one video, reading its frames once.

    Args:
        metrics: of the registry.
        weights: the folder of published weights.
        watch: is shown each block of frames, before it is scored.

    Raises:
        ValueError: the video has no frames, or frames of another size than it says.
    """
    clip = sample.clip
    panel = _Panel(clip, metrics, weights)
    count = 0
    for frames in sample.frames():
        if frames.dtype != np.uint8 or frames.shape[1:] != (clip.height, clip.width, 3):
            raise ValueError(f"{clip.name}: frames {frames.dtype} {list(frames.shape)}, not uint8 {clip.height}×{clip.width}")
        watch(frames)
        panel.add(frames)
        count += len(frames)
    if not count:
        raise ValueError(f"{clip.name} has no frames")
    result = Result(frames=count, fps=clip.fps, height=clip.height, width=clip.width, codec=clip.codec)
    for name, scores in panel.scores().items():
        result.numbers |= {column: float(value) for column, value in scores.numbers.items()}
        result.curves |= {f"{name}: {title}": line for title, line in scores.curves.items()}
        if scores.features is not None:
            result.features[name] = scores.features
    result.absent, result.seconds = panel.absent, panel.seconds

    sets = [metric for metric in metrics if metric.name in result.features]
    if sets and sample.reference is not None:
        other = _Panel(clip, sets, weights)
        for frames in sample.reference():
            other.add(frames)
        found = other.scores().items()
        result.reference_features = {name: scores.features for name, scores in found if scores.features is not None}
    return result


def in_blocks(frames: Iterable[np.ndarray], size: int = 32) -> Iterator[np.ndarray]:
    """Single frames [Y, X, 3] as blocks [F, Y, X, 3]."""
    waiting: list[np.ndarray] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting.clear()
    if waiting:
        yield np.stack(waiting)
