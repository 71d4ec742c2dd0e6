"""What the tests of the procedural data set share: a short recording of espeak-ng, so that they do not need it."""

import functools
from pathlib import Path

import numpy as np
import pytest

from livetalk_jax.data.procedural.dataset import Recording, record_speech
from livetalk_jax.data.procedural.identity import make_identity, make_scene
from livetalk_jax.data.procedural.phonemes import Phoneme
from livetalk_jax.data.procedural.speech import NoSynthesiser, Speech, Synthesiser


@functools.cache
def recorded_speech() -> Speech:
    """Six seconds: "My mother bought a big paper bag. We have never seen so many good maps." by en-us+f3."""
    with np.load(Path(__file__).with_name("procedural_speech.npz")) as stored:
        names, starts, ends = stored["names"], stored["starts"], stored["ends"]
        phonemes = tuple(Phoneme(str(n), float(s), float(e)) for n, s, e in zip(names, starts, ends, strict=True))
        waveform = stored["waveform"].astype(np.float32) / 32768
        return Speech(waveform, phonemes, "English", "en-us+f3", tuple(map(str, stored["lines"])))


def recording(person: int, seed: int = 0, size: tuple[int, int] = (128, 128)) -> Recording:
    return record_speech(np.random.default_rng(seed), make_identity(person), make_scene(seed), recorded_speech(), *size)


@functools.cache
def missing_synthesiser() -> str | None:
    """Why there is no speech here, None if there is."""
    try:
        Synthesiser().say(["Hello."], "en-us", 150, 50, 50)
    except NoSynthesiser as error:
        return str(error)
    return None


def needs_espeak() -> None:
    """Skip the test where espeak-ng is missing."""
    if reason := missing_synthesiser():
        pytest.skip(f"needs Debian's espeak-ng: {reason}")
