"""Features on disk: what `livetalk data prepare` writes and training reads.

    left_out.jsonl                    every recording that was not used, and why
    plan.jsonl                        every clip that was chosen, and the part it belongs to
    cache.json, features.json         how clips were chosen and features made; a run that goes on must be told the same
    negative_text.npy                 umT5 states of the negative prompt, [n, text_dim]
    train/720x416/00012.array_record  the clips of part 12: one bucket and one side of the split
    parts/00012.json                  written last: part 12 is whole; which clips it holds, and which failed
    report.json, report.txt           when all parts are there

ArrayRecord is the format that grain reads at random places; a file has its index at its end and cannot be gone on with, so a part
is written under a hidden name and renamed. Whatever has no file in parts/ does not count and is made again. A record is a NumPy
.npz of `features.Features` (uncompressed, with checksums): np.load(io.BytesIO(record)).
"""

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from livetalk_jax.data.buckets import Size
from livetalk_jax.data.clips import Clip, Split
from livetalk_jax.data.features import Features
from livetalk_jax.data.record import LeftOut, Record
from livetalk_jax.files import write_whole

FORMAT = 1
# One record a group, as grain asks for: any other is read without its neighbours. Latents do not shrink by compression.
_WRITER = "group_size:1,uncompressed"


@dataclasses.dataclass(frozen=True)
class Part:
    """Clips that are written together."""

    number: int
    split: Split
    bucket: Size
    clips: tuple[Clip, ...]


@dataclasses.dataclass(frozen=True)
class Shelf:
    """A finished part, as a reader sees it.

    Attributes:
        path: of the ArrayRecord file.
        keys: of its clips, in order; there is at least one.
        tokens: of the longest caption.
    """

    path: Path
    split: Split
    bucket: Size
    keys: tuple[str, ...]
    tokens: int


def pack(features: Features) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **features)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(record: bytes) -> Features:
    """Raises ValueError where the record is damaged."""
    try:
        with np.load(io.BytesIO(record)) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, OSError, EOFError, KeyError) as error:
        raise ValueError(f"a record of the cache is damaged ({error}); remove its file in parts/ and prepare again") from error


class Cache:
    """A folder of features.

    Args:
        root: the folder.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    def agrees(self, name: str, recipe: dict[str, Any]) -> bool:
        """Whether `name`.json is there; with the same content, if it is.

        Args:
            recipe: as JSON can hold it.

        Raises:
            ValueError: it has other content; what differs is named.
        """
        if not (self.root / f"{name}.json").exists():
            return False
        if differing := _differences(self.recipe(name), json.loads(json.dumps({"format": FORMAT, **recipe}))):
            raise ValueError(f"{self.root} was begun with other settings: {'; '.join(differing)}; give the same or a new --out")
        return True

    def write_recipe(self, name: str, recipe: dict[str, Any]) -> None:
        write_whole(self.root / f"{name}.json", json.dumps({"format": FORMAT, **recipe}, indent=1))

    def recipe(self, name: str) -> dict[str, Any]:
        """Raises ValueError: the folder is no cache."""
        try:
            return json.loads((self.root / f"{name}.json").read_text())
        except (OSError, ValueError):
            raise ValueError(
                f"{self.root} is not made by `livetalk data prepare`: it has no {name}.json that can be read"
            ) from None

    def write_negative_text(self, text: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, text)
        write_whole(self.root / "negative_text.npy", buffer.getvalue())

    def negative_text(self) -> np.ndarray:
        return np.load(self.root / "negative_text.npy")

    def write_plan(self, parts: Iterable[Part], left_out: Iterable[LeftOut]) -> None:
        (self.root / "parts").mkdir(parents=True, exist_ok=True)
        write_whole(self.root / "left_out.jsonl", "".join(json.dumps(dataclasses.asdict(item)) + "\n" for item in left_out))
        write_whole(self.root / "plan.jsonl", "".join(json.dumps(dataclasses.asdict(part)) + "\n" for part in parts))

    def planned(self) -> int:
        """How many parts the plan has."""
        with open(self.root / "plan.jsonl") as lines:
            return sum(1 for _ in lines)

    def plan(self) -> list[Part]:
        parts = []
        with open(self.root / "plan.jsonl") as lines:
            for line in lines:
                part = json.loads(line)
                clips = tuple(Clip(**{**clip, "record": Record(**_tuples(clip["record"]))}) for clip in part.pop("clips"))
                parts.append(Part(clips=clips, **_tuples(part)))
        return parts

    def left_out(self) -> list[LeftOut]:
        """Of the plan and of the finished parts."""
        with open(self.root / "left_out.jsonl") as lines:
            found = [LeftOut(**json.loads(line)) for line in lines]
        return found + [LeftOut(**item) for done in self._done() for item in done["left_out"]]

    # Parts

    def finished(self) -> dict[int, int]:
        """Number → clips written, of every part that is whole."""
        return {done["number"]: len(done["keys"]) for done in self._done()}

    def _done(self) -> Iterator[dict[str, Any]]:
        for path in sorted((self.root / "parts").glob("[0-9]*.json")):
            yield json.loads(path.read_text())

    def _path(self, split: Split, bucket: Size, number: int) -> Path:
        return self.root / split / f"{bucket[0]}x{bucket[1]}" / f"{number:05d}.array_record"

    def write_part(self, part: Part, results: Iterable[tuple[Clip, Features | LeftOut]]) -> None:
        """Write a part; nothing of it counts before all of it is there.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(part.split, part.bucket, part.number)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        keys, left_out, tokens = [], [], 0
        try:
            writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER)
            try:
                for clip, result in results:
                    if isinstance(result, LeftOut):
                        left_out.append(dataclasses.asdict(result))
                        continue
                    writer.write(pack(result))
                    keys.append(clip.key)
                    tokens = max(tokens, len(result["text"]))
            finally:
                writer.close()
            if keys:
                _check(partial, len(keys))
                partial.replace(path)
        except RuntimeError as error:  # ArrayRecord's, when the disk is full
            raise OSError(f"cannot write {path}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)
        for left in path.parent.glob(f".{path.name}.*.partial"):  # of runs that were killed
            left.unlink(missing_ok=True)
        done = dict(number=part.number, split=part.split, bucket=part.bucket, keys=keys, tokens=tokens, left_out=left_out)
        write_whole(self.root / "parts" / f"{part.number:05d}.json", json.dumps(done))

    def shelves(self) -> list[Shelf]:
        """The finished parts that hold clips, in order."""
        return [
            Shelf(
                self._path(done["split"], tuple(done["bucket"]), done["number"]),
                done["split"],
                tuple(done["bucket"]),
                tuple(done["keys"]),
                done["tokens"],
            )
            for done in self._done()
            if done["keys"]
        ]


def _check(path: Path, count: int) -> None:
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        if reader.num_records() != count:
            raise OSError(f"{path} holds {reader.num_records()} records of {count}: is the disk full?")
    finally:
        reader.close()


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = dict.fromkeys([*old, *new])
        return [line for name in names for line in _differences(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))]
    return [] if old == new else [f"{path} {old!r}, not {new!r}"]
