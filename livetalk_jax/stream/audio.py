"""Speech on its way to wav2vec2: loudness, pieces as long as a chunk, the live buffer, and windows of the features.

All of this runs on the host, in NumPy. The networks are elsewhere.
"""

from collections.abc import Iterator
from fractions import Fraction

import jax
import numpy as np


def normalize_loudness(waveform: np.ndarray, sample_rate: int, lufs: float = -23.0) -> np.ndarray:
    """Scale speech to an integrated loudness (ITU-R BS.1770-4).

    Silence, and sound shorter than the 0.4 s over which loudness is measured, are returned as they are.

    Args:
        waveform: float [samples], mono.
        lufs: the loudness wanted.

    Returns:
        [samples] in `waveform`'s dtype; peaks may exceed 1, as in the published code.

    Source: `loudness_norm` in SoulX-FlashTalk's flash_talk/infinite_talk/utils/multitalk_utils.py.
    """
    import pyloudnorm  # brings scipy.signal in, half a second that other commands need not wait

    meter = pyloudnorm.Meter(sample_rate)
    if len(waveform) < meter.block_size * sample_rate:
        return waveform
    with np.errstate(divide="ignore"):
        loudness = meter.integrated_loudness(waveform.astype(np.float64))
    if not abs(loudness) <= 100:
        return waveform
    return (waveform * 10 ** ((lufs - loudness) / 20)).astype(waveform.dtype)


def windows(features: np.ndarray | jax.Array, start: int, stop: int, window: int = 5) -> np.ndarray | jax.Array:
    """The features of each frame with those of its neighbours.

    Args:
        features: [frames, layers, C], 25 a second.
        start, stop: frames wanted. A neighbour before frame 0 is frame 0; one at or after `stop` is frame stop−1, even where
            `features` go on, as in the published code (a live stream has heard nothing later).
        window: odd.

    Returns:
        [stop−start, window, layers, C].

    Source: `get_audio_embedding` in SoulX-FlashTalk's flash_talk/inference.py.
    """
    if not 0 <= start < stop <= len(features):
        raise ValueError(f"frames {start} to {stop} do not lie within the {len(features)} frames of audio features")
    offsets = np.arange(window) - window // 2
    return features[np.clip(np.arange(start, stop)[:, None] + offsets, 0, stop - 1)]


class SpeechBuffer:
    """The last seconds of a live speech stream, silence at first. As many seconds before them are kept for `drop`."""

    def __init__(self, seconds: int, sample_rate: int):
        self._samples = np.zeros(2 * seconds * sample_rate, np.float32)

    def push(self, samples: np.ndarray) -> None:
        """Take in float [samples], any number; as many of the oldest drop out."""
        self._samples = np.concatenate([self._samples, samples.astype(np.float32)])[-len(self._samples) :]

    def drop(self, count: int) -> None:
        """Forget the newest `count` samples."""
        kept = self._samples[: max(0, len(self._samples) - count)]
        self._samples = np.concatenate([np.zeros(len(self._samples) - len(kept), np.float32), kept])

    @property
    def waveform(self) -> np.ndarray:
        """float32 [seconds · sample_rate], the oldest first."""
        return self._samples[len(self._samples) // 2 :]


def video_frames(samples: int, sample_rate: int, fps: int) -> int:
    """Frames of a video that is as long as `samples` of speech: no shorter, and longer by less than a frame."""
    return -(-samples * fps // sample_rate)


def chunk_slices(samples: np.ndarray, sample_rate: int, fps: int, new_frames: int) -> Iterator[np.ndarray]:
    """Cut a recording into the pieces that each chunk adds, every sample in one of them.

    Args:
        samples: float [samples].
        new_frames: frames that a chunk adds to the video.

    Yields:
        [sample_rate · new_frames / fps]; the last piece is filled up with silence. (The published code drops it.)

    Raises:
        ValueError: a chunk is not a whole number of samples.
    """
    length = Fraction(sample_rate * new_frames, fps)
    if length.denominator != 1:
        raise ValueError(f"{new_frames} frames at {fps} a second are not a whole number of samples at {sample_rate} a second")
    for begin in range(0, len(samples), length.numerator):
        piece = samples[begin : begin + length.numerator]
        yield np.pad(piece, (0, length.numerator - len(piece)))
