"""SpeakerVid-5M (arXiv 2507.09862, dorni/SpeakerVid-5M-Dataset) as published and as its own code lays it out.

    ROOT/merged_anno/*.tar.gz, or …/NAME.json                       a clip's annotation, packed as published or not
    ROOT/raw_labels/{asr,anno,l_score}/*.tar.gz, or …/NAME.json     more of it, likewise
    ROOT/SFT_set.json, all_data_list.json, testset.json             lists of names, or dictionaries of lists
    ROOT/…/NAME.mp4, NAME.wav                   a clip cut to scene and person; its sound, other speakers silenced
    ROOT/…/NAME.tar                             or both in a tar; they are then unpacked into ROOT/…/unpacked
    ROOT/…/VID_WxH_full_video.mp4 or VID.mp4    or a whole video: interval and person are then cut from it

NAME is VID_WxH_full_video_SCENE_ROLE_PERSON, ROLE one of A, B, None, B_None. Files are found by name wherever they lie: the same
numbers on the tars of different labels do not mean the same clips. The sets do not say who a person is across videos, so all clips
of a video count as one person: those who talk to each other there stay on one side of the split.
"""

import itertools
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Literal

from livetalk_jax.data.record import FALLBACK_CAPTION, NUMBER, Damaged, LeftOut, Record, first, read_json
from livetalk_jax.files import write_whole

Interval = Literal["scene", "speech"]

_NAME = re.compile(
    r"(?P<video>.+)_(?P<width>\d+)x(?P<height>\d+)_full_video_(?P<scene>\d+)_(?P<role>A|B_None|B|None)_(?P<person>\d+)", re.ASCII
)
_LABELS = ("asr", "anno", "l_score")
# Our measure: names under which it may be found. The names in raw_labels are not documented, hence the many.
_MEASURES = {
    "dover": ("dover", "dover_score"),
    "luminance": ("luminance", "luminance_score", "brightness"),
    "blur": ("blur", "blur_score", "clear"),
    "face_blur": ("face_blur", "face_blur_score", "face_clear"),
    "hand": ("hand_blur", "hand_blur_score", "hand", "hand_clear"),
    "motion": ("motion", "motion_score"),
    "asr_confidence": ("asr_confidence", "avg_logprob", "confidence"),
    "no_speech": ("no_speech", "no_speech_prob"),
    "compression": ("compression", "compression_ratio"),
    "talking": ("is_talking", "is_speaking"),
    "speakers": ("clip_speaker_num", "number_of_people"),
}
_CAPTIONS = ("caption", "description", "movement_caption", "expression_caption")
_USED = frozenset(itertools.chain(_CAPTIONS, *_MEASURES.values()))


def parse_name(stem: str) -> dict[str, str] | None:
    """Video, width, height, scene, role and person of a clip's name. VID may hold "_", so the name is read from its right end."""
    match = _NAME.fullmatch(stem)
    return match.groupdict() if match else None


def names_in(lists: Any) -> set[str]:
    """Clip names of a published list, or of a dictionary of lists, with or without a file's ending."""
    if isinstance(lists, dict):
        return set().union(*map(names_in, lists.values()))
    return {Path(name).name.removesuffix(".json").removesuffix(".mp4") for name in lists if isinstance(name, str)}


def scan(root: Path, annotations: Path | None = None, interval: Interval = "scene") -> Iterator[Record | LeftOut]:
    """Every annotated clip with its files, or why it cannot be used.

    Args:
        root: the folder that holds all of it.
        annotations: a JSON list of the clips wanted; without it SFT_set.json if `root` has one, else all that are annotated. Clips
            of `root/testset.json` are never taken.
        interval: "scene" takes the whole clip, "speech" the seconds in which its annotation says that the person speaks. The two
            differ in the published files and nothing says which is meant; num_frames fits the scene.

    Raises:
        FileNotFoundError: there are no annotations.
        ValueError: a list of clips cannot be read.
        OSError: a clip's tar cannot be unpacked for want of space or rights.
    """
    wanted = annotations or (root / "SFT_set.json" if (root / "SFT_set.json").exists() else None)
    try:
        chosen = names_in(read_json(wanted)) if wanted else None
        published_test = names_in(read_json(root / "testset.json")) if (root / "testset.json").exists() else set()
    except Damaged as damaged:
        raise ValueError(damaged.detail) from damaged

    def is_chosen(name: str) -> bool:
        return parse_name(name) is not None and (chosen is None or name in chosen)

    files, media = _listing(root)
    labels = yield from _labels(root, files, lambda name: is_chosen(name) and not media.keys().isdisjoint(_media_names(name)))
    annotated: set[str] = set()
    for name, annotation in _contents(root / "merged_anno", files["merged_anno"], is_chosen):
        if name in annotated:
            continue
        annotated.add(name)
        extras = [labels[kind][name] for kind in _LABELS if name in labels[kind]]
        broken = next((content for content in (annotation, *extras) if isinstance(content, Damaged)), None)
        if broken:
            yield LeftOut(f"speakervid/{name}", broken.reason, broken.detail)
        elif name in published_test:
            yield LeftOut(f"speakervid/{name}", "in the published test set")
        else:
            yield _record(name, annotation, extras, media, interval)
    if not annotated and chosen is None:
        raise FileNotFoundError(f"{root} has no annotations of SpeakerVid-5M: merged_anno must hold its .json files or .tar.gz")
    yield from (
        LeftOut(f"speakervid/{name}", "not annotated", f"{name} is in {wanted}") for name in sorted((chosen or set()) - annotated)
    )


def _listing(root: Path) -> tuple[dict[str, dict[str, Path]], dict[str, Path]]:
    """Unpacked annotations and labels, by the folder they are published in and by clip; what may be a video or its sound, by name."""
    files: dict[str, dict[str, Path]] = {folder: {} for folder in ("merged_anno", *_LABELS)}
    media: dict[str, Path] = {}
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".json", ".mp4", ".wav", ".tar") and path.is_file()):
        below = path.relative_to(root).parts
        folder = below[1] if below[0] == "raw_labels" else "merged_anno"
        if path.suffix != ".json":
            media.setdefault(path.name, path)
        elif parse_name(path.stem) and folder in files:
            files[folder].setdefault(path.stem, path)
    return files, media


def _media_names(name: str) -> tuple[str, str, str, str]:
    """Files that may hold a clip's pictures, the best first: its own, its tar, whole videos."""
    parts = parse_name(name)
    assert parts is not None
    video = parts["video"]
    return f"{name}.mp4", f"{name}.tar", f"{video}_{parts['width']}x{parts['height']}_full_video.mp4", f"{video}.mp4"


def _contents(folder: Path, unpacked: dict[str, Path], is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
    """(clip, its JSON or what is wrong with it), unpacked ones first, then those in the tars of `folder`.

    A damaged tar goes by the names of folder and file.
    """
    for name in filter(is_wanted, unpacked):
        try:
            yield name, read_json(unpacked[name])
        except Damaged as damaged:
            yield name, damaged
    for packed in sorted(folder.glob("*.tar*")):
        name = packed.name
        try:
            with tarfile.open(packed, "r:*") as tar:
                for member in tar:
                    name = Path(member.name).stem
                    if not (member.name.endswith(".json") and is_wanted(name) and (text := tar.extractfile(member))):
                        continue
                    try:
                        yield name, json.loads(text.read())
                    except ValueError as error:
                        yield name, Damaged("annotation unreadable", f"{packed}, {member.name}: {error}")
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            detail = f"{packed} is damaged behind {name}: {error}"
            yield f"{folder.name}/{packed.name}", Damaged("annotation unreadable", detail)


def _labels(
    root: Path, files: dict[str, dict[str, Path]], is_wanted: Callable[[str], bool]
) -> Generator[LeftOut, None, dict[str, dict[str, Any]]]:
    """What is read of the labels, or what is wrong with it, by kind and clip; yields the tars that are damaged."""
    labels: dict[str, dict[str, Any]] = {kind: {} for kind in _LABELS}
    for kind, found in labels.items():
        for name, content in _contents(root / "raw_labels" / kind, files[kind], is_wanted):
            if parse_name(name):
                found.setdefault(name, content if isinstance(content, Damaged) else _fields(content))
            else:
                yield LeftOut(f"speakervid/{name}", content.reason, content.detail)
    return labels


def _fields(content: Any) -> list[dict[str, Any]]:
    """Of an annotation or a label what is read here, its own and what lies under a label's name.

    All else is let go: l_score alone has tens of gigabytes.
    """
    if not isinstance(content, dict):
        return []
    parts = [content, *(inner for label in _LABELS if isinstance(inner := content.get(label), dict))]
    return [{name: part[name] for name in _USED & part.keys() if isinstance(part[name], (str, *NUMBER))} for part in parts]


def _unpack(packed: Path) -> dict[str, Path]:
    """A clip's pictures and sound by file name, out of its tar. Its annotation is that of merged_anno.

    Raises:
        Damaged: the tar is broken or holds no pictures.
    """
    files: dict[str, Path] = {}
    try:
        with tarfile.open(packed, "r:") as tar:
            members = {Path(member.name).suffix: member for member in tar}
            for suffix in (".wav", ".mp4"):  # the .mp4 last: where it is, nothing is missing
                if suffix in members and (content := tar.extractfile(members[suffix])):
                    path = packed.parent / "unpacked" / f"{packed.stem}{suffix}"
                    write_whole(path, content.read())
                    files[path.name] = path
    except tarfile.TarError as error:
        raise Damaged("damaged", f"{packed}: {error}") from error
    if f"{packed.stem}.mp4" not in files:
        raise Damaged("damaged", f"{packed} holds no .mp4")
    return files


def _record(
    name: str, annotation: Any, extras: list[list[dict[str, Any]]], media: dict[str, Path], interval: Interval
) -> Record | LeftOut:
    key = f"speakervid/{name}"
    if not isinstance(annotation, dict):
        return LeftOut(key, "annotation unreadable", f"{name}.json holds no annotation")
    parts = parse_name(name)
    assert parts is not None
    own, packed, *wholes = _media_names(name)
    if own not in media and packed in media:
        try:
            media.update(_unpack(media[packed]))
        except Damaged as damaged:
            return LeftOut(key, damaged.reason, damaged.detail)
    fields = [*_fields(annotation), *itertools.chain(*extras)]

    scene_start, scene_end, start, duration = (
        first(annotation, (field,), NUMBER) for field in ("start_seconds", "end_seconds", "start", "duration")
    )
    speech = (start, start + duration) if start is not None and duration is not None else None
    crop: tuple[float, float, float, float] | None = None
    clip = media.get(own)
    if clip is not None:
        video, sounds = clip, [path for path in (media.get(f"{name}.wav"), clip) if path]
        begin, end = 0.0, None
        if interval == "speech":
            if speech is None or scene_start is None:
                return LeftOut(key, "annotation unreadable", f"{name} lacks start, duration or start_seconds")
            begin, end = max(speech[0] - scene_start, 0.0), speech[1] - scene_start
    else:
        whole = next((media[file] for file in wholes if file in media), None)
        if whole is None:
            return LeftOut(key, "not downloaded", f"neither {name}.mp4 nor the video {parts['video']} is there")
        span = speech if interval == "speech" else (scene_start, scene_end)
        box: Any = annotation.get("bbox")
        if span is None or span[0] is None or span[1] is None or not _is_box(box):
            return LeftOut(key, "annotation unreadable", f"{name} lacks its interval or its bbox, which the whole video needs")
        video, sounds, crop = whole, [whole], (box[0], box[1], box[2], box[3])
        begin, end = span
    return Record(
        key=key,
        video=str(video),
        sound=tuple(map(str, sounds)),
        start=begin,
        end=end,
        person=parts["video"],
        caption=_caption(fields),
        source="speakervid",
        crop=crop,
        measures=_measures(fields, annotation.get("sync"), parts["person"]),
    )


def _is_box(box: Any) -> bool:
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(edge, NUMBER) for edge in box)):
        return False
    left, top, right, bottom = box
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def _caption(fields: list[dict[str, Any]]) -> str:
    found = (first(field, (name,), str) for name in _CAPTIONS for field in fields)
    return " ".join(dict.fromkeys(caption.strip() for caption in found if caption)) or FALLBACK_CAPTION


def _measures(fields: list[dict[str, Any]], sync: Any, person: str) -> dict[str, float]:
    measures = {}
    for measure, names in _MEASURES.items():
        found = [value for field in fields if (value := first(field, names, NUMBER)) is not None]
        if found:
            measures[measure] = float(found[0])
    # Person: rows of confidence, distance and offset.
    if isinstance(sync, dict):
        rows = sync.get(person) or sync.get(str(int(person))) or next(iter(sync.values()), None)
        confidences = [row[0] for row in rows or [] if isinstance(row, list) and row and isinstance(row[0], NUMBER)]
        if confidences:
            measures["sync"] = sum(confidences) / len(confidences)
    return measures
