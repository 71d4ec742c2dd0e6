"""What people send: portraits, motion frames and recordings, looked at before anything else is done with them."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from PIL import Image, ImageOps

from livetalk_jax import media
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.model import SAMPLE_RATE

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
# Demuxers that read one file and nothing that it names; playlists are not among them.
AUDIO_FORMATS = "wav,mp3,flac,ogg,mov,mp4,m4a,aac,matroska,webm"


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """What is taken: bytes of a request's body and seconds for it to come, pixels of a picture, seconds of a recording, characters of
    a prompt."""

    body_bytes: int = 25 * 2**20
    body_seconds: float = 120.0
    pixels: int = 25_000_000
    seconds: float = 600.0
    prompt: int = 2000


def read_image(data: bytes, limits: UploadLimits) -> np.ndarray:
    """A JPEG, PNG or WebP as uint8 [Y, X, 3], upright, on white.

    Raises:
        ServingError: anything else, damaged, or too large; the size is known before a pixel is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
            if image.width * image.height > limits.pixels:
                raise ServingError(
                    "too_large", f"the picture is {image.width}×{image.height}, more than {limits.pixels:,} pixels; scale it down"
                )
            with image:
                return media.to_rgb_array(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError:
        raise ServingError("unsupported_media", "the picture is not JPEG, PNG or WebP") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ServingError("too_large", f"the picture has more than {limits.pixels:,} pixels; scale it down") from None
    except ServingError:
        raise
    except Exception as error:  # whatever a decoder makes of what somebody sends
        raise ServingError("unprocessable", f"the picture is damaged: {media.reason(error)}") from error


def read_portrait(data: bytes, sizes: Sequence[tuple[int, int]], limits: UploadLimits) -> np.ndarray:
    """A portrait cut to the nearest of the model's sizes, uint8 [Y, X, 3]."""
    image = read_image(data, limits)
    try:
        return media.cover(image, *media.nearest_bucket((image.shape[0], image.shape[1]), sizes))
    except ValueError as error:
        raise ServingError("unprocessable", str(error)) from error


def read_motion(data: bytes, size: tuple[int, int], limits: UploadLimits) -> np.ndarray:
    """Frames that were shown, one below the other in one picture of the video's width: uint8 [n, Y, X, 3]."""
    image = read_image(data, limits)
    height, width = size
    if image.shape[1] != width or image.shape[0] % height or image.shape[0] > 16 * height:
        got = f"{image.shape[1]}×{image.shape[0]}"
        raise ServingError("unprocessable", f"motion frames must lie one below the other, {width}×{height} each, not {got}")
    return image.reshape(-1, height, width, 3)


def write_motion(frames: np.ndarray) -> bytes:
    """The PNG that `read_motion` reads."""
    file = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(file, "PNG", compress_level=1)
    return file.getvalue()


def read_recording(data: bytes, limits: UploadLimits) -> np.ndarray:
    """The sound of a recording as int16 [samples], mono, at 16 kHz.

    Raises:
        ServingError: no sound, damaged, empty, of a rate or channels that `media.check_sound` refuses, or longer than the limit;
            decoding stops there.
    """
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    most, count = int(limits.seconds * SAMPLE_RATE), 0
    pieces: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(data), "r", options={"format_whitelist": AUDIO_FORMATS, "protocol_whitelist": ""}) as container:
            if not container.streams.audio:
                raise ServingError("unprocessable", "the recording has no sound")
            for frame in container.decode(audio=0):
                media.check_sound(frame)
                for part in resampler.resample(frame):
                    pieces.append(part.to_ndarray()[0])
                    count += len(pieces[-1])
                if count > most:
                    raise ServingError("too_large", f"the recording is longer than {limits.seconds:g} s")
        pieces += [part.to_ndarray()[0] for part in resampler.resample(None)] if pieces else []
    except media.UnusualSound as error:
        raise ServingError("unprocessable", f"the recording {error}") from error
    except (av.error.FFmpegError, ValueError) as error:
        raise ServingError("unsupported_media", f"the recording is no sound that is read here: {media.reason(error)}") from error
    if not count:
        raise ServingError("unprocessable", "the recording is empty")
    return np.concatenate(pieces)
