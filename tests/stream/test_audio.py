"""Loudness, windows and chunks of speech."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from livetalk_jax.stream.audio import SpeechBuffer, chunk_slices, normalize_loudness, video_frames, windows
from tests.stream import GOLDEN, relative_error


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "wav2vec2.safetensors")


def test_loudness_equals_published(golden):
    assert relative_error(normalize_loudness(golden["in/waveform"], 16_000), golden["out/loudness_normalised"]) < 1e-12
    narrow = normalize_loudness(golden["in/waveform"].astype(np.float32), 16_000)
    assert narrow.dtype == np.float32
    assert relative_error(narrow, golden["out/loudness_normalised"]) < 1e-6


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("samples", [0, 1, 6_399, 6_400, 128_000])
def test_silence_and_short_clips_are_unchanged(samples):
    silence = np.zeros(samples, np.float32)
    assert normalize_loudness(silence, 16_000) is silence


def test_clip_shorter_than_a_block_is_unchanged(golden):
    clip = golden["in/waveform"][:6_399]
    assert normalize_loudness(clip, 16_000) is clip
    assert normalize_loudness(golden["in/waveform"][:6_400], 16_000) is not clip


def test_loudness_target(golden):
    quieter = normalize_loudness(golden["in/waveform"], 16_000, lufs=-33.0)
    np.testing.assert_allclose(quieter * 10**0.5, normalize_loudness(golden["in/waveform"], 16_000), rtol=1e-9)


def test_windows_equal_published(golden):
    np.testing.assert_array_equal(windows(golden["out/hidden_states"], 0, 25), golden["out/windows"][0])


def test_windows_are_clamped_to_stop():
    features = np.arange(10.0)[:, None, None]
    assert windows(features, 0, 3)[:, :, 0, 0].tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 2], [0, 1, 2, 2, 2]]
    assert windows(features, 5, 7)[:, :, 0, 0].tolist() == [[3, 4, 5, 6, 6], [4, 5, 6, 6, 6]]
    assert windows(jnp.asarray(features), 8, 10, window=3)[:, :, 0, 0].tolist() == [[7, 8, 9], [8, 9, 9]]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (4, 3), (0, 11)])
def test_windows_outside_are_an_error(start, stop):
    with pytest.raises(ValueError, match=f"frames {start} to {stop} .* the 10 frames"):
        windows(np.zeros((10, 1, 1)), start, stop)


def test_speech_buffer_keeps_the_last_seconds():
    buffer = SpeechBuffer(2, 10)
    assert buffer.waveform.tolist() == [0] * 20
    buffer.push(np.arange(1, 8))
    assert buffer.waveform.tolist() == [0] * 13 + [1, 2, 3, 4, 5, 6, 7]
    before = buffer.waveform
    buffer.push(np.arange(8, 28))
    assert buffer.waveform.tolist() == list(range(8, 28))
    assert before[-1] == 7  # what was handed out does not change
    buffer.push(np.arange(100))
    assert buffer.waveform.tolist() == list(range(80, 100))
    buffer.push(np.zeros(0))
    assert buffer.waveform.tolist() == list(range(80, 100))
    assert buffer.waveform.dtype == np.float32


@pytest.mark.parametrize("samples", [1, 639, 640, 641, 17_919, 17_920, 17_921, 100_000, 600_000])
def test_chunks_cover_the_recording(samples):
    speech = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    pieces = list(chunk_slices(speech, 16_000, 25, 28))
    assert {len(piece) for piece in pieces} == {17_920}
    whole = np.concatenate(pieces)
    np.testing.assert_array_equal(whole[:samples], speech)
    assert not whole[samples:].any()
    frames = video_frames(samples, 16_000, 25)
    assert 0 <= frames / 25 - samples / 16_000 < 1 / 25
    assert len(pieces) == -(-frames // 28)


def test_no_speech_is_no_chunk():
    assert list(chunk_slices(np.zeros(0, np.float32), 16_000, 25, 28)) == []
    assert video_frames(0, 16_000, 25) == 0


def test_chunk_of_broken_samples_is_an_error():
    with pytest.raises(ValueError, match="28 frames at 30 a second are not a whole number of samples at 16000"):
        next(chunk_slices(np.zeros(5), 16_000, 30, 28))
