"""Mouth shapes from phonemes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from livetalk_jax.data.procedural.face import Mouth
from livetalk_jax.data.procedural.phonemes import (
    DEFAULT,
    LABIAL,
    PARTS,
    SILENCE,
    Phoneme,
    closed_at,
    closure,
    mouth_track,
    name_at,
    shapes_of,
)
from tests.data.procedural import recorded_speech

# What espeak-ng 1.51 named in the sentences of all languages.
NAMES = Path(__file__).with_name("procedural_phonemes.txt").read_text(encoding="utf-8").split()


def fine_times(until: float) -> np.ndarray:
    return np.arange(0, until, 0.005)


def track_of(*phonemes: tuple[str, float, float], until: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    times = fine_times(until)
    return times, mouth_track([Phoneme(*p) for p in phonemes], times)


def test_parts_are_the_fields_of_a_mouth():
    assert tuple(field.name for field in dataclasses.fields(Mouth)) == PARTS


@pytest.mark.parametrize("name", NAMES)
def test_every_phoneme_that_the_synthesiser_named_has_a_shape(name):
    shapes = shapes_of(name)
    assert DEFAULT not in shapes
    for shape in shapes:
        assert 0 <= shape.openness <= 1 and -1 <= shape.width <= 1 and 0 <= shape.rounding <= 1


def test_unknown_phonemes_silence_and_marks():
    assert shapes_of("ʘ") == [DEFAULT]
    assert shapes_of("") == shapes_of("(en)") == shapes_of("_:") == [SILENCE]
    assert shapes_of("ɑː") == shapes_of("ɑ")
    assert len(shapes_of("aɪ")) == 2


@pytest.mark.parametrize("name", sorted({n for n in NAMES if n[0] in LABIAL}))
def test_lips_touch_on_labials_whatever_is_around(name):
    for length in (0.02, 0.05, 0.1, 0.2):
        phoneme = Phoneme(name, 1.0, 1.0 + length)
        times, track = track_of(("ɑː", 0.6, 1.0), tuple(phoneme), ("ɑː", 1.0 + length, 1.4))
        start, end = closure(phoneme)
        held = (times >= start) & (times <= end)
        assert end - start >= 0.06 and track[held, 0].max() < 1e-6
        assert track[times < start - 0.15, 0].max() > 0.6


def test_a_closure_is_seen_in_some_frame_at_25_frames_a_second_wherever_it_falls():
    for shift in np.arange(0, 0.04, 0.004):
        times = (np.arange(50) + 0.5) / 25
        phonemes = [Phoneme("a", 0.5, 1.0 + shift), Phoneme("b", 1.0 + shift, 1.03 + shift), Phoneme("a", 1.03 + shift, 1.5)]
        closed = closed_at(phonemes, times)
        assert closed.any()
        assert mouth_track(phonemes, times)[closed, 0].max() < 1e-6


def test_no_jumps():
    speech = recorded_speech()
    track = mouth_track(speech.phonemes, fine_times(6.0))
    # Of the whole range within 5 ms; lips that burst open take longer than that.
    assert np.abs(np.diff(track, axis=0)).max() < 0.1
    frames = mouth_track(speech.phonemes, (np.arange(150) + 0.5) / 25)
    assert np.abs(np.diff(frames[:, 0])).max() < 0.6


def test_silence_is_rest():
    speech = recorded_speech()
    times = fine_times(6.0)
    track = mouth_track(speech.phonemes, times)
    starts, ends = (np.array(t) for t in ([p.start for p in speech.phonemes], [p.end for p in speech.phonemes]))
    silent = ~((starts < times[:, None] + 0.25) & (ends > times[:, None] - 0.25)).any(1)
    assert silent.sum() > 40
    np.testing.assert_allclose(track[silent], np.broadcast_to([0, 0, 0, SILENCE.teeth, 0, 0, 0], (silent.sum(), 7)), atol=0.02)


def test_the_mouth_opens_with_synthetic_vowels_as_their_energy_does():
    phonemes, energy, times = [], np.zeros(600), fine_times(3.0)
    for k, start in enumerate((0.3, 0.9, 1.5, 2.1)):
        phonemes.append(Phoneme("aɛɔɑ"[k], start, start + 0.25))
        energy[(times >= start) & (times < start + 0.25)] = 1
    openness = mouth_track(phonemes, times)[:, 0]
    energy = np.convolve(energy, np.hanning(25) / 12, "same")
    assert np.corrcoef(openness, energy)[0, 1] > 0.9


def test_the_mouth_follows_the_sound():
    speech = recorded_speech()
    times = (np.arange(150) + 0.5) / 25
    openness = mouth_track(speech.phonemes, times)[:, 0]
    energy = np.sqrt((speech.waveform.reshape(150, 640) ** 2).mean(1))
    lags = range(-6, 7)
    follows = [np.corrcoef(openness[6 + lag : 144 + lag], energy[6:144])[0, 1] for lag in lags]
    assert abs(lags[int(np.argmax(follows))]) <= 1 and max(follows) > 0.4
    # Labials are quieter than vowels: the times of phonemes are those of the sound.
    names = name_at(speech.phonemes, times)
    vowel = np.array([name[:1] in set("aɑæɛʌɔ") and name != "" for name in names])
    assert energy[closed_at(speech.phonemes, times)].mean() < 0.65 * energy[vowel].mean()


def test_neighbours_colour_each_other():
    _, spread = track_of(("i", 0.5, 0.7), ("t", 0.7, 0.76), ("i", 0.76, 1.0))
    _, rounded = track_of(("u", 0.5, 0.7), ("t", 0.7, 0.76), ("u", 0.76, 1.0))
    at = int(0.73 / 0.005)
    assert rounded[at, 2] > 0.5 > 0.1 > spread[at, 2]
    assert spread[at, 1] > 0.5 > 0.1 > rounded[at, 1]
