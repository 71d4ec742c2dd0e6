"""Batches of drawn clips, for all that the small model is made of: pictures for the VAE, speech for its encoder, features for stages.

A batch follows from (seed, position, process) alone: rows are drawn with replacement, so a position is a number. Some batches are
made ahead by threads.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from livetalk_jax.config import ModelConfig, StreamConfig
from livetalk_jax.data.procedural.encode import ARRAYS, DONE, NEGATIVE, recipe
from livetalk_jax.data.procedural.store import StoredClips
from livetalk_jax.stream.color import LabStatistics
from livetalk_jax.training.autoencoding import VideoBatch
from livetalk_jax.training.batch import TrainBatch
from livetalk_jax.training.listening import PARTS, SpeechBatch

Batch = TypeVar("Batch")

THREADS, AHEAD = 8, 16


class Drawn(Generic[Batch]):
    """A `training.batch.TrainData` of batches that `make(rng)` makes.

    Attributes:
        negative_text: [L, text_dim] where the batches have text, else empty.
    """

    def __init__(
        self,
        make: Callable[[np.random.Generator], Batch],
        rows: "_Rows",
        batch: int,
        seed: int,
        process: int,
        negative_text: np.ndarray | None = None,
    ):
        self._make, self._seed, self._process = make, seed, process
        self._identity = f"batches of {batch} of {rows.counts} clips, seed {seed}"
        self.negative_text = np.zeros((0, 0), np.float32) if negative_text is None else negative_text
        self._threads = ThreadPoolExecutor(THREADS)
        self._ahead: collections.deque[Future[Batch]] = collections.deque()
        self._position = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        while len(self._ahead) < AHEAD:
            rng = np.random.default_rng([self._seed, self._process, self._position + len(self._ahead)])
            self._ahead.append(self._threads.submit(self._make, rng))
        self._position += 1
        return self._ahead.popleft().result()

    def get_state(self) -> dict[str, Any]:
        """The position behind the last batch that was returned."""
        return {"position": self._position, "identity": self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
            ValueError: it is one of other clips, another seed or another batch size.
        """
        if state["identity"] != self._identity:
            raise ValueError(
                f"the position is one among {state['identity']}; these are {self._identity}: an exact resume needs the same"
            )
        self._position = state["position"]
        self._ahead.clear()


class _Rows:
    """A row of many folders' rows: which folder, and which of its rows."""

    def __init__(self, counts: Sequence[int]):
        self.counts = list(counts)
        self._ends = np.cumsum(counts)

    def draw(self, rng: np.random.Generator, rows: int) -> list[tuple[int, int]]:
        numbers = rng.integers(self._ends[-1], size=rows)
        folders = np.searchsorted(self._ends, numbers, side="right")
        begins = np.concatenate([[0], self._ends])
        return [(int(folder), int(number - begins[folder])) for folder, number in zip(folders, numbers, strict=True)]


def videos(path: str, *, frames: int, batch: int, seed: int, process: int = 0) -> Drawn[VideoBatch]:
    """`frames` frames in a row of drawn clips.

    Raises:
        FileNotFoundError: a folder holds no clips, or is not finished.
    """
    stored = [StoredClips(folder) for folder in path.split(",")]
    rows = _Rows([len(clips) for clips in stored])

    def make(rng: np.random.Generator) -> VideoBatch:
        pictures, mouths, closed = [], [], []
        for folder, number in rows.draw(rng, batch):
            clips = stored[folder]
            begin = int(rng.integers(clips.frames.shape[1] - frames + 1))
            part = slice(begin, begin + frames)
            pictures.append(clips.frames[number, part])
            mouths.append(np.stack([clips.truth[name][number, part] for name in ("mouth_x", "mouth_y", "unit")], -1))
            closed.append(clips.truth["closed"][number, part])
        return VideoBatch(np.stack(pictures), np.stack(mouths), np.stack(closed))

    return Drawn(make, rows, batch, seed, process)


def speech(path: str, stream: StreamConfig, *, batch: int, seed: int, process: int = 0) -> Drawn[SpeechBatch]:
    """What is heard before the end of some chunk of a drawn clip, and the chunk's mouths. Raises as `videos`."""
    stored = [StoredClips(folder) for folder in path.split(",")]
    rows = _Rows([len(clips) for clips in stored])
    step = stream.frames - stream.motion_frames

    def make(rng: np.random.Generator) -> SpeechBatch:
        sounds, mouths = [], []
        for folder, number in rows.draw(rng, batch):
            clips = stored[folder]
            chunk = int(rng.integers(clips.speech.shape[1]))
            part = slice(chunk * step, chunk * step + stream.frames)
            sounds.append(clips.speech[number, chunk])
            mouths.append(np.stack([clips.truth[name][number, part] for name in PARTS], -1))
        return SpeechBatch(np.stack(sounds), np.stack(mouths).astype(np.float32))

    return Drawn(make, rows, batch, seed, process)


def features(
    path: str, model: ModelConfig, stream: StreamConfig, *, batch: int, chunks: int, seed: int, process: int = 0
) -> Drawn[TrainBatch]:
    """Encoded clips, held in memory; of longer clips any `chunks` in a row. Batches are float16, as the clips: half as much to carry.

    Raises:
        FileNotFoundError: a folder holds no encoded clips, or is not finished.
        ValueError: they were encoded for another configuration, or are shorter.
    """
    folders = [Path(folder) for folder in path.split(",")]
    for folder in folders:
        if not (folder / DONE).is_file():
            raise FileNotFoundError(f"{folder} holds no encoded clips ({DONE} is missing); `livetalk data encode` makes them")
        if (folder / DONE).read_text() != recipe(model, stream):
            raise ValueError(f"{folder} was encoded for another configuration; encode the clips for this one")
    held = [{name: np.load(folder / f"{name}.npy") for name in ARRAYS} for folder in folders]
    longest = min(part["chunk_latents"].shape[1] for part in held)
    if longest < chunks:
        raise ValueError(f"{path} has clips of {longest} chunks, this run needs {chunks}")
    rows = _Rows([len(part["clip"]) for part in held])
    window = model.dit.audio_window
    # A frame with its neighbours; behind the last there are none yet (`stream.audio.windows`).
    near = np.arange(window // 2, window // 2 + stream.frames)[:, None] + np.arange(window) - window // 2
    near = np.minimum(near, window // 2 + stream.frames - 1)

    def make(rng: np.random.Generator) -> TrainBatch:
        drawn: dict[str, list[np.ndarray]] = {name: [] for name in ARRAYS}
        for folder, number in rows.draw(rng, batch):
            first = int(rng.integers(longest - chunks + 1))
            for name in ARRAYS:
                row = held[folder][name][number]
                drawn[name].append(row[first : first + chunks] if name in ("chunk_latents", "audio") else row)
        row = {name: np.stack(values) for name, values in drawn.items()}
        return TrainBatch(
            chunk_latents=row["chunk_latents"],
            reference_latents=row["reference_latents"],
            portrait_latent=row["reference_latents"][:, :1],
            clip=row["clip"],
            text=row["text"],
            audio=np.take(row["audio"][:, None], near, axis=3),
            color=LabStatistics(row["color_mean"], row["color_deviation"]),
        )

    return Drawn(make, rows, batch, seed, process, np.load(folders[0] / NEGATIVE).astype(np.float32))
