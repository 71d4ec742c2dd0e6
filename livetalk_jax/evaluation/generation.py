"""Models under test: a configuration that generates a bench's videos, and the real videos themselves as the mark to reach."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from livetalk_jax import checkpoint
from livetalk_jax.config import RunConfig
from livetalk_jax.evaluation.benches import Bench, Task
from livetalk_jax.evaluation.metric import Clip
from livetalk_jax.evaluation.scoring import Sample
from livetalk_jax.generate import networks_for
from livetalk_jax.stream.session import Pipeline, layout
from livetalk_jax.tokenizer import load_tokenizer

FPS = 25
SPEED_CHUNKS = 8  # timed before anything is scored


class Work(Protocol):
    """Samples by name; `VideoFolder` is one too."""

    names: Sequence[str]

    def about(self, name: str) -> dict[str, Any]: ...

    def sample(self, name: str) -> Sample: ...


def _sample(task: Task, frames, joins: int | None) -> Sample:
    height, width = task.portrait.shape[:2]
    clip = Clip(
        name=task.name, height=height, width=width, fps=float(FPS), waveform=task.waveform, portrait=task.portrait, joins=joins,
        truth=task.truth,
    )  # fmt: skip
    return Sample(clip, frames, task.real)


class RealVideos:
    """A bench's own videos, scored as if a model had made them."""

    def __init__(self, bench: Bench):
        self.bench, self.names = bench, bench.names

    def about(self, name: str) -> dict[str, Any]:
        return {"model": "real video", **self.bench.about(name)}

    def sample(self, name: str) -> Sample:
        task = self.bench.task(name)
        return _sample(task, task.real, None)


def _files(folder: str | None) -> list[list[Any]]:
    """Names, sizes and times of a checkpoint's files."""
    if folder is None:
        return []
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return [[os.path.relpath(path, folder), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]


class Generated:
    """What a configuration makes of a bench.

    Attributes:
        fps: frames a second of the model alone, measured on the first chunks of the first sample; None before.
    """

    def __init__(self, bench: Bench, config: RunConfig, folder: str | None, seed: int):
        self.bench, self.names = bench, bench.names
        self.config, self.folder, self.seed = config, folder, seed
        self.fps: float | None = None
        self._pipelines: dict[tuple[int, int], Pipeline] = {}
        self._identity = {"model": repr(config), "checkpoint": _files(folder), "seed": seed}

    def about(self, name: str) -> dict[str, Any]:
        return {**self._identity, **self.bench.about(name)}

    def _pipeline(self, size: tuple[int, int]) -> Pipeline:
        if size not in self._pipelines:
            config = self.config
            where = layout(config, size)
            tokenizer = config.model.tokenizer
            if self.folder is not None:
                tokenizer = checkpoint.read_manifest(self.folder).tokenizer or tokenizer
            networks = networks_for(config, self.folder, where)
            self._pipelines[size] = Pipeline(networks, config, size, load_tokenizer(tokenizer, config.model.dit.text_len))
        return self._pipelines[size]

    def _speed(self, pipeline: Pipeline, portrait: np.ndarray, waveform: np.ndarray) -> float:
        samples = SPEED_CHUNKS * pipeline.geometry.new_frames * self.config.stream.sample_rate // self.config.stream.fps
        session = pipeline.start(portrait, seed=self.seed)
        pipeline.warm_up(session)
        begun = time.perf_counter()
        count = sum(len(frames) for frames in session.speak([waveform[:samples]]))
        return count / (time.perf_counter() - begun)

    def sample(self, name: str) -> Sample:
        task = self.bench.task(name)
        pipeline = self._pipeline((task.portrait.shape[0], task.portrait.shape[1]))
        portrait = task.portrait.astype(np.float32) / 127.5 - 1
        if self.fps is None:
            self.fps = self._speed(pipeline, portrait, task.waveform)

        def frames() -> Iterator[np.ndarray]:
            yield from pipeline.start(portrait, seed=self.seed).speak([task.waveform])

        return _sample(task, frames, pipeline.geometry.new_frames)
