"""Finished videos of anyone, with what they are compared with.

    VIDEOS/…/NAME.mp4                       scored; any container and codec that FFmpeg reads
    REFERENCES/…/NAME.png, .jpg, .webp      its portrait
    REFERENCES/…/NAME.mp4, .mkv, …          or the real video, whose first frame is then the portrait
    REFERENCES/…/NAME.wav, .flac            the exact sound, if it is there; else the real video's, else the video's own
    REFERENCES/…/NAME.json                  truth of the procedural set, as `livetalk data procedural` writes it

Names are file names without their ending, wherever the files lie.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from livetalk_jax import media
from livetalk_jax.evaluation.metric import SAMPLE_RATE, Clip, Truth
from livetalk_jax.evaluation.scoring import Sample, in_blocks

VIDEOS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SOUNDS = (".wav", ".flac", ".m4a", ".mp3", ".ogg")


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Frames of a video one by one, uint8 [Y, X, 3].

    Raises:
        ValueError: it is damaged.
    """
    with media.open_media(path) as container:
        try:
            yield from map(media.to_rgb, container.decode(video=0))
        except av.error.FFmpegError as error:
            raise ValueError(f"the pictures of {path} are damaged: {error.strerror}") from error


class Header(NamedTuple):
    """What a video says of itself: pixels, frames a second, FFmpeg's name of its codec, and whether there is sound."""

    height: int
    width: int
    fps: float
    codec: str
    sounds: bool


def describe(path: Path) -> Header:
    """Read a video's header.

    Raises:
        ValueError: it is not a video.
    """
    with media.open_media(path) as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no picture stream")
        stream = container.streams.video[0]
        rate, context = stream.average_rate, stream.codec_context
        if not rate or not context.width:
            raise ValueError(f"{path} does not say its size or its frame rate")
        return Header(context.height, context.width, float(rate), context.name, bool(container.streams.audio))


def read_truth(path: Path) -> Truth:
    """Truth that `livetalk data procedural` wrote.

    Raises:
        ValueError: the file is something else.
    """
    try:
        about = json.loads(path.read_text())
        frames = {name: np.array(values) for name, values in about["truth"].items()}
        return Truth(frames, int(about["person"]), int(about["scene"]["seed"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no truth of the procedural set: {error}") from error


class VideoFolder:
    """Finished videos as samples.

    Args:
        videos, references: folders as above.
        joins: frames after which a chunk begins, where the maker of the videos tells.

    Raises:
        OSError: a folder is missing or has no videos.
        ValueError: a video has nothing in the references.
    """

    def __init__(self, videos: Path, references: Path, joins: int | None = None):
        self.joins = joins
        self.made_by: dict[str, Any] = {"videos": str(videos), "references": str(references)}
        self._files: dict[tuple[str, str], Path] = {}
        self._videos: dict[str, Path] = {}
        for folder in (videos, references):
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {folder}")
        for path in sorted(videos.rglob("*")):
            if path.suffix.lower() not in VIDEOS or path.name.startswith("."):
                continue
            if (other := self._videos.setdefault(path.stem, path)) != path:
                raise ValueError(f"{other} and {path} have the same name; names of videos must differ")
        if not self._videos:
            raise FileNotFoundError(f"{videos} has no videos ({', '.join(VIDEOS)})")
        for path in sorted(references.rglob("*")):
            self._files.setdefault((path.stem, path.suffix.lower()), path)
        for name in self._videos:
            if not self._find(name, PICTURES + VIDEOS):
                raise ValueError(f"{references} has neither a portrait {name}.png nor a real video {name}.mp4")
        self.names: Sequence[str] = list(self._videos)

    def _find(self, name: str, endings: tuple[str, ...]) -> Path | None:
        return next((self._files[name, ending] for ending in endings if (name, ending) in self._files), None)

    def about(self, name: str) -> dict[str, Any]:
        """What a score depends on, for telling whether it is still valid."""
        used = [self._videos[name], *(path for (stem, _), path in self._files.items() if stem == name)]
        return {"files": [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in used], "joins": self.joins}

    def video(self, name: str) -> Path:
        return self._videos[name]

    def sample(self, name: str) -> Sample:
        path = self._videos[name]
        height, width, fps, codec, sounds = describe(path)
        real, picture, truth = self._find(name, VIDEOS), self._find(name, PICTURES), self._find(name, (".json",))
        portrait = media.load_image(picture) if picture else next(read_frames(real)) if real else None
        assert portrait is not None
        sound = self._find(name, SOUNDS) or (real if real and describe(real).sounds else path if sounds else None)
        clip = Clip(
            name=name,
            height=height,
            width=width,
            fps=fps,
            waveform=media.load_audio(sound, SAMPLE_RATE) if sound else np.zeros(0, np.float32),
            portrait=media.cover(portrait, height, width),
            joins=self.joins,
            codec=codec,
            truth=read_truth(truth) if truth else None,
        )

        def reference() -> Iterator[np.ndarray]:
            assert real is not None
            return in_blocks(media.cover(frame, height, width) for frame in read_frames(real))

        return Sample(clip, lambda: in_blocks(read_frames(path)), reference if real else None)
