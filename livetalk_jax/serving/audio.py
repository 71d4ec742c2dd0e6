"""Speech of any rate on its way in: PCM16 to the model's 16 kHz, as it arrives."""

import av
import numpy as np

from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.model import SAMPLE_RATE

MIN_RATE, MAX_RATE = 8_000, 96_000


class Resampler:
    """A stream of int16 samples at one rate into int16 at `SAMPLE_RATE`; the few samples that a filter holds come with `flush`."""

    def __init__(self, rate: int):
        if not MIN_RATE <= rate <= MAX_RATE:
            raise ServingError("bad_request", f"a sample rate of {rate} is not between {MIN_RATE} and {MAX_RATE}")
        self.rate = rate
        self._resampler = self._new()

    def _new(self) -> av.AudioResampler:
        return av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)

    def push(self, samples: np.ndarray) -> np.ndarray:
        if self.rate == SAMPLE_RATE or not len(samples):
            return samples
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="s16", layout="mono")
        frame.sample_rate = self.rate
        return self._joined(self._resampler.resample(frame))

    def flush(self) -> np.ndarray:
        if self.rate == SAMPLE_RATE:
            return np.zeros(0, np.int16)
        rest = self._joined(self._resampler.resample(None))
        self._resampler = self._new()
        return rest

    @staticmethod
    def _joined(frames: list[av.AudioFrame]) -> np.ndarray:
        pieces = [frame.to_ndarray()[0] for frame in frames]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)


def from_bytes(data: bytes) -> np.ndarray:
    """PCM16, little-endian, mono.

    Raises:
        ServingError: half a sample.
    """
    if len(data) % 2:
        raise ServingError("bad_message", f"{len(data)} bytes are no whole number of 16-bit samples")
    return np.frombuffer(data, "<i2").astype(np.int16, copy=False)
