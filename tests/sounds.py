"""WAV files for tests of commands and of the server."""

import io
import wave
from pathlib import Path

import numpy as np

RATE = 16_000


def wav_of(samples: np.ndarray, rate: int = RATE) -> bytes:
    """Mono, 16 bits, `rate` samples a second; samples int16."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return content.getvalue()


def write_wav(path: Path, samples: np.ndarray) -> Path:
    """As `wav_of`, of samples in [-1, 1], clipped."""
    path.write_bytes(wav_of(np.clip(samples, -1, 1) * 32767))
    return path
