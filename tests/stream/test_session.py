"""Sessions: one compilation, the same bits for the same seed, all of the speech, and frames that fall where the sound does."""

import contextlib
import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from livetalk_jax.generate import networks_for
from livetalk_jax.nn.quantization import QuantizedLinear
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.conditioning import default_boxes, person_masks
from livetalk_jax.stream.networks import compiled, random_networks
from livetalk_jax.stream.session import Pipeline, Session, layout
from tests.stream.conftest import FRAMES, MOTION, SIZE

NEW, FIRST = FRAMES - MOTION, 4  # frames of a chunk, and those that come before the others
RATE, FPS = 16_000, 25
CHUNK = NEW * RATE // FPS  # 5,120 samples
PORTRAIT = np.random.default_rng(0).uniform(-1, 1, (*SIZE, 3)).astype(np.float32)


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def video(session, *speech):
    return np.concatenate(list(session.speak(speech)))


@contextlib.contextmanager
def counted_compilations():
    """The names of all programs that XLA compiles meanwhile, whoever asks for them."""
    events = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def pipeline(pipeline):
    session = pipeline.start(PORTRAIT)
    pipeline.warm_up(session)
    video(session, noise(1))
    return pipeline


def test_compilations_are_seen():
    with counted_compilations() as seen:
        jax.jit(lambda x: x + 41)(1.5)
    assert seen


def test_nothing_compiles_after_the_warm_up(pipeline):
    """Not the second chunk, not another session with another portrait, prompt and seed."""
    with counted_compilations() as seen:
        session = pipeline.start(-PORTRAIT, prompt="Somebody else.", seed=5)
        frames = video(session, noise(3 * CHUNK))
    assert len(frames) == 3 * NEW
    assert not seen
    assert pipeline.chunk_programs == 2
    assert pipeline.chunk_windows.programs == 1


def test_warm_up_leaves_the_session_where_it_is(pipeline):
    cold, warm = pipeline.start(PORTRAIT), pipeline.start(PORTRAIT)
    pipeline.warm_up(warm)
    np.testing.assert_array_equal(video(cold, noise(CHUNK)), video(warm, noise(CHUNK)))


def test_same_seed_same_bits(pipeline):
    speech = noise(2 * CHUNK)
    first, again, other = (video(pipeline.start(PORTRAIT, seed=seed), speech) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5
    assert first.dtype == np.uint8
    assert first.shape == (2 * NEW, *SIZE, 3)


def test_the_first_frames_are_there_before_the_others_are_decoded(pipeline, monkeypatch):
    """Which wait here until the first ones are fetched."""
    windows = (session := pipeline.start(PORTRAIT)).listen([noise(CHUNK)])
    expected = np.concatenate(session.generate(windows, commit=False))
    fetched, decode = threading.Event(), pipeline.other_frames.fn
    fetched.set()  # for the compilation

    def wait():
        assert fetched.wait(60)
        return np.float32(0)

    def others(vae, color, rest):
        zero = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32))
        return decode(vae, color, rest._replace(latents=rest.latents + zero))

    monkeypatch.setattr(pipeline, "other_frames", compiled(others, pipeline.networks.vae))
    jax.block_until_ready(session.generate(windows, commit=False))
    fetched.clear()
    first, last = session.generate(windows, commit=False)
    first = np.asarray(first)
    assert len(first) == FIRST and not last.is_ready()
    fetched.set()
    np.testing.assert_array_equal(np.concatenate([first, last]), expected)


def test_what_a_session_is_given_matters(pipeline):
    whole = video(pipeline.start(PORTRAIT), noise(CHUNK))
    for changed in (
        video(pipeline.start(PORTRAIT, prompt="A dog barks."), noise(CHUNK)),
        video(pipeline.start(np.flip(PORTRAIT, 0)), noise(CHUNK)),
        video(pipeline.start(PORTRAIT), noise(CHUNK, seed=1)),
    ):
        assert (whole != changed).any()


def test_sessions_are_apart(pipeline):
    """Two streams through one pipeline, chunk by chunk in turn, are what each is alone."""
    speech = [noise(2 * CHUNK, seed) for seed in (0, 1)]
    alone = [video(pipeline.start(PORTRAIT, seed=i), speech[i]) for i in range(2)]
    sessions = [pipeline.start(PORTRAIT, seed=i) for i in range(2)]
    together = [[], []]
    for begin in (0, CHUNK):
        for i in range(2):
            windows = sessions[i].listen([speech[i][begin : begin + CHUNK]])
            together[i].append(np.concatenate(sessions[i].generate(windows)))
    for i in range(2):
        np.testing.assert_array_equal(np.concatenate(together[i]), alone[i])


def test_chunks_go_on_from_one_another(pipeline):
    """The second chunk depends on what the first one showed, not on its number alone."""
    session = pipeline.start(PORTRAIT)
    windows = session.listen([noise(CHUNK)])
    session.generate(windows)
    second = np.concatenate(session.generate(windows, commit=False))
    np.testing.assert_array_equal(second, np.concatenate(session.generate(windows, commit=False)))
    known = session.motion
    assert known.known == 2
    session.motion = known._replace(latents=known.latents + 1)
    assert (second != np.concatenate(session.generate(windows, commit=False))).any()


LENGTHS = [1, 639, 640, 641, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 640, 3 * CHUNK]


@pytest.mark.parametrize("samples", LENGTHS)
def test_all_of_the_speech_is_covered(pipeline, samples):
    """A frame is 640 samples: as many frames as begin before the speech ends."""
    pieces = list(pipeline.start(PORTRAIT).speak([noise(samples)]))
    assert sum(map(len, pieces)) == -(-samples // 640)
    assert [len(piece) for piece in pieces[:-1]] == ([FIRST, NEW - FIRST] * len(pieces))[: len(pieces) - 1]
    assert all(map(len, pieces))


def test_no_speech_no_frames(pipeline):
    assert not list(pipeline.start(PORTRAIT).speak([noise(0)]))


@pytest.mark.parametrize("count", [0, 2, 3])
def test_wrong_number_of_recordings(pipeline, count):
    with pytest.raises(ValueError, match=rf"this session has 1 person\(s\) but was given {count} recording"):
        next(pipeline.start(PORTRAIT).speak([noise(10)] * count))


def test_once_has_as_many_frames(pipeline, monkeypatch, small):
    """And, of the same speech, other ones: the speech encoder saw all of it. Later chunks compile nothing."""
    stream = dataclasses.replace(small.stream, audio_mode="once")
    streamed = video(pipeline.start(PORTRAIT), noise(3 * CHUNK - 700))
    monkeypatch.setattr(pipeline, "config", dataclasses.replace(small, stream=stream))
    once = pipeline.start(PORTRAIT).speak([noise(3 * CHUNK - 700)])
    first = next(once)
    with counted_compilations() as seen:
        rest = list(once)
    assert not seen
    frames = np.concatenate([first, *rest])
    assert frames.shape == streamed.shape == (23, *SIZE, 3)
    assert (frames != streamed).any()
    assert pipeline.chunk_programs == 2


# Which sound belongs to which frame


class Energy(nnx.Module):
    """In the speech encoder's place: how loud each frame is, so that sound can be found again in the windows."""

    def __call__(self, waveforms, frames):
        return jnp.mean(jnp.square(waveforms).reshape(len(waveforms), frames, -1), -1)[..., None, None]


@pytest.fixture(scope="module", params=["stream", "once"])
def loudness(request, networks, small, tokenize):
    """A pipeline that hears loudness, by either audio mode."""
    config = dataclasses.replace(small, stream=dataclasses.replace(small.stream, audio_mode=request.param))
    return Pipeline(networks._replace(audio=Energy()), config, SIZE, tokenize)


def heard(pipeline, *speech):
    """Loudness in every chunk's windows, [chunks, P, F, 5]; no video is made."""
    session = Session(pipeline, None, None, persons=len(speech), seed=0)
    return np.stack([np.asarray(windows)[0, ..., 0, 0] for windows in session.recorded_windows(speech)])


@pytest.mark.parametrize("frame", [0, 1, NEW - 1, NEW, 2 * NEW - 1, 2 * NEW, 19])
def test_a_bang_is_heard_in_its_frame(loudness, frame):
    """In the chunk that shows the frame, after the motion frames, in the middle of its window; and by its neighbours' edges."""
    speech = 0.01 * noise(20 * 640)
    speech[frame * 640 : (frame + 1) * 640] *= 100
    windows = heard(loudness, speech)
    assert windows.shape == (3, 1, FRAMES, 5)
    chunk, place = divmod(frame, NEW)
    for number in range(3):
        # Frames of this chunk, motion frames before them, in frames of the recording.
        shown = np.arange(FRAMES) + number * NEW - MOTION
        seen = shown[:, None] + np.arange(-2, 3)
        last = (number + 1) * NEW - 1 if loudness.config.stream.audio_mode == "stream" else 3 * NEW - 1
        first = -MOTION if loudness.config.stream.audio_mode == "once" else -10_000
        expected = np.clip(seen, first, last) == frame
        loud = windows[number, 0] > 0.5 * windows.max()
        np.testing.assert_array_equal(loud, expected)
    assert windows[chunk, 0, MOTION + place, 2] == pytest.approx(windows[chunk].max(), rel=1e-4)


def test_what_comes_before_the_speech_is_silence(loudness):
    own = heard(loudness, noise(2 * CHUNK))[:, 0, :, 2]
    assert own[0, :MOTION].max() < 1e-3 * own[0, MOTION:].min()
    assert own[1].min() > 0.5 * own[1].max()


def test_each_person_is_heard_alone(loudness):
    first, second = 0.01 * noise(CHUNK), 0.01 * noise(CHUNK)
    first[2 * 640 : 3 * 640] *= 100
    second[6 * 640 : 7 * 640] *= 100
    windows = heard(loudness, first, second)
    assert windows.shape == (1, 2, FRAMES, 5)
    assert windows[0, :, MOTION:, 2].argmax(-1).tolist() == [2, 6]


# The teacher, two persons


def test_the_teacher_with_two_persons(networks, small, tokenize):
    """Euler steps, text and audio guidance with projection, whole recordings encoded at once, no colour match."""
    sampler = dataclasses.replace(small.sampler, method="euler", steps=3, text_guidance=5.0, audio_guidance=4.0, apg=True)
    stream = dataclasses.replace(small.stream, audio_mode="once", color_strength=0.0)
    pipeline = Pipeline(networks, dataclasses.replace(small, sampler=sampler, stream=stream), SIZE, tokenize)
    masks = person_masks(SIZE, default_boxes(SIZE), Geometry(*SIZE, FRAMES, MOTION))
    speech = noise(3 * CHUNK), noise(CHUNK, seed=1)  # the shorter one is silent then
    frames = video(pipeline.start(PORTRAIT, masks=masks), *speech)
    assert frames.shape == (3 * NEW, *SIZE, 3)
    assert frames.std() > 1
    assert pipeline.chunk_programs == 2
    np.testing.assert_array_equal(frames, video(pipeline.start(PORTRAIT, masks=masks), *speech))
    assert (frames != video(pipeline.start(PORTRAIT, masks=masks), *speech[::-1])).any()
    with pytest.raises(ValueError, match=r"this session has 2 person\(s\) but was given 1 recording"):
        next(pipeline.start(PORTRAIT, masks=masks).speak(speech[:1]))


def test_random_networks_hang_on_their_seed(small):
    def leaves(made):
        return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(made.dit, nnx.Param))]

    # All made here: the fixture's may have been made before this folder's settings of the compiler.
    made = (leaves(random_networks(small.model, "float32", seed=seed)) for seed in (0, 0, 1))
    for ours, same, other in zip(*made, strict=True):
        np.testing.assert_array_equal(ours, same)
        assert ours.std() == 0 or (ours != other).any()


def test_random_networks_in_8_bits_have_fixed_scales(small):
    """What a server without a checkpoint runs is what `livetalk quantize` would have written for it, not a slower program."""
    config = dataclasses.replace(small, runtime=dataclasses.replace(small.runtime, linear="fp8"))
    dit = networks_for(config, None, layout(config, SIZE)).dit
    divisors = [module.divisor for _, module in nnx.iter_modules(dit) if isinstance(module, QuantizedLinear)]
    assert len(divisors) == 10 * small.model.dit.num_layers
    assert all(divisor is not None and float(divisor[...]) > 0 for divisor in divisors)


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 40)])
def test_sizes_that_do_not_fit(networks, small, tokenize, height, width):
    with pytest.raises(ValueError, match="is not a multiple of 16; the nearest that fits is"):
        Pipeline(networks, small, (height, width), tokenize)
