"""TalkBench as lists, and the command `livetalk evaluate lists` that makes them.

The rule, version 1. Records are those of `livetalk data prepare` for the source, after the source's own filters ("base" for
SpeakerVid-5M, none for TalkVid). Persons are those of the test side of the split that training uses (SHA-256 of "source/person"
below `--test_share`), so nobody was trained on. Persons are taken in the order of the SHA-256 of
"talkbench/1/BENCH/source/person", each once.

    short   of a person's records of 3 s at least the one first in the order of "talkbench/1/short/KEY", its first 9.96 s;
            100 persons
    long    all records of a person in the order of their keys, one behind the other until there are 300.04 s; persons that have
            less are passed over; 20 persons

A line of a list is JSON: id, bench, source, person, caption, crop, portrait {video, second}, pieces [{video, sound, start, end}].
Paths are relative to the source's root, so that a list can be published. The same data sets give the same lists, byte for byte.
"""

import collections
import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from absl import flags as absl_flags
from tqdm import tqdm

from livetalk_jax.data import filters, speakervid, talkvid
from livetalk_jax.data.clips import order, split_of
from livetalk_jax.data.decode import Probe, probe
from livetalk_jax.data.record import Damaged, LeftOut, Record
from livetalk_jax.evaluation.arguments import parse_plain
from livetalk_jax.flags import UsageError

USAGE = """usage: livetalk evaluate lists --talkvid ROOT --speakervid ROOT --out DIR

Writes DIR/short.jsonl and DIR/long.jsonl for `livetalk evaluate --bench short|long --lists DIR`.
"""

Bench = Literal["short", "long"]
SHORTEST, LONGEST, LONG = 3.0, 9.96, 300.04  # seconds
COUNTS: dict[Bench, int] = {"short": 100, "long": 20}
SOURCES = {"talkvid": talkvid.scan, "speakervid": speakervid.scan}


@dataclasses.dataclass(frozen=True)
class Piece:
    """Seconds `start` to `end` of a file, and the file that has their sound."""

    video: str
    sound: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of a list; `pieces` follow each other."""

    id: str
    bench: Bench
    source: str
    person: str
    caption: str
    crop: tuple[float, float, float, float] | None
    portrait: dict[str, Any]
    pieces: tuple[Piece, ...]

    @property
    def seconds(self) -> float:
        return sum(piece.end - piece.start for piece in self.pieces)


def _piece(root: Path, record: Record, looked: Probe, most: float) -> Piece:
    end = looked.seconds if record.end is None else min(record.end, looked.seconds)
    # A frame's time less, as the last frame may end before its file.
    end = min(end - 0.04, record.start + most)
    video, sound = (os.path.relpath(path, root) for path in (record.video, looked.sound))
    return Piece(video, sound, round(record.start, 3), round(end, 3))


def make_lists(roots: dict[str, Path], test_share: float, watch=lambda records: records) -> tuple[dict[Bench, list[Entry]], Any]:
    """Entries of both benches by the rule above, and how many records were left out for which reason.

    Args:
        roots: by source.
        watch: is given the records that are opened, for a progress bar.

    Raises:
        OSError: a data set is not there.
    """
    left_out: collections.Counter[str] = collections.Counter()
    persons: dict[tuple[str, str], list[tuple[Record, Probe]]] = collections.defaultdict(list)
    wanted: list[Record] = []
    for source, root in roots.items():
        bounds = filters.TIERS[filters.DEFAULT_TIER[source]]
        for found in SOURCES[source](root):
            refused = found if isinstance(found, LeftOut) else filters.apply(bounds, found)
            if refused is not None:
                left_out[refused.reason] += 1
            elif isinstance(found, Record):
                if split_of(found, test_share) == "train":
                    left_out["trained on"] += 1
                else:
                    wanted.append(found)
    for record in watch(sorted(wanted, key=lambda record: record.key)):
        try:
            persons[record.source, record.person].append((record, probe(record)))
        except Damaged as damaged:
            left_out[damaged.reason] += 1

    lists: dict[Bench, list[Entry]] = {"short": [], "long": []}
    for bench, entries in lists.items():
        for source, person in sorted(persons, key=lambda who: order(f"talkbench/1/{bench}/{who[0]}/{who[1]}")):
            entry = _entry(bench, roots[source], source, person, persons[source, person])
            if entry is not None and len(entries) < COUNTS[bench]:
                entries.append(entry)
    return lists, left_out


def _entry(bench: Bench, root: Path, source: str, person: str, records: Iterable[tuple[Record, Probe]]) -> Entry | None:
    chosen: list[tuple[Record, Piece]] = []
    if bench == "short":
        for record, looked in sorted(records, key=lambda found: order(f"talkbench/1/short/{found[0].key}")):
            piece = _piece(root, record, looked, LONGEST)
            if piece.end - piece.start >= SHORTEST:
                chosen = [(record, piece)]
                break
    else:
        missing = LONG
        for record, looked in records:
            piece = _piece(root, record, looked, missing)
            if piece.end - piece.start >= 1.0:
                chosen.append((record, piece))
                missing -= piece.end - piece.start
            if missing <= 0.001:
                break
        else:
            return None
    if not chosen:
        return None
    first, piece = chosen[0]
    portrait = {"video": piece.video, "second": piece.start}
    return Entry(first.key, bench, source, person, first.caption, first.crop, portrait, tuple(piece for _, piece in chosen))


def write_list(path: Path, entries: Iterable[Entry]) -> None:
    path.write_text("".join(json.dumps(dataclasses.asdict(entry), ensure_ascii=False) + "\n" for entry in entries))


def read_list(path: Path) -> list[Entry]:
    """Raises ValueError where a line is no entry or there is no line, OSError where there is no list."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no list {path}; make it with: livetalk evaluate lists --out {path.parent}")
    entries = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            fields = json.loads(line)
            crop = fields["crop"]
            pieces = tuple(Piece(**piece) for piece in fields["pieces"])
            if not pieces or not all(piece.start < piece.end for piece in pieces):
                raise ValueError("it has no pieces, or one that ends before it starts")
            entries.append(Entry(**(fields | {"pieces": pieces, "crop": None if crop is None else tuple(crop)})))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no entry of a list: {error}") from error
    if not entries:
        raise ValueError(f"{path} has no entries: no person of the data sets was fit for it")
    return entries


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("talkvid", None, "Folder of TalkVid.", flag_values=values)
    absl_flags.DEFINE_string("speakervid", None, "Folder of SpeakerVid-5M.", flag_values=values)
    absl_flags.DEFINE_float("test_share", 0.01, "As given to `livetalk data prepare`.", 0.0, 1.0, flag_values=values)
    absl_flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)


def main(argv: list[str]) -> None:
    values, _ = parse_plain(define, argv, USAGE)
    roots = {source: Path(root) for source in SOURCES if (root := values[source].value)}
    if not roots or not values.out:
        raise UsageError(f"--out and one of --talkvid and --speakervid are needed; see {argv[0]} --help")
    lists, left_out = make_lists(
        roots, values.test_share, lambda records: tqdm(records, unit="record", desc="looking", file=sys.stderr)
    )
    out = Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    for bench, entries in lists.items():
        write_list(out / f"{bench}.jsonl", entries)
        seconds = sum(entry.seconds for entry in entries)
        print(f"{out / bench}.jsonl: {len(entries)} of {COUNTS[bench]} samples, {seconds / 60:.1f} minutes")
    print("left out: " + (", ".join(f"{reason} {count}" for reason, count in left_out.most_common()) or "nothing"))
