"""Clips: which frames of a recording are trained on, which frame is their reference, and how they are read."""

import dataclasses
import hashlib
from typing import Literal, NamedTuple

import numpy as np

from livetalk_jax.config import StreamConfig
from livetalk_jax.data import buckets
from livetalk_jax.data.decode import read_frames, read_sound
from livetalk_jax.data.record import Damaged, Record

Split = Literal["train", "test"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How clips are laid into recordings.

    `chunks` (K) consecutive chunks make a clip of K · new frames + motion frames. Of each recording at most `clips_per_record` are
    taken, which do not overlap. The reference frame is drawn uniformly from the frames within `reference_seconds` before or after
    the clip, 0 for anywhere outside it (InfiniteTalk, arXiv 2508.14033, found within about a second best). `test_share` of the
    persons are kept for testing. `seed` is of the places drawn.
    """

    chunks: int
    clips_per_record: int
    reference_seconds: float
    test_share: float
    seed: int


@dataclasses.dataclass(frozen=True)
class Clip:
    """A place in a recording, in frames of the stream's rate from the record's start.

    Attributes:
        key: the record's, with "#" and the clip's number.
        start: first frame.
        reference: the reference frame, outside of the clip.
        sound: the file that has the sound.
    """

    key: str
    record: Record
    start: int
    reference: int
    sound: str


class Media(NamedTuple):
    """What the networks are given of a clip of K chunks.

    Attributes:
        frames: uint8 [K · new + motion, Y, X, 3].
        reference: uint8 [Y, X, 3].
        speech: float32 [K, context · sample_rate]: what was heard before each chunk's end, the chunk itself included; silence where
            the recording had not begun.
    """

    frames: np.ndarray
    reference: np.ndarray
    speech: np.ndarray


def order(text: str) -> int:
    """A place between 0 and 2⁶⁴ that looks random and is the same for ever."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def split_of(record: Record, test_share: float) -> Split:
    """The side of the split a person is on, for ever: SHA-256 of "source/person", its first 8 bytes as a share of 2⁶⁴."""
    return "test" if order(f"{record.source}/{record.person}") < test_share * 2**64 else "train"


def clip_frames(stream: StreamConfig, chunks: int) -> int:
    return chunks * (stream.frames - stream.motion_frames) + stream.motion_frames


def choose_clips(record: Record, seconds: float, sound: str, stream: StreamConfig, config: ClipConfig) -> list[Clip]:
    """Clips of a recording, the same at every call.

    Args:
        seconds: how long the record's file is.
        sound: the file that has the sound.

    Raises:
        Damaged: the recording has not as many frames as a clip and one to refer to.
    """
    end = seconds if record.end is None else min(record.end, seconds)
    total = int((end - record.start) * stream.fps + 1e-6)
    length = clip_frames(stream, config.chunks)
    if total <= length:
        need = f"{length} frames and one outside of them"
        raise Damaged("too short", f"{record.key} has {max(total, 0)} frames at {stream.fps} a second, a clip needs {need}")
    rng = np.random.default_rng([config.seed, order(record.key)])
    slots = total // length
    phase = int(rng.integers(total - slots * length + 1))
    clips = []
    for number, slot in enumerate(rng.permutation(slots)[: config.clips_per_record]):
        start = phase + int(slot) * length
        reach = round(config.reference_seconds * stream.fps) or total
        outside = [*range(max(start - reach, 0), start), *range(start + length, min(start + length + reach, total))]
        if not outside:  # a reach of less than a frame
            raise ValueError(f"reference_seconds {config.reference_seconds} is less than a frame; give at least {1 / stream.fps}")
        clips.append(Clip(f"{record.key}#{number}", record, start, outside[int(rng.integers(len(outside)))], sound))
    return clips


def read(clip: Clip, bucket: buckets.Size, stream: StreamConfig, chunks: int) -> Media:
    """Decode a clip, at the stream's frame rate and in the bucket's size.

    Raises:
        Damaged: the file cannot be decoded there.
    """
    record = clip.record

    def fit(picture: np.ndarray) -> np.ndarray:
        try:
            return buckets.fit(picture, record.crop, bucket)
        except ValueError as error:
            raise Damaged("too elongated", f"{record.key}: {error}") from error

    def pictures(first: int, count: int) -> np.ndarray:
        times = [record.start + frame / stream.fps for frame in range(first, first + count)]
        return np.stack(read_frames(record.video, times, fit))

    length = clip_frames(stream, chunks)
    frames, reference = pictures(clip.start, length), pictures(clip.reference, 1)[0]

    # One stretch for all chunks; it begins a context before the end of the first, or with the recording.
    rate, context = stream.sample_rate, stream.audio_context_seconds
    first_end = (clip.start + stream.frames) / stream.fps
    begin = max(first_end - context, 0.0)
    last_end = (clip.start + length) / stream.fps
    heard = read_sound(clip.sound, record.start + begin, last_end - begin, rate)
    silence = np.zeros(round((begin - (first_end - context)) * rate), np.float32)
    heard = np.concatenate([silence, heard])
    step = rate * (stream.frames - stream.motion_frames) // stream.fps
    speech = np.stack([heard[chunk * step : chunk * step + context * rate] for chunk in range(chunks)])
    return Media(frames, reference, speech)
