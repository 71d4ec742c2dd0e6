"""Speech with the times of its phonemes: lines of a split said by a voice of it, with pauses, as it might be recorded anywhere."""

import ctypes.util
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.signal import fftconvolve, resample_poly

from livetalk_jax.data.procedural import espeak
from livetalk_jax.data.procedural.phonemes import Phoneme
from livetalk_jax.data.procedural.sentences import ACCENTS, SENTENCES, SHARES, VARIANTS, words

SAMPLE_RATE = 16_000
TEST_SHARE = 0.2
# Signals that a program brings upon itself, the same whenever it does the same; not those of somebody who ends it.
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
LIBRARY_VARIABLE, DATA_VARIABLE = "ESPEAK_NG_LIBRARY", "ESPEAK_NG_DATA"

Split = Literal["train", "test"]


class NoSynthesiser(OSError):
    """espeak-ng's library is not here, or does not work; the message says what would help."""


class SynthesiserCrashed(RuntimeError):
    """espeak-ng ended by a signal over these lines, as 1.51 does over Mandarin questions of some deep voices, whenever it is asked."""


def split_of(name: str) -> Split:
    """The side of the split something is on, for ever: SHA-256 of a salt and its name, the first 8 bytes as a share of 2⁶⁴.

    The salt was chosen so that each side has voices and sentences of every kind. Names are "person/7", "voice/f3" and "line/" with
    the words that are said.
    """
    share = int.from_bytes(hashlib.sha256(f"715/{name}".encode()).digest()[:8], "big") / 2**64
    return "test" if share < TEST_SHARE else "train"


def voices(split: Split) -> list[str]:
    return [variant for variant in VARIANTS if split_of(f"voice/{variant}") == split]


@dataclasses.dataclass(frozen=True)
class Synthesiser:
    """Where espeak-ng lies.

    Attributes:
        library: path or name of libespeak-ng; "" looks into $ESPEAK_NG_LIBRARY and then where the system keeps libraries.
        data: the folder that holds espeak-ng-data, or is it; "" looks into $ESPEAK_NG_DATA, and then where the library expects it.
    """

    library: str = ""
    data: str = ""

    def _library(self) -> str:
        return self.library or os.environ.get(LIBRARY_VARIABLE) or ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"

    def say(self, lines: Sequence[str], voice: str, rate: int, pitch: int, range_: int) -> list[tuple[np.ndarray, list[Phoneme]]]:
        """Each line's sound, float32 [samples] at 16 kHz, and its phonemes. The same task sounds the same at every call.

        Args:
            voice: such as "en-us+f3".
            rate: words a minute.
            pitch, range_: 0 to 100.

        Raises:
            NoSynthesiser: the library or its data are missing.
            SynthesiserCrashed: it is there, and crashes over one of the lines.
        """
        data = self.data or os.environ.get(DATA_VARIABLE, "")
        task = dict(library=self._library(), data=data, voice=voice, rate=rate, pitch=pitch, range=range_, lines=list(lines))
        program = [sys.executable, "-I", "-S", str(Path(espeak.__file__))]
        done = subprocess.run(program, input=json.dumps(task).encode(), capture_output=True)
        if -done.returncode in CRASHES:
            raise SynthesiserCrashed(f"espeak-ng ended by signal {-done.returncode} over {lines}, said by {voice}")
        head, _, samples = done.stdout.partition(b"\n")
        answer: dict[str, Any] = json.loads(head) if head else {"error": f"the synthesiser ended with code {done.returncode}"}
        if "error" in answer:
            advice = f"install Debian's espeak-ng, or set ${LIBRARY_VARIABLE} and ${DATA_VARIABLE}"
            raise NoSynthesiser(f"{answer['error']} ({advice})")
        sound = np.frombuffer(samples, np.int16).astype(np.float32) / 32768
        said, begin = [], 0
        for line in answer["lines"]:
            wave = sound[begin : begin + line["samples"]]
            begin += line["samples"]
            seconds = len(wave) / answer["rate"]
            starts = [start for _, start in line["phonemes"]] + [seconds]
            phonemes = [
                Phoneme(name, start, end)
                for (name, start), end in zip(line["phonemes"], starts[1:], strict=True)
                if end > start and name and not name.startswith(("(", "_"))
            ]
            common = np.gcd(SAMPLE_RATE, answer["rate"])
            said.append((resample_poly(wave, SAMPLE_RATE // common, answer["rate"] // common).astype(np.float32), phonemes))
        return said


@dataclasses.dataclass(frozen=True)
class Speech:
    """Attributes:
    waveform: float32 [samples] at 16 kHz, within [-1, 1].
    phonemes: what sounds when; between them it is silent.
    lines: what is said.
    """

    waveform: np.ndarray
    phonemes: tuple[Phoneme, ...]
    language: str
    voice: str
    lines: tuple[str, ...]


def _pick_line(rng: np.random.Generator, language: str, split: Split) -> str:
    """A sentence of the split, or a row of words that makes no sense and is of the split."""
    known = [line for line in SENTENCES[language] if split_of(f"line/{line}") == split]
    if known and rng.random() < 0.45:
        return known[int(rng.integers(len(known)))]
    vocabulary = words(language)
    while True:
        count = int(rng.integers(1, 4) if language == "Mandarin" else rng.integers(3, 10))
        line = " ".join(vocabulary[k] for k in rng.integers(len(vocabulary), size=count)) + "."
        if line not in SENTENCES[language] and split_of(f"line/{line}") == split:
            return line


def _said(synthesiser: Synthesiser, lines: Sequence[str], *how: Any) -> list[tuple[str, np.ndarray, list[Phoneme]]]:
    """Lines with their sound and phonemes, without those that the synthesiser crashes over; arguments as of `Synthesiser.say`."""
    try:
        return [(line, *said) for line, said in zip(lines, synthesiser.say(lines, *how), strict=True)]
    except SynthesiserCrashed:
        if len(lines) == 1:
            return []
        return [said for line in lines for said in _said(synthesiser, [line], *how)]


def make_speech(rng: np.random.Generator, seconds: float, split: Split, synthesiser: Synthesiser, recorded: bool) -> Speech:
    """Someone speaking for `seconds`, with pauses.

    Args:
        recorded: the sound gets a room, a microphone and a noise, and the voice another size of throat.

    Raises:
        NoSynthesiser: espeak-ng is missing.
    """
    languages = [language for language in SHARES]
    shares = np.array([SHARES[language] for language in languages], float)
    language = languages[int(rng.choice(len(languages), p=shares / shares.sum()))]
    accent = ACCENTS[language][int(rng.integers(len(ACCENTS[language])))]
    variants = voices(split)
    voice = f"{accent}+{variants[int(rng.integers(len(variants)))]}"
    rate, pitch, range_ = int(rng.integers(115, 215)), int(rng.integers(20, 81)), int(rng.integers(30, 81))
    # A line lasts a second at least; silence comes on top.
    lines = [_pick_line(rng, language, split) for _ in range(int(seconds) + 1)]
    stretch = float(np.exp(rng.uniform(-0.13, 0.13))) if recorded else 1.0

    waveform, phonemes, spoken = np.zeros(round(seconds * SAMPLE_RATE), np.float32), [], []
    at = 0.0 if rng.random() < 0.3 else rng.uniform(0.1, 1.2)
    # The library is asked for a few lines at a time: most clips need no more.
    for first in range(0, len(lines), 4):
        for line, wave, sounds in _said(synthesiser, lines[first : first + 4], voice, rate, pitch, range_):
            if at >= seconds:
                break
            if stretch != 1.0:
                wave = resample_poly(wave, round(100 * stretch), 100).astype(np.float32)
            begin = round(at * SAMPLE_RATE)
            part = waveform[begin : begin + len(wave)]
            part += wave[: len(part)]
            actual = round(100 * stretch) / 100
            shift = begin / SAMPLE_RATE
            phonemes += [Phoneme(p.name, shift + p.start * actual, shift + p.end * actual) for p in sounds]
            spoken.append(line)
            at = shift + len(wave) / SAMPLE_RATE + (rng.uniform(1.5, 3.0) if rng.random() < 0.12 else rng.uniform(0.05, 0.9))
        if at >= seconds:
            break
    phonemes = [p for p in phonemes if p.start < seconds]
    level = float(rng.uniform(-26, -16)) if recorded else -20.0
    if recorded:
        waveform = _record(rng, waveform)
    sounding = waveform[np.abs(waveform) > 1e-3]
    loudness = np.sqrt(np.mean(sounding**2)) if len(sounding) else 1.0
    waveform = waveform * (10 ** (level / 20) / loudness)
    return Speech(np.clip(waveform, -1, 1).astype(np.float32), tuple(phonemes), language, voice, tuple(spoken))


def _record(rng: np.random.Generator, waveform: np.ndarray) -> np.ndarray:
    """As a microphone in a room hears it; nothing is delayed."""
    if rng.random() < 0.35:
        length = rng.uniform(0.1, 0.45)
        tail = rng.standard_normal(int(length * SAMPLE_RATE)) * np.exp(
            -6.9 * np.arange(int(length * SAMPLE_RATE)) / (length * SAMPLE_RATE)
        )
        tail *= rng.uniform(0.15, 0.5) / np.sqrt(np.sum(tail**2))
        tail[0] = 1.0
        waveform = fftconvolve(waveform, tail)[: len(waveform)]
    # A smooth random response, ±8 dB, the same delay at all frequencies.
    spectrum = np.fft.rfft(waveform)
    hertz = np.linspace(0, SAMPLE_RATE / 2, len(spectrum))
    bands = np.geomspace(60, SAMPLE_RATE / 2, 7)
    gain = np.interp(np.log(np.maximum(hertz, 30)), np.log(bands), rng.uniform(-8, 8, 7) * rng.uniform(0, 1))
    waveform = np.fft.irfft(spectrum * 10 ** (gain / 20), len(waveform))
    if rng.random() < 0.6:
        white = np.fft.rfft(rng.standard_normal(len(waveform)))
        noise = np.fft.irfft(white / np.maximum(hertz, 50) ** rng.uniform(0, 1), len(waveform))
        power = np.sqrt(np.mean(waveform**2) + 1e-12) / np.sqrt(np.mean(noise**2))
        waveform = waveform + noise * power * 10 ** (-rng.uniform(18, 50) / 20)
    return waveform
