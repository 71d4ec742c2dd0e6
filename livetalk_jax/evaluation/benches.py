"""What models are given and judged by: portraits and speech, with the real video beside them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from livetalk_jax.data import buckets
from livetalk_jax.data.decode import probe, read_frames, read_sound
from livetalk_jax.data.procedural.dataset import ESPEAK, FPS, ProceduralSet
from livetalk_jax.data.procedural.speech import Synthesiser
from livetalk_jax.data.record import Record
from livetalk_jax.evaluation.lists import Entry
from livetalk_jax.evaluation.metric import SAMPLE_RATE, Truth
from livetalk_jax.evaluation.videos import describe

BLOCK = 32  # frames


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be said by whom.

    Attributes:
        portrait: uint8 [Y, X, 3], of the size that is wanted.
        waveform: float32 [samples], 16 kHz.
        real: frames of the real video, uint8 [F, Y, X, 3] in blocks, at 25 a second.
        truth: of the procedural set.
        codec: through which the frames of the real video came, as FFmpeg names it; None if they were never compressed.
    """

    name: str
    portrait: np.ndarray
    waveform: np.ndarray
    real: Callable[[], Iterator[np.ndarray]]
    truth: Truth | None
    codec: str | None = None


class Bench(Protocol):
    """Tasks by name, made when they are asked for."""

    names: Sequence[str]

    def about(self, name: str) -> dict[str, Any]:
        """What a task depends on, as JSON can hold it."""

    def task(self, name: str) -> Task: ...


class Procedural:
    """Persons, voices and sentences that nothing was trained on; needs espeak-ng and no download.

    Args:
        count: samples.
        seconds: of each.
        size: height and width.
    """

    SEED = 20_251  # of the bench, for ever

    def __init__(self, count: int, seconds: float, size: tuple[int, int], synthesiser: Synthesiser = ESPEAK):
        self._set = ProceduralSet(self.SEED, "test", count, seconds, *size, synthesiser)
        self.names: Sequence[str] = [f"drawn-{number:03d}" for number in range(count)]

    def about(self, name: str) -> dict[str, Any]:
        data = self._set
        return {"bench": "procedural", "seed": data.seed, "seconds": data.seconds, "size": [data.height, data.width]}

    def task(self, name: str) -> Task:
        recording = self._set.recording(self.names.index(name))

        def real() -> Iterator[np.ndarray]:
            for start in range(0, len(recording), BLOCK):
                yield recording.frames(start, min(start + BLOCK, len(recording)))

        truth = Truth(recording.truth(), recording.who.number, recording.scene.seed)
        return Task(name, recording.portrait(), recording.waveform(), real, truth)


class Listed:
    """A list of TalkBench with the data sets that it was made from.

    Args:
        roots: folder of each source.
        sizes: (height, width) that the model has; the nearest in shape is taken.

    Raises:
        ValueError: the list needs a source whose folder is not given.
        OSError: files of the list are not there; told at once, not hours later when their turn comes.
    """

    def __init__(self, entries: Sequence[Entry], roots: dict[str, Path], sizes: tuple[tuple[int, int], ...]):
        if missing := {entry.source for entry in entries} - set(roots):
            raise ValueError(f"the list has samples of {', '.join(sorted(missing))}: give the folder by --{min(missing)}")
        needed = {
            roots[entry.source] / file
            for entry in entries
            for file in (entry.portrait["video"], *(file for piece in entry.pieces for file in (piece.video, piece.sound)))
        }
        if absent := sorted(path for path in needed if not path.is_file()):
            raise FileNotFoundError(f"{len(absent)} of the {len(needed)} files of the list are missing, such as {absent[0]}")
        self._entries = {f"{entry.bench}-{number:03d}": entry for number, entry in enumerate(entries)}
        self._roots, self._sizes = roots, sizes
        self.names: Sequence[str] = list(self._entries)

    def about(self, name: str) -> dict[str, Any]:
        return {"entry": dataclasses.asdict(self._entries[name]), "sizes": [list(size) for size in self._sizes]}

    def task(self, name: str) -> Task:
        """Raises ValueError where a file is missing or damaged."""
        entry = self._entries[name]
        root = self._roots[entry.source]
        first = entry.pieces[0]
        record = Record(
            key=entry.id, video=str(root / first.video), sound=(str(root / first.sound),), start=first.start, end=first.end,
            person=entry.person, caption=entry.caption, source=entry.source, crop=entry.crop,
        )  # fmt: skip
        looked = probe(record)
        size = buckets.choose((looked.height, looked.width), entry.crop, self._sizes)

        def fit(picture: np.ndarray) -> np.ndarray:
            return buckets.fit(picture, entry.crop, size)

        def real() -> Iterator[np.ndarray]:
            for piece in entry.pieces:
                times = piece.start + np.arange(_frames(piece.end - piece.start)) / FPS
                for start in range(0, len(times), BLOCK):
                    yield np.stack(read_frames(str(root / piece.video), times[start : start + BLOCK].tolist(), fit))

        sounds = [
            read_sound(str(root / piece.sound), piece.start, _frames(piece.end - piece.start) / FPS, SAMPLE_RATE)
            for piece in entry.pieces
        ]
        [portrait] = read_frames(str(root / entry.portrait["video"]), [entry.portrait["second"]], fit)
        codecs = {describe(root / piece.video).codec for piece in entry.pieces}
        return Task(name, portrait, np.concatenate(sounds), real, None, ", ".join(sorted(codecs)))


def _frames(seconds: float) -> int:
    return int(seconds * FPS + 1e-6)
