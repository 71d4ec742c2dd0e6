"""Frames and sound of a short stretch of a recording, found by seeking; nothing else of the file is decoded.

Time 0 is where a file's picture stream begins. Sound of the same file is on the same clock.
"""

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
import numpy as np

from livetalk_jax.data.record import Damaged, Record
from livetalk_jax.media import open_media, to_rgb

T = TypeVar("T")

TIE = 1e-4  # seconds; two frames whose distances differ by less are equally near, whatever rounding says
SOUND_LEAD = 0.5  # seconds decoded before the sound that is wanted: coders need some to settle after a jump
SOUND_SLACK = 0.25  # seconds that sound may end before the pictures, or be off its own clock, without being called damaged


class Probe(NamedTuple):
    """What a recording's headers and first frame say.

    Attributes:
        height, width: of the upright picture, the whole of it.
        seconds: of the picture stream.
        sound: the file that has the sound.
    """

    height: int
    width: int
    seconds: float
    sound: str


def _opened(path: str):
    if not Path(path).is_file():
        raise Damaged("file missing", f"{path} does not exist")
    try:
        return open_media(Path(path))
    except ValueError as error:
        raise Damaged("not a video", str(error)) from error


def _pictures(path: str, container):
    if not container.streams.video:
        raise Damaged("no pictures", f"{path} has no picture stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _upright(frame: av.VideoFrame) -> np.ndarray:
    # A phone's video lies on its side and says so.
    return np.rot90(to_rgb(frame), round(frame.rotation / 90))


def _start(stream) -> float:
    return float((stream.start_time or 0) * stream.time_base)


def probe(record: Record) -> Probe:
    """Raises Damaged: a file is missing or not a video, has no sound, or its first frame cannot be decoded."""
    with _opened(record.video) as container:
        stream = _pictures(record.video, container)
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration:
            seconds = container.duration / av.time_base
        else:
            raise Damaged("damaged", f"{record.video} does not say how long it is")
        try:
            height, width = _upright(next(container.decode(video=0))).shape[:2]
        except (av.error.FFmpegError, StopIteration) as error:
            raise Damaged("damaged", f"{record.video}: not even the first frame can be decoded") from error
    for path in record.sound:
        if Path(path).is_file():
            with _opened(path) as container:
                if container.streams.audio:
                    return Probe(height, width, seconds, path)
    raise Damaged("no sound", f"{' and '.join(record.sound)}: no sound stream")


def read_frames(path: str, times: Sequence[float], transform: Callable[[np.ndarray], T]) -> list[T]:
    """The frame nearest to each time; between two equally near ones the earlier.

    Args:
        times: seconds, ascending.
        transform: applied to each frame's uint8 [Y, X, 3]; a frame that serves two times is transformed once.

    Raises:
        Damaged: the file cannot be decoded up to the last time.
    """
    with _opened(path) as container:
        stream = _pictures(path, container)
        origin = _start(stream)
        period = float(1 / (stream.average_rate or Fraction(25)))
        taken: list[T] = []

        def take(frame: av.VideoFrame, until: float) -> None:
            """Let `frame` serve the times up to `until`."""
            served = [time for time in times[len(taken) :] if time <= until + TIE]
            if served:
                if frame.is_corrupt:
                    raise Damaged("damaged", f"{path}: the picture at {served[0]:.2f} s is damaged")
                taken.extend([transform(_upright(frame))] * len(served))

        try:
            # Some files cannot jump: then they are read from the beginning.
            for target in (times[0], 0.0):
                container.seek(round((target + origin) / stream.time_base), stream=stream)
                before: tuple[av.VideoFrame, float] | None = None
                for frame in container.decode(stream):
                    if frame.time is None:
                        raise Damaged("damaged", f"{path}: its frames have no times")
                    now = frame.time - origin
                    if before is not None:
                        take(before[0], (before[1] + now) / 2)
                    elif now > times[0] + period and target > 0.0:
                        break
                    if len(taken) == len(times):
                        return taken
                    before = frame, now
                else:
                    if before is not None:
                        take(before[0], before[1] + 1.5 * period)
                    if len(taken) == len(times):
                        return taken
                    ended = f"{before[1]:.2f} s" if before else "once"
                    raise Damaged("damaged", f"{path}: its pictures end at {ended}, before {times[-1]:.2f} s")
        except av.error.FFmpegError as error:
            raise Damaged(
                "damaged", f"{path}: its pictures are damaged near {times[len(taken)]:.2f} s ({error.strerror})"
            ) from error
    raise AssertionError("the second pass returns or raises")


def read_sound(path: str, start: float, seconds: float, sample_rate: int) -> np.ndarray:
    """Mono sound from `start` on, float32 [seconds · sample_rate]; silence where the file has none yet, or at its end for a moment.

    Args:
        start: seconds, 0 or more.

    Raises:
        Damaged: the sound cannot be decoded or ends before it should.
    """
    length = round(seconds * sample_rate)
    result = np.zeros(length, np.float32)
    with _opened(path) as container:
        stream = container.streams.audio[0]
        origin = _start(container.streams.video[0] if container.streams.video else stream)
        resampler = av.AudioResampler(format="fltp", rate=sample_rate)
        position: int | None = None  # of the next sample, in samples behind `start`
        try:
            container.seek(max(round((start + origin - SOUND_LEAD) / stream.time_base), 0), stream=stream)
            for frame in itertools.chain(container.decode(stream), [None]):  # None empties the resampler
                for piece in resampler.resample(frame):
                    if piece.time is None:
                        raise Damaged("damaged", f"{path}: its sound has no times")
                    stated = round((piece.time - origin - start) * sample_rate)
                    # Times in a file are rounded, so samples are counted; a real gap or jump is followed.
                    if position is None or abs(stated - position) > SOUND_SLACK * sample_rate:
                        position = stated
                    samples = piece.to_ndarray().mean(0)
                    low, high = max(position, 0), min(position + len(samples), length)
                    if low < high:
                        result[low:high] = samples[low - position : high - position]
                    position += len(samples)
                if position is not None and position >= length:
                    break
        except av.error.FFmpegError as error:
            raise Damaged("damaged", f"{path}: its sound is damaged behind {start:.2f} s ({error.strerror})") from error
    if position is None or position < length - SOUND_SLACK * sample_rate:
        ended = start + max(position or 0, 0) / sample_rate
        raise Damaged("damaged", f"{path}: its sound ends at {ended:.2f} s, before {start + seconds:.2f} s")
    if not np.isfinite(result).all():
        raise Damaged("damaged", f"{path}: its sound has samples that are not numbers")
    return result
