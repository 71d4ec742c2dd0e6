"""TalkVid (FreedomIntelligence/TalkVid, CC BY-NC 4.0) as published and as its own downloader lays it out.

    ROOT/filtered_video_clips.json, …_with_captions.json    or below ROOT/data; a list of records
    ROOT/…/VID/VID_NNN_START_END.mp4                        a clip; VID is YouTube's, START and END seconds with three decimals
    ROOT/…/VID/VID_NNN_START_END.m4a                        its sound, where the MP4 has none

A record finds its clip by VID, START and END; both may be off by `TOLERANCE`.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlparse

from livetalk_jax.data.record import FALLBACK_CAPTION, NUMBER, Damaged, LeftOut, Record, first, read_json

TOLERANCE = 0.1  # seconds

_ID = re.compile(r"^(?:videovideo)?(?P<video>.+?)-scene\d+(?:-scene\d+)?$")
_HEAD = ("movement", "rotation", "completeness", "resolution", "orientation")


class _File(NamedTuple):
    start: float
    end: float
    path: Path


def parse_name(stem: str) -> tuple[str, float, float] | None:
    """VID, start and end of a clip's file name. VID may hold "_", so the name is read from its right end."""
    parts = stem.rsplit("_", 3)
    try:
        return parts[0], float(parts[2]), float(parts[3])
    except (IndexError, ValueError):
        return None


def video_id(entry: dict[str, Any]) -> str | None:
    """YouTube's id of a record: from its link, else from its own id "videovideoVID-scene1-scene2"."""
    link = first(entry.get("info"), ("Video Link",), str)
    if link:
        url = urlparse(link)
        found = parse_qs(url.query).get("v") or [part for part in [url.path.rpartition("/")[2]] if url.netloc.endswith("youtu.be")]
        if found:
            return found[0]
    match = _ID.match(first(entry, ("id",), str) or "")
    return match["video"] if match else None


def scan(root: Path, annotations: Path | None = None) -> Iterator[Record | LeftOut]:
    """Every record of the JSON files, with its clip's path, or why it cannot be used.

    Args:
        root: the folder that holds all of it.
        annotations: the JSON file; without it all filtered_video_clips*.json of `root` and `root/data`.

    Raises:
        FileNotFoundError: there is no JSON file.
    """
    files = (
        [annotations]
        if annotations
        else sorted({*root.glob("filtered_video_clips*.json"), *root.glob("data/filtered_video_clips*.json")})
    )
    if not files:
        raise FileNotFoundError(
            f"neither {root} nor its folder data has a filtered_video_clips*.json, which TalkVid is published with; put it there"
        )
    clips: dict[str, list[_File]] = defaultdict(list)
    for path in sorted(root.rglob("*.mp4")):
        if name := parse_name(path.stem):
            clips[name[0]].append(_File(name[1], name[2], path))
    seen: set[Path] = set()
    for file in files:
        try:
            entries = read_json(file)
            if not isinstance(entries, list):
                raise Damaged("annotation unreadable", f"{file} is not a list of records")
        except Damaged as damaged:
            yield LeftOut(str(file), damaged.reason, damaged.detail)
            continue
        for number, entry in enumerate(entries):
            found = _record(root, f"{file.name}[{number}]", entry, clips)
            if isinstance(found, Record):
                if (path := Path(found.video)) in seen:
                    continue  # both JSON files may list a clip
                seen.add(path)
            yield found


def _record(root: Path, place: str, entry: Any, clips: dict[str, list[_File]]) -> Record | LeftOut:
    if not isinstance(entry, dict):
        return LeftOut(place, "annotation unreadable", f"{place} is no record")
    video = video_id(entry)
    start, end = (first(entry, (name,), NUMBER) for name in ("start-time", "end-time"))
    if video is None or start is None or end is None:
        return LeftOut(place, "annotation unreadable", f"{place} lacks its video's id, start-time or end-time")
    name = f"{video} {start:.3f} to {end:.3f} s"
    near = [(abs(file.start - start) + abs(file.end - end), file) for file in clips.get(video, [])]
    near = [(off, file) for off, file in near if max(abs(file.start - start), abs(file.end - end)) <= TOLERANCE]
    if not near:
        return LeftOut(place, "not downloaded", name)
    path = min(near)[1].path
    info, head = entry.get("info"), entry.get("head_detail")
    scores = head.get("scores") if isinstance(head, dict) else None
    measures = {
        "dover": first(entry, ("dover_scores",), NUMBER),
        "cotracker": first(entry, ("cotracker_ratio",), NUMBER),
        **{part: first(scores, (f"avg_{part}",), NUMBER) for part in _HEAD},
    }
    return Record(
        key=f"talkvid/{path.relative_to(root).with_suffix('')}",
        video=str(path),
        sound=(str(path), str(path.with_suffix(".m4a"))),
        start=0.0,
        end=None,
        person=str(first(info, ("Person ID",), (str, int)) or video),
        caption=first(entry, ("description", "caption"), str) or FALLBACK_CAPTION,
        source="talkvid",
        measures={measure: float(value) for measure, value in measures.items() if value is not None},
    )
