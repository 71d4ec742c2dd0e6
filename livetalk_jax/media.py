"""Pictures, sound and MP4 in and out of NumPy arrays: Pillow for images, FFmpeg's libraries through PyAV for the rest.

Every function that reads or writes a file says what is wrong with it in one line (an `OSError` or a `ValueError`).
"""

import contextlib
import importlib.resources
import math
import os
import secrets
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Self

import av
import numpy as np
from PIL import Image, ImageOps

# The portrait.png and speech.flac that come with the package, drawn and synthesised by tools/make_samples.py.
SAMPLES = Path(str(importlib.resources.files("livetalk_jax") / "samples"))

MAX_PIXELS = 100_000_000

# A resampler's filters grow with the rate: a file of 16 KB that claims 1.3 GHz would cost gigabytes and a quarter of a minute.
SOUND_RATES = (4_000, 384_000)  # samples a second, lowest and highest
MAX_CHANNELS = 8

# Rates that AAC has.
AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)

_BT709 = 1  # the number that H.264 gives BT.709 in each of its three colour tags
_LIMITED_RANGE = 1


class Sound(NamedTuple):
    """Mono speech: float32 [samples] in [-1, 1], and samples a second."""

    samples: np.ndarray
    sample_rate: int


class Video(NamedTuple):
    """uint8 [F, Y, X, 3], frames a second, and the sound if there is any."""

    frames: np.ndarray
    fps: Fraction
    sound: Sound | None


class UnusualSound(ValueError):
    """A rate or a number of channels that no recording of speech has."""


def _existing_file(path: str | os.PathLike) -> Path:
    path = Path(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder, not a file")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} does not exist")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path} may not be read: permission denied")
    return path


def reason(error: Exception) -> str:
    """What an exception of Pillow or FFmpeg says, on one line and without the file name it may repeat."""
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


# Images


def load_image(path: str | os.PathLike) -> np.ndarray:
    """Any picture that Pillow reads, upright, as uint8 [Y, X, 3].

    EXIF rotation is applied; what is transparent becomes white, as on a page; greyscale, palette, 16-bit and CMYK pictures are
    converted; of an animation the first frame is taken. Colour profiles are not applied, as in the published code.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is not a picture, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    path = _existing_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is the one that counts
            image = Image.open(path)
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture; PNG, JPEG, WebP and all else that Pillow reads will do") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} has more than {MAX_PIXELS:,} pixels; scale it down, 2,000 pixels a side are plenty") from None
    except Exception as error:  # whatever a decoder makes of what is in the file
        raise ValueError(f"{path} is a damaged picture: {reason(error)}") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            size = f"{image.width}×{image.height}"
            raise ValueError(f"{path} is {size}, more than {MAX_PIXELS:,} pixels; scale it down, 2,000 pixels a side are plenty")
        try:
            return to_rgb_array(ImageOps.exif_transpose(image))
        except Exception as error:  # of broken EXIF also struct.error, TypeError, KeyError and others
            raise ValueError(f"{path} is a damaged picture, or of a kind that cannot be shown: {reason(error)}") from error


def to_rgb_array(image: Image.Image) -> np.ndarray:
    """A picture of any mode as uint8 [Y, X, 3]; what is transparent becomes white.

    Raises:
        OSError, SyntaxError, ValueError: it is damaged, or its numbers are no colours.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65_535:
            raise ValueError("its pixels have more than 16 bits")
        image = Image.fromarray(((wide.astype(np.int32) + 128) // 257).astype(np.uint8))  # 65535 / 257 = 255
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    image = image.convert("RGBA")
    return np.array(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def cover(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale a picture until it covers height × width (Pillow's bilinear filter), and cut the middle out.

    Args:
        image: uint8 [Y, X, 3].

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: the picture is so elongated that hardly any of it would be left.

    Source: `resize_and_centercrop` in SoulX-FlashTalk's flash_talk/infinite_talk/utils/multitalk_utils.py, and torchvision's
    rounding in `center_crop`.
    """
    rows, columns = image.shape[:2]
    scale = max(height / rows, width / columns)
    scaled_rows, scaled_columns = math.ceil(scale * rows), math.ceil(scale * columns)
    if scaled_rows * scaled_columns > 16 * height * width:
        raise ValueError(f"a picture of {columns}×{rows} is too elongated to fill {width}×{height}; crop it around the face")
    scaled = np.asarray(Image.fromarray(image).resize((scaled_columns, scaled_rows), Image.Resampling.BILINEAR))
    top, left = round((scaled_rows - height) / 2), round((scaled_columns - width) / 2)
    return scaled[top : top + height, left : left + width]


def prepare_portrait(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`cover` as the networks take it: float32 [height, width, 3] in [-1, 1]."""
    return cover(image, height, width).astype(np.float32) / 127.5 - 1


def nearest_bucket(image_size: tuple[int, int], buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) of `buckets` that is nearest in aspect ratio to `image_size`, also (height, width).

    Ratios are compared by their logarithms, so that 2:1 is as far from 1:1 as 1:2 is. The first of equals wins.
    """

    def log_ratio(size: tuple[int, int]) -> float:
        return math.log(size[0] / size[1])

    return min(buckets, key=lambda bucket: abs(log_ratio(bucket) - log_ratio(image_size)))


def contact_sheet(frames: np.ndarray, columns: int = 4, rows: int = 2, gap: int = 4) -> Image.Image:
    """Evenly spaced frames of a video, the first and the last among them, in one picture.

    Args:
        frames: uint8 [F, Y, X, 3].
        gap: white pixels around each frame.
    """
    count, height, width = frames.shape[:3]
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for place, index in enumerate(np.linspace(0, count - 1, rows * columns).round().astype(int)):
        row, column = divmod(place, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = frames[index]
    return Image.fromarray(sheet)


# Sound and video in


def open_media(path: Path):
    """The file as an open PyAV container.

    Raises:
        ValueError: FFmpeg does not know what it is.
    """
    # "file:" keeps a colon in the name from being taken for a protocol; the whitelist keeps playlists from reaching the network.
    try:
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, UnicodeError) as error:
        raise ValueError(f"{path} is not sound or video that FFmpeg reads: {reason(error)}") from error


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """uint8 [Y, X, 3] of a decoded frame, by the colour matrix it is tagged with (BT.601 without a tag)."""
    # Both names are needed: some PyAV versions decode BT.709 as BT.601 when they are left to themselves.
    return frame.to_ndarray(
        format="rgb24",
        src_colorspace="ITU709" if frame.colorspace == _BT709 else "ITU601",
        dst_colorspace="ITU601" if frame.colorspace == _BT709 else "ITU709",
    )


def check_sound(frame: av.AudioFrame) -> None:
    """Look at decoded sound before a resampler is set up for it.

    Raises:
        UnusualSound: its rate is outside `SOUND_RATES`, or it has more than `MAX_CHANNELS` channels.
    """
    lowest, highest = SOUND_RATES
    if not lowest <= frame.sample_rate <= highest:
        raise UnusualSound(f"has {frame.sample_rate:,} samples a second; {lowest:,} to {highest:,} are read")
    if len(frame.layout.channels) > MAX_CHANNELS:
        raise UnusualSound(f"has {len(frame.layout.channels)} channels; up to {MAX_CHANNELS} are read")


def load_audio(path: str | os.PathLike, sample_rate: int) -> np.ndarray:
    """The first sound stream of any file that FFmpeg's libraries decode, as mono float32 [samples] at `sample_rate`.

    Channels are averaged and the rate is converted by FFmpeg's resampler.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is not media, has no sound, is damaged or empty, or its sound is none that `check_sound` lets pass.
    """
    path = _existing_file(path)
    with open_media(path) as container:
        return _decode_sound(path, container, sample_rate)


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """float32 [samples] of packed floating-point sound."""
    return frame.to_ndarray().reshape(-1, len(frame.layout.channels)).mean(1)


def _decode_sound(path: Path, container, sample_rate: int) -> np.ndarray:
    if not container.streams.audio:
        raise ValueError(f"{path} has no sound stream")
    resampler = av.AudioResampler(format="flt", rate=sample_rate)  # packed: PyAV 18 crashes on eight planes
    pieces = []
    try:
        for frame in container.decode(audio=0):
            check_sound(frame)
            pieces += [_mono(out) for out in resampler.resample(frame)]
        if pieces:
            pieces += [_mono(out) for out in resampler.resample(None)]
    except UnusualSound as error:
        raise ValueError(f"the sound of {path} {error}") from None
    except (av.error.FFmpegError, ValueError) as error:
        seconds = sum(map(len, pieces)) / sample_rate
        raise ValueError(f"the sound of {path} is damaged after {seconds:.1f} s: {reason(error)}") from error
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if not len(samples):
        raise ValueError(f"the sound of {path} is empty")
    if not np.isfinite(samples).all():
        raise ValueError(f"the sound of {path} has samples that are not numbers")
    return samples


def read_video(path: str | os.PathLike) -> Video:
    """All frames of a video file, and its sound as mono at the file's own rate.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is not media, has no picture stream, or is damaged.
    """
    path = _existing_file(path)
    with open_media(path) as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no picture stream")
        fps = container.streams.video[0].average_rate
        try:
            frames = [to_rgb(frame) for frame in container.decode(video=0)]
        except av.error.FFmpegError as error:
            raise ValueError(f"the pictures of {path} are damaged: {reason(error)}") from error
    if not frames:
        raise ValueError(f"{path} has no frames")
    sound = None
    with open_media(path) as container:
        if container.streams.audio:
            sample_rate = container.streams.audio[0].codec_context.sample_rate
            samples = _decode_sound(path, container, sample_rate)
            if duration := container.streams.audio[0].duration:  # AAC's last packet is filled up; the container knows the end
                samples = samples[: round(duration * container.streams.audio[0].time_base * sample_rate)]
            sound = Sound(samples, sample_rate)
    return Video(np.stack(frames), fps, sound)


# Video out


class VideoWriter:
    """One MP4 of H.264 and AAC, written chunk by chunk.

        with VideoWriter("out.mp4", 416, 720, fps=25, sample_rate=16_000) as writer:
            writer.write_frames(frames)
            writer.write_audio(samples)

    Frames and sound may come in any order and in pieces of any length; given in turn, they lie interleaved in the file. It is
    written under a hidden name in the same folder and renamed when the block ends; if the block is left by an exception or
    Ctrl-C, nothing stays and a file that was there before is kept. The same input gives the same bytes, on
    any number of cores. Colours are BT.709 and tagged so.

    Args:
        path: ends in .mp4.
        height, width: pixels, even.
        sample_rate: of the sound; None for a silent video.
        crf: x264's quality, 0 (lossless) to 51.
        preset: x264's, "ultrafast" to "veryslow".

    Raises:
        OSError: the folder is missing or cannot be written to; checked here, before any frame is made.
        ValueError: a size, a rate or the name is one that MP4 cannot have.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        height: int,
        width: int,
        *,
        fps: int,
        sample_rate: int | None = None,
        crf: int = 18,
        preset: str = "fast",
    ):
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"the video {self.path} must have a name that ends in .mp4")
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ValueError(f"a video of {width}×{height} cannot be H.264 for every player: both sizes must be even")
        if sample_rate is not None and sample_rate not in AAC_RATES:
            raise ValueError(f"AAC sound cannot have {sample_rate} samples a second; it can have {', '.join(map(str, AAC_RATES))}")
        if os.path.isdir(self.path):
            raise IsADirectoryError(f"cannot write {self.path}: it is a folder")
        if not os.path.isdir(self.path.parent):
            raise FileNotFoundError(f"cannot write {self.path}: the folder {self.path.parent} does not exist")
        self.height, self.width, self.fps, self.sample_rate = height, width, fps, sample_rate
        self.frames_written = self.samples_written = 0
        self._crf, self._preset = crf, preset
        self._partial = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}.partial.mp4")
        with self._reporting():
            self._partial.touch(exist_ok=False)
            self._partial.unlink()

    def __enter__(self) -> Self:
        with self._reporting():
            self._container = av.open(f"file:{self._partial}", "w", format="mp4", options={"movflags": "+faststart"})
        # x264's output depends on its number of threads, so that is fixed; and on an AVX-512 processor its macroblock tree gives
        # other bytes from run to run (measured with PyAV 14, 16 and 18), so that is off.
        options = {"crf": str(self._crf), "preset": self._preset, "threads": "4", "x264-params": "mbtree=0"}
        self._video = self._container.add_stream("libx264", rate=self.fps, options=options)
        self._video.width, self._video.height, self._video.pix_fmt = self.width, self.height, "yuv420p"
        context = self._video.codec_context
        context.thread_type = "FRAME"
        context.time_base = Fraction(1, self.fps)
        context.gop_size = 2 * self.fps
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        self._audio = None
        if self.sample_rate is not None:
            self._audio = self._container.add_stream("aac", rate=self.sample_rate, layout="mono")
            self._audio.bit_rate = min(128_000, 6 * self.sample_rate)  # AAC's most is 6 bits a sample
        return self

    def write_frames(self, frames: np.ndarray) -> None:
        """Append frames, uint8 [F, Y, X, 3]."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (self.height, self.width, 3):
            expected = f"uint8 [F, {self.height}, {self.width}, 3]"
            raise ValueError(f"frames for {self.path} must be {expected}, not {frames.dtype} {list(frames.shape)}")
        with self._reporting():
            for pixels in frames:
                rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                # Naming another source colour space (of no meaning for RGB) is what makes every PyAV version set the matrix.
                frame = rgb.reformat(
                    format="yuv420p",
                    src_colorspace="ITU601",
                    dst_colorspace="ITU709",
                    src_color_range="JPEG",
                    dst_color_range="MPEG",
                    interpolation="AREA",
                )
                frame.pts, frame.time_base = self.frames_written, Fraction(1, self.fps)
                self.frames_written += 1
                self._container.mux(self._video.encode(frame))

    def write_audio(self, samples: np.ndarray) -> None:
        """Append mono sound, float [samples] in [-1, 1] at the writer's `sample_rate`."""
        if self._audio is None or self.sample_rate is None:
            raise ValueError(f"{self.path} was opened without a sample_rate, so it takes no sound")
        if samples.ndim != 1:
            raise ValueError(f"sound for {self.path} must be mono, [samples], not {list(samples.shape)}")
        if not len(samples):
            return
        with self._reporting():
            planes = np.clip(samples, -1, 1).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.sample_rate, self.samples_written, Fraction(1, self.sample_rate)
            self.samples_written += len(samples)
            self._container.mux(self._audio.encode(frame))

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            if not self.frames_written:
                raise ValueError(f"cannot write {self.path}: it was given no frames")
            with self._reporting():
                self._container.mux(self._video.encode(None))
                if self._audio is not None and self.samples_written:
                    self._container.mux(self._audio.encode(None))
                self._container.close()
                os.replace(self._partial, self.path)
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        with contextlib.suppress(Exception):
            self._container.close()
        self._partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reporting(self):
        try:
            yield
        except (OSError, av.error.FFmpegError) as error:
            raise OSError(f"cannot write {self.path}: {reason(error)}") from error
