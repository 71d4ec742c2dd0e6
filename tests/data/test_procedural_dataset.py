"""Recordings, clips and files of the procedural data set, and its speech."""

import itertools
import json
import wave

import numpy as np
import pytest

from livetalk_jax import flags
from livetalk_jax.config import RunConfig
from livetalk_jax.configs import tiny
from livetalk_jax.data import folder
from livetalk_jax.data.clips import clip_frames
from livetalk_jax.data.procedural import command, speech
from livetalk_jax.data.procedural.dataset import ProceduralClips, ProceduralSet, make_recording, person_numbers
from livetalk_jax.data.procedural.phonemes import closure
from livetalk_jax.data.procedural.sentences import ACCENTS, SENTENCES, SHARES, VARIANTS
from livetalk_jax.data.procedural.speech import (
    SAMPLE_RATE,
    NoSynthesiser,
    Synthesiser,
    SynthesiserCrashed,
    make_speech,
    split_of,
    voices,
)
from livetalk_jax.data.procedural.store import StoredClips, write_clips
from livetalk_jax.media import load_audio, read_video
from tests.data.procedural import needs_espeak, recording

STREAM = RunConfig.from_config_dict(tiny.get_config()).stream


# Split


def test_persons_and_voices_of_the_splits_differ():
    train, test = set(person_numbers("train")), set(person_numbers("test"))
    assert not train & test and len(train | test) == 4096
    assert 0.15 < len(test) / 4096 < 0.25
    assert not set(voices("train")) & set(voices("test"))
    assert set(voices("train")) | set(voices("test")) == set(VARIANTS)
    assert len(voices("test")) >= 10


def test_every_language_has_sentences_on_both_sides():
    assert set(ACCENTS) == set(SENTENCES) == set(SHARES)
    for lines in SENTENCES.values():
        assert {split_of(f"line/{line}") for line in lines} == {"train", "test"}
        assert len(set(lines)) == len(lines)


def test_the_split_is_for_ever():
    assert person_numbers("test")[:6] == [3, 11, 17, 21, 27, 42]
    assert voices("test")[:6] == ["f2", "f3", "f4", "m3", "m4", "m7"]


# Truth, from a recording that was made before


def test_truth_has_a_value_for_every_frame_and_agrees_with_itself():
    someone = recording(21)
    truth = someone.truth()
    assert len(someone) == 150 and all(len(values) == 150 for values in truth.values())
    assert truth["openness"][truth["closed"]].max() < 1e-6
    assert truth["openness"][truth["silent"]].mean() < 0.01
    assert truth["openness"].max() > 0.3
    assert 10 < truth["closed"].sum() < 60 and truth["silent"].sum() > 10
    assert (truth["phoneme"][truth["silent"]] == "").all()
    assert {"m", "b", "p"} & set(truth["phoneme"].tolist())
    part = someone.truth(40, 60)
    np.testing.assert_array_equal(part["mouth_x"], truth["mouth_x"][40:60])
    np.testing.assert_array_equal(part["phoneme"], truth["phoneme"][40:60])


def test_frames_and_sound_are_cut_alike():
    someone = recording(21)
    assert someone.waveform(25, 50).shape == (16_000,)
    np.testing.assert_array_equal(someone.waveform()[16_000:32_000], someone.waveform(25, 50))
    np.testing.assert_array_equal(someone.frames(30, 32)[1], someone.frame(31))


def test_a_missing_synthesiser_is_said_in_one_line():
    with pytest.raises(NoSynthesiser, match=r"nowhere/libespeak.*install Debian's espeak-ng, or set \$ESPEAK_NG_LIBRARY"):
        Synthesiser("/nowhere/libespeak-ng.so").say(["Hello."], "en-us", 150, 50, 50)


@pytest.mark.parametrize(
    ("ended", "error", "says"),
    [
        ("SIGSEGV", SynthesiserCrashed, r"signal 11 over \['Hello\.'\], said by en-us"),
        ("SIGKILL", NoSynthesiser, "ended with code -9"),
    ],
)
def test_a_crash_is_no_missing_synthesiser(ended, error, says, tmp_path, monkeypatch):
    """And no end by somebody else, who may not come again."""
    program = tmp_path / "program.py"
    program.write_text(f"import os, signal\nos.kill(os.getpid(), signal.{ended})\n")
    monkeypatch.setattr(speech.espeak, "__file__", str(program))
    with pytest.raises(error, match=says):
        Synthesiser().say(["Hello."], "en-us", 150, 50, 50)


def test_lines_that_crash_the_synthesiser_are_left_out():
    asked = []

    class Crashing(Synthesiser):
        def say(self, lines, *how):
            asked.append(list(lines))
            if len(lines) > 1 or lines == asked[0][1:2]:
                raise SynthesiserCrashed
            return [(np.full(SAMPLE_RATE // 2, 0.1, np.float32), [])]

    said = make_speech(np.random.default_rng(0), 3.0, "train", Crashing(), recorded=False)
    assert len(asked[0]) == 4 and asked[1:] == [[line] for line in asked[0]]
    assert said.lines and set(said.lines) <= {asked[0][k] for k in (0, 2, 3)} and len(said.waveform) == 3 * SAMPLE_RATE


# Speech


def test_speech_does_not_depend_on_what_was_said_before():
    needs_espeak()
    synthesiser = Synthesiser()
    first, second = synthesiser.say(["Hello Bob.", "Good morning."], "en-us+f3", 150, 50, 50)
    synthesiser.say(["Guten Tag."], "de+m3", 120, 30, 70)
    again = synthesiser.say(["Hello Bob.", "Good morning."], "en-us+f3", 150, 50, 50)
    for (wave_a, phonemes_a), (wave_b, phonemes_b) in zip((first, second), again, strict=True):
        np.testing.assert_array_equal(wave_a, wave_b)
        assert phonemes_a == phonemes_b
    assert [p.name for p in first[1]] == ["h", "ə", "l", "oʊ", "b", "ɑː", "b"]


@pytest.mark.parametrize("language", ACCENTS)
def test_every_accent_speaks_and_its_phonemes_lie_within_the_sound(language):
    needs_espeak()
    for accent in ACCENTS[language]:
        ((sound, phonemes),) = Synthesiser().say([SENTENCES[language][0]], accent, 160, 50, 50)
        assert sound.dtype == np.float32 and 0.05 < np.abs(sound).max() <= 1.5
        assert len(phonemes) >= 6
        ends = [p.end for p in phonemes]
        assert all(p.start < p.end for p in phonemes) and ends == sorted(ends)
        assert ends[-1] <= len(sound) / SAMPLE_RATE + 1e-6
        assert phonemes[-1].end > 0.5 * len(sound) / SAMPLE_RATE


def test_lips_are_closed_when_the_sound_says_so():
    """In the middle of a closure it is quieter than in the vowel behind: much for /p/, less for /b/ and /m/, which are voiced."""
    needs_espeak()
    ((sound, phonemes),) = Synthesiser().say(["Papa. Mama. Baba. Papa. Mama. Baba."], "it+m1", 130, 50, 50)

    def loudness(begin: float, end: float) -> float:
        return float(np.sqrt((sound[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)] ** 2).mean()))

    ratios: dict[str, list[float]] = {"p": [], "b": [], "m": []}
    for lips, vowel in itertools.pairwise(phonemes):
        if lips.name in ratios and lips.start > 0.1:
            start, end = closure(lips)
            third = (end - start) / 3
            ratios[lips.name].append(loudness(start + third, end - third) / loudness(vowel.start + 0.02, vowel.start + 0.07))
    assert all(len(found) >= 3 for found in ratios.values())
    assert np.mean(ratios["p"]) < 0.2
    assert np.mean(ratios["b"]) < 0.6 and np.mean(ratios["m"]) < 0.8


def test_speech_is_of_its_split_and_has_silence():
    needs_espeak()
    for split in ("train", "test"):
        silent = []
        for seed in range(4):
            speech = make_speech(np.random.default_rng(seed), 8.0, split, Synthesiser(), recorded=split == "train")
            assert speech.waveform.shape == (128_000,) and np.abs(speech.waveform).max() <= 1
            assert split_of(f"voice/{speech.voice.split('+')[1]}") == split
            assert speech.lines and all(split_of(f"line/{line}") == split for line in speech.lines)
            silent.append(1 - sum(p.end - p.start for p in speech.phonemes) / 8)
        assert 0.05 < np.mean(silent) < 0.7


def test_rooms_and_microphones_do_not_delay_the_sound():
    needs_espeak()
    for seed in range(6):
        speech = make_speech(np.random.default_rng(seed), 8.0, "train", Synthesiser(), recorded=True)
        energy = np.log(np.sqrt((speech.waveform.reshape(-1, 160) ** 2).mean(1)) + 1e-4)
        times = (np.arange(800) + 0.5) / 100
        sounding = np.zeros(800)
        for p in speech.phonemes:
            sounding[(times >= p.start) & (times < p.end)] = 1
        lags = range(-15, 16)
        found = [np.corrcoef(energy[20 + lag : 780 + lag], sounding[20:780])[0, 1] for lag in lags]
        assert abs(lags[int(np.argmax(found))]) <= 8


# The set


def test_a_recording_is_known_by_its_number():
    needs_espeak()
    data = ProceduralSet(3, "test", 5, seconds=2.0, height=64, width=64)
    first, again = data[2], ProceduralSet(3, "test", 50, seconds=2.0, height=64, width=64)[2]
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert first.about == again.about and first.about != data[3].about
    assert first.frames.shape == (50, 64, 64, 3) and first.portrait.shape == (64, 64, 3)
    assert split_of(f"person/{first.about['person']}") == "test"
    with pytest.raises(IndexError, match="recording 5 of 5"):
        data[5]
    json.dumps(first.about)


def test_clips_are_what_networks_are_given():
    needs_espeak()
    clips = ProceduralClips(0, "train", 6, STREAM, 2, 64, 64)
    starts_with_silence = 0
    for number in range(6):
        media, truth = clips[number]
        assert media.frames.shape == (clip_frames(STREAM, 2), 64, 64, 3) and media.reference.shape == (64, 64, 3)
        assert media.speech.shape == (2, 8 * SAMPLE_RATE) and media.speech.dtype == np.float32
        assert len(truth["openness"]) == len(media.frames)
        # The second chunk hears what the first heard, 1.12 s later.
        step = SAMPLE_RATE * 28 // 25
        np.testing.assert_array_equal(media.speech[1][:-step], media.speech[0][step:])
        starts_with_silence += not media.speech[0][:SAMPLE_RATE].any()
    assert starts_with_silence >= 1


def test_clips_hear_what_their_frames_show():
    """The last samples of a chunk's speech are those of its last frame."""
    needs_espeak()
    clips = ProceduralClips(1, "test", 3, STREAM, 1, 64, 64)
    for number in range(3):
        media, truth = clips[number]
        energy = np.sqrt((media.speech[0][-33 * 640 :].reshape(33, 640) ** 2).mean(1))
        assert energy[truth["silent"]].mean() < 0.2 * energy.max() if truth["silent"].sum() > 3 else True


def test_the_train_split_is_recorded_and_the_test_split_is_not():
    needs_espeak()
    clean, noisy = (make_recording(0, "test", 4, 2.0, 64, 64, Synthesiser(), recorded) for recorded in (None, True))
    assert clean.who == noisy.who
    assert not np.array_equal(clean.speech.waveform, noisy.speech.waveform)


# Files


def test_stored_clips_are_those_that_were_drawn(tmp_path):
    needs_espeak()
    clips = ProceduralClips(0, "train", 3, STREAM, 1, 64, 64)
    assert sorted(write_clips(tmp_path, clips, workers=1)) == [0, 1, 2]
    stored = StoredClips(str(tmp_path))
    assert len(stored) == 3
    media, truth = stored[1]
    drawn, known = clips[1]
    np.testing.assert_array_equal(media.frames, drawn.frames)
    np.testing.assert_array_equal(media.reference, drawn.reference)
    np.testing.assert_allclose(media.speech, drawn.speech, atol=1e-3)
    np.testing.assert_array_equal(truth["closed"], known["closed"])
    np.testing.assert_allclose(truth["openness"], known["openness"])
    with pytest.raises(FileExistsError, match="holds clips already"):
        list(write_clips(tmp_path, clips, workers=1))
    with pytest.raises(FileNotFoundError, match=r"clips\.json is missing"):
        StoredClips(str(tmp_path / "truth"))


def test_clips_without_a_synthesiser_leave_no_folder(tmp_path):
    clips = ProceduralClips(0, "train", 3, STREAM, 1, 64, 64, synthesiser=Synthesiser("/nowhere/libespeak-ng.so"))
    with pytest.raises(NoSynthesiser):
        list(write_clips(tmp_path / "clips", clips, workers=1))
    assert not (tmp_path / "clips").exists()


def test_the_command_writes_what_the_folder_source_reads(tmp_path):
    needs_espeak()
    argv = [
        "livetalk data procedural",
        f"--out={tmp_path}",
        "--clips=2",
        "--seconds=2",
        "--size=64x96",
        "--split=test",
        "--workers=1",
    ]
    command.main(argv)
    records = list(folder.scan(tmp_path))
    assert len(records) == 2 and len({record.person for record in records}) == 2
    for record in records:
        video = read_video(record.video)
        assert video.frames.shape == (50, 64, 96, 3) and video.fps == 25
        known = json.loads((tmp_path / record.video).with_suffix(".json").read_text())
        assert len(known["truth"]["openness"]) == 50
        sound = load_audio(str(record.video).replace(".mp4", ".wav"), SAMPLE_RATE)
        assert len(sound) == 32_000 and video.sound is not None
        with wave.open(str(record.video).replace(".mp4", ".wav")) as file:
            assert file.getframerate() == SAMPLE_RATE


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--size=64", "is not height x width"), ("--size=65x64", "even and at least 64"), ("--clips=0", "clips")],
)
def test_mistakes_on_the_command_line(tmp_path, argument, message):
    with pytest.raises(flags.UsageError, match=message):
        command.main(["livetalk data procedural", f"--out={tmp_path}", argument])
