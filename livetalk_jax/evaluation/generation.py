"""Models under test: a configuration that generates a bench's videos, and the real videos themselves as the mark to reach."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from livetalk_jax import checkpoint
from livetalk_jax.config import RunConfig
from livetalk_jax.evaluation.benches import Bench, Task
from livetalk_jax.evaluation.metric import Clip
from livetalk_jax.evaluation.provenance import identify
from livetalk_jax.evaluation.scoring import Sample
from livetalk_jax.generate import checkpoint_for, networks_for
from livetalk_jax.stream.session import Pipeline, layout
from livetalk_jax.tokenizer import load_tokenizer

FPS = 25
SPEED_CHUNKS = 8  # timed before anything is scored


class Work(Protocol):
    """Samples by name; `VideoFolder` is one too.

    Attributes:
        made_by: what is known of the maker of the videos, as JSON can hold it.
    """

    names: Sequence[str]
    made_by: dict[str, Any]

    def about(self, name: str) -> dict[str, Any]: ...

    def sample(self, name: str) -> Sample: ...


def _sample(task: Task, frames, joins: int | None, codec: str | None) -> Sample:
    height, width = task.portrait.shape[:2]
    clip = Clip(
        name=task.name, height=height, width=width, fps=float(FPS), waveform=task.waveform, portrait=task.portrait, joins=joins,
        codec=codec, truth=task.truth,
    )  # fmt: skip
    return Sample(clip, frames, task.real)


class RealVideos:
    """A bench's own videos, scored as if a model had made them."""

    def __init__(self, bench: Bench):
        self.bench, self.names = bench, bench.names
        self.made_by: dict[str, Any] = {"model": "real video"}

    def about(self, name: str) -> dict[str, Any]:
        return {"made_by": self.made_by, "task": self.bench.about(name)}

    def sample(self, name: str) -> Sample:
        task = self.bench.task(name)
        return _sample(task, task.real, None, task.codec)


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
        read = checkpoint_for(config.model, folder)
        identity = dataclasses.asdict(identify(read)) if read else None  # None: untrained networks
        self.made_by: dict[str, Any] = {"configuration": repr(config), "checkpoint": identity, "seed": seed}

    def about(self, name: str) -> dict[str, Any]:
        held = self.made_by["checkpoint"]
        # By its digest alone: a checkpoint may move.
        return {"made_by": {**self.made_by, "checkpoint": held and held["digest"]}, "task": self.bench.about(name)}

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

        return _sample(task, frames, pipeline.geometry.new_frames, None)
