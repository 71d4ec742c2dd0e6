"""Sessions as a server uses them: states that do not change, and going on from what was shown instead of what was made."""

import jax
import numpy as np
import pytest

from livetalk_jax.stream.audio import SpeechBuffer
from livetalk_jax.stream.avatar import Avatar
from tests.stream.conftest import FRAMES, MOTION, SIZE

NEW = FRAMES - MOTION
CHUNK = NEW * 640
PORTRAIT = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def speech(seed):
    return (0.1 * np.random.default_rng(seed).standard_normal(CHUNK)).astype(np.float32)


def step(avatar, state, seed):
    """All frames of a step, and the state after it."""
    pieces, state = avatar.step(state, speech(seed))
    return np.concatenate(list(pieces)), state


@pytest.fixture(scope="module")
def avatar(pipeline):
    return Avatar({SIZE: pipeline})


def test_a_state_is_never_changed(avatar):
    state = avatar.start(PORTRAIT, None, 0)
    frames, after = step(avatar, state, 0)
    assert frames.shape == (NEW, *SIZE, 3) and frames.dtype == np.uint8
    other, _ = step(avatar, after, 1)
    np.testing.assert_array_equal(step(avatar, state, 0)[0], frames)
    np.testing.assert_array_equal(step(avatar, after, 1)[0], other)


def test_going_on_from_all_that_was_made_changes_little(avatar):
    """Motion latents of the frames as shown (8 bits) are those of the frames as made."""
    state = avatar.start(PORTRAIT, None, 0)
    frames, after = step(avatar, state, 0)
    rewound = avatar.rewind(after, frames[-MOTION:], 0)
    error = np.linalg.norm(np.subtract(rewound.motion.latents, after.motion.latents)) / np.linalg.norm(after.motion.latents)
    assert error < 0.02
    assert int(rewound.motion.known) == int(after.motion.known)


def test_going_on_from_earlier_frames(avatar):
    """What follows is conditioned on the frames given, and has heard only what belongs to them."""
    state = avatar.start(PORTRAIT, None, 0)
    frames, after = step(avatar, state, 0)
    rewound = avatar.rewind(after, frames[:MOTION], NEW - MOTION)
    assert np.abs(np.subtract(rewound.motion.latents, after.motion.latents)).max() > 1e-3
    heard = rewound._buffers[0].waveform
    np.testing.assert_array_equal(heard[-MOTION * 640 :], speech(0)[: MOTION * 640])
    assert not heard[: -MOTION * 640].any()
    np.testing.assert_array_equal(after._buffers[0].waveform[-CHUNK:], speech(0))


def test_nothing_compiles_after_one_of_each(avatar):
    frames, state = step(avatar, avatar.start(PORTRAIT, None, 0), 0)
    step(avatar, avatar.rewind(state, frames[-MOTION:], NEW), 1)
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        listen := lambda name, *_, **__: events.append(name) if name.endswith("backend_compile_duration") else None
    )
    try:
        frames, state = step(avatar, avatar.start(PORTRAIT[::-1].copy(), "Somebody else.", 3), 0)
        step(avatar, avatar.rewind(state, frames[-MOTION:], 3), 1)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not events


def test_dropped_speech_is_as_if_it_was_never_heard():
    buffer, other = SpeechBuffer(1, 100), SpeechBuffer(1, 100)
    numbers = np.arange(250, dtype=np.float32)
    for begin in range(0, 250, 50):
        buffer.push(numbers[begin : begin + 50])
    buffer.drop(80)
    other.push(numbers[:170])
    np.testing.assert_array_equal(buffer.waveform, other.waveform)
