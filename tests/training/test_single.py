"""Networks that are trained alone: the VAE and the speech encoder; their losses, and a run of each to a checkpoint."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax import checkpoint
from livetalk_jax.configs import audio_tiny, stage1_tiny, vae_tiny
from livetalk_jax.data.procedural import encode, feeds
from livetalk_jax.data.procedural.store import StoredClips
from livetalk_jax.flags import UsageError
from livetalk_jax.training import autoencoding, listening, pictures
from livetalk_jax.training.autoencoding import Autoencoding, Posterior, VideoBatch
from livetalk_jax.training.config import AutoencoderConfig, PartConfig, SpeechConfig, training_config
from livetalk_jax.training.listening import Listening
from livetalk_jax.training.loop import Feed, train
from livetalk_jax.training.single import SingleNetwork
from livetalk_jax.training.stages import State
from tests.training import sizes
from tests.training.conftest import one_device
from tests.training.drawn import CHUNKS, FRAMES, write_folder
from train import open_data


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("drawn") / "0")


def built(module, clips: Path, **loop) -> PartConfig:
    config, small = module.get_config(), sizes.get_config("stage1")
    config.model, config.stream, config.runtime = small.model, small.stream, small.runtime
    config.stream.audio_context_seconds = 2
    config.updates = 1
    config.data.update(batch=2, path=str(clips))
    config.loop.update(steps=4, save_every=2, sample_every=0, **loop)
    # Attention does not depend on keys' biases: their gradients are rounding, which a lesser eps would make moves of.
    config.optimizer.update(learning_rate=0.01, warmup_steps=0, ema_decay=0.5, eps=1e-4)
    if module is vae_tiny:
        config.autoencoding.frames = 5
    return training_config(config)


def begin(config: PartConfig) -> tuple[SingleNetwork, feeds.Drawn]:
    order = {"batch": config.data.batch, "seed": 0}
    if isinstance(config, AutoencoderConfig):
        return Autoencoding(config, one_device()), feeds.videos(config.data.path, frames=config.autoencoding.frames, **order)
    assert isinstance(config, SpeechConfig)
    return Listening(config, one_device()), feeds.speech(config.data.path, config.stream, **order)


class Trained:
    """One run of each kind, for all tests below."""

    def __init__(self, module, clips: Path, folder: Path):
        self.config = built(module, clips, log_every=1)
        self.part, self.data = begin(self.config)
        self.losses: list[float] = []
        state = self.part.start()
        feed = Feed(self.data, self.part.placement)
        first = next(feed)
        for step in range(4):
            state, metrics, _ = self.part.step(state, None, step, iter([first]))
            self.losses.append(float(metrics["loss"]))
        self.state: State = state
        self.first, self.feed = first, feed
        train(self.part, begin(self.config)[1], folder)
        self.student = folder / "student"


@pytest.fixture(scope="module")
def vae(clips, tmp_path_factory) -> Trained:
    return Trained(vae_tiny, clips, tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def audio(clips, tmp_path_factory) -> Trained:
    return Trained(audio_tiny, clips, tmp_path_factory.mktemp("audio"))


def test_both_learn_what_they_are_shown(vae, audio):
    for run in (vae, audio):
        assert run.losses[-1] < run.losses[0]


def test_updates_of_one_program_are_those_of_many(audio, clips):
    feed = Feed(begin(audio.config)[1], audio.part.placement)
    learner, metrics = jax.jit(audio.part.update)(audio.part.start()["audio"], tuple(next(feed) for _ in range(4)), np.uint32(0))
    assert metrics["loss"].shape == ()
    for name, weight in checkpoint.read(audio.student, "audio"):
        np.testing.assert_allclose(learner.best[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_iteration_may_have_several_updates(audio, clips):
    config = dataclasses.replace(audio.config, updates=4)
    part, feed = Listening(config, one_device()), Feed(begin(config)[1], audio.part.placement)
    state, _, work = part.step(part.start(), None, 0, feed)
    assert work.tokens == 4 * 2 * FRAMES
    for name, weight in checkpoint.read(audio.student, "audio"):
        np.testing.assert_array_equal(state["audio"].best[name], weight, err_msg=name)


def test_the_run_leaves_a_whole_checkpoint(vae, audio):
    for run in (vae, audio):
        assert set(checkpoint.read_manifest(run.student).configurations) == {"dit", "vae", "text", "clip", "audio"}
    assert not any("told" in name for name in checkpoint.tensors(audio.student, "audio"))


def test_latents_can_be_rescaled(vae):
    """Encoded otherwise, decoded the same."""
    weights, template = dict(vae.state["vae"].best), vae.part.template
    factor, shift = 1 + jnp.arange(16.0) / 10, jnp.arange(16.0) / 7
    plain, other = template.build(weights), template.build(autoencoding.rescaled(weights, factor, shift))
    video = autoencoding.pixels(vae.first.frames, jnp.float32)

    @jax.jit
    def there_and_back(network):
        return autoencoding.posterior(network, video).mean, network.decode(network.encode(video))

    (mean, decoded), (changed, same) = there_and_back(plain), there_and_back(other)
    np.testing.assert_allclose(changed, mean * factor + shift, atol=1e-5)
    np.testing.assert_allclose(same, decoded, atol=2e-4)


def test_exported_latents_have_the_published_statistics(vae):
    network = vae.part.template.build(dict(checkpoint.read(vae.student, "vae")))
    encode = jax.jit(network.encode)
    latents = np.concatenate([encode(autoencoding.pixels(next(vae.feed).frames, jnp.float32)) for _ in range(8)])
    np.testing.assert_allclose(latents.mean((0, 1, 2, 3)), 0, atol=0.3)
    assert 0.2 < latents.std() < 1.2  # the posterior's own deviation is beside it


def test_a_decoder_can_learn_alone(vae, clips, tmp_path):
    autoencoding = dataclasses.replace(vae.config.autoencoding, decoder_alone=True)
    config = dataclasses.replace(vae.config, autoencoding=autoencoding, checkpoint=str(vae.student))
    train(*begin(config), tmp_path)
    before, after = (dict(checkpoint.read(folder, "vae")) for folder in (vae.student, tmp_path / "student"))
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert {name.partition(".")[0] for name in still} == {"encoder", "quant"}
    assert not any(name.startswith(("encoder", "quant.")) for name in set(before) - still)


def test_divergence_of_normals():
    zeros = jnp.zeros((1, 1, 2, 2, 4))
    assert float(autoencoding.divergence(Posterior(zeros, zeros))) == 0.0
    # ½(μ² + σ² − 1 − ln σ²) with μ = 1, σ² = e.
    assert float(autoencoding.divergence(Posterior(zeros + 1, zeros + 1))) == pytest.approx(0.5 * (1 + np.e - 2))


def test_edges_count_what_differs_between_neighbours():
    ones = jnp.ones((1, 1, 8, 8, 1))
    assert float(pictures.edge_error(ones * 0.3, ones)) == 0.0
    stripes = jnp.tile(jnp.array([0.0, 1.0])[None, None, None, :, None], (1, 1, 8, 4, 1))
    # All 7 differences along a row are 1 at full size; halved, stripes are grey.
    assert float(pictures.edge_error(stripes, ones)) == pytest.approx(1 / 6)


def test_a_mouth_counts_more():
    weights = pictures.mouth_weights(jnp.array([[[4.0, 6.0, 4.0]] * 2]), 16, 16, jnp.array([[3.0, 9.0]]))
    assert weights.shape == (1, 2, 16, 16, 1)
    np.testing.assert_allclose(weights[0, 1] - 1, 3 * (weights[0, 0] - 1), atol=1e-5)
    peak = np.unravel_index(np.argmax(weights[0, 0, :, :, 0]), (16, 16))
    assert abs(peak[0] + 0.5 - 6) <= 0.5 and abs(peak[1] + 0.5 - 4) <= 0.5
    assert 3.7 < float(weights[0, 0].max()) <= 4.0
    assert float(weights[0, 0, 15, 15, 0]) == pytest.approx(1.0, abs=1e-3)


def test_spoilt_speech_keeps_its_time(audio):
    config = audio.config.listening
    click = jnp.zeros((4, 4000)).at[:, 2000].set(1.0)
    heard = listening.spoil(jax.random.key(0), click, config.__class__(spoilt=1.0, filter_db=6.0, noise_db=40.0))
    assert np.argmax(np.abs(np.asarray(heard)), 1).tolist() == [2000] * 4
    untouched = listening.spoil(jax.random.key(0), click, config.__class__(spoilt=0.0, filter_db=6.0, noise_db=0.0))
    np.testing.assert_array_equal(untouched, click)


def test_correlation_passes_over_rows_without_movement():
    a = jnp.stack([jnp.arange(10.0), jnp.arange(10.0)])
    assert float(listening.correlation(a, jnp.stack([2 * a[0], jnp.zeros(10)]))) == pytest.approx(1.0, abs=1e-4)
    assert float(listening.correlation(a, -a)) == pytest.approx(-1.0, abs=1e-4)


# Batches


def test_a_position_is_a_batch(clips):
    config = built(vae_tiny, clips)
    data = begin(config)[1]
    batches = [next(data) for _ in range(3)]
    state = data.get_state()
    after = next(data)
    again = begin(config)[1]
    again.set_state(json.loads(json.dumps(state)))
    for a, b in zip(next(again), after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(batches[0].frames, batches[1].frames)
    with pytest.raises(ValueError, match=r"one among batches of 2 of \[3\] clips, seed 0; these are batches of 3 of \[3\] clips"):
        feeds.videos(config.data.path, frames=5, batch=3, seed=0).set_state(state)


def test_pictures_and_mouths_are_of_the_same_frames(clips):
    stored = StoredClips(str(clips))
    batch: VideoBatch = next(feeds.videos(f"{clips},{clips}", frames=5, batch=4, seed=1))
    for frames, mouth, closed in zip(batch.frames, batch.mouth, batch.closed, strict=True):
        found = [
            (n, f)
            for n in range(len(stored))
            for f in range(stored.frames.shape[1] - 4)
            if (stored.frames[n, f : f + 5] == frames).all()
        ]
        assert len(found) == 1
        number, first = found[0]
        np.testing.assert_array_equal(mouth[:, 2], stored.truth["unit"][number, first : first + 5])
        np.testing.assert_array_equal(closed, stored.truth["closed"][number, first : first + 5])


def test_speech_and_mouths_are_of_the_same_chunk(clips):
    stored = StoredClips(str(clips))
    stream = built(audio_tiny, clips).stream
    batch = next(feeds.speech(str(clips), stream, batch=4, seed=1))
    assert batch.mouth.shape == (4, FRAMES, len(listening.PARTS))
    for sound, mouth in zip(batch.waveform, batch.mouth, strict=True):
        (found,) = [
            (n, k) for n in range(len(stored)) for k in range(CHUNKS) if (stored.speech[n, k].astype(np.float32) == sound).all()
        ]
        number, chunk = found
        begin = chunk * (FRAMES - stream.motion_frames)
        np.testing.assert_array_equal(mouth[:, 0], stored.truth["openness"][number, begin : begin + FRAMES])


def test_features_are_those_of_prepared_data(clips, tmp_path):
    """Encoded many at a time, they are what `livetalk data prepare` makes of a clip, and batches what its cache gives."""
    from livetalk_jax.data.features import Encoders, frozen_networks
    from livetalk_jax.stream.audio import windows
    from livetalk_jax.tokenizer import load_tokenizer

    values = sizes.get_config("stage1")
    values.stream.audio_context_seconds = 2
    config = training_config(values)
    networks = frozen_networks(config.model, "float32", None)
    tokenize = load_tokenizer("bytes", config.model.dit.text_len)
    encoder = encode.ClipEncoder(networks, config, tokenize)
    stored, out = StoredClips(str(clips)), tmp_path / "0"
    out.mkdir()
    assert sum(encode.encode(stored, encoder, config.stream.sample_rate, out, 2)) >= len(stored)
    with pytest.raises(FileNotFoundError, match=encode.DONE):
        feeds.features(str(out), config.model, config.stream, batch=2, chunks=1, seed=0)
    np.save(out / encode.NEGATIVE, encoder.captions([""])[0])
    (out / encode.DONE).write_text(encode.recipe(config.model, config.stream))

    one = Encoders(networks, config.stream, "float32", config.model.dit.audio_window, tokenize)
    for number in range(len(stored)):
        expected = one(stored[number][0], encode.CAPTIONS[number])
        for name in ("chunk_latents", "reference_latents", "clip", "audio", "color_mean", "color_deviation"):
            held = np.load(out / f"{name}.npy")[number].astype(np.float32)
            np.testing.assert_allclose(held, expected[name].astype(np.float32), rtol=2e-3, atol=2e-3, err_msg=name)
        text = np.load(out / "text.npy")[number]
        np.testing.assert_allclose(text[: len(expected["text"])], expected["text"], atol=2e-3)
        assert not text[len(expected["text"]) :].any()

    batch = next(feeds.features(f"{out},{out}", config.model, config.stream, batch=3, chunks=CHUNKS, seed=0))
    held, latents = np.load(out / "audio.npy"), np.load(out / "chunk_latents.npy")
    for row in range(3):
        (number,) = [n for n in range(len(stored)) if (latents[n] == batch.chunk_latents[row]).all()]
        begin = config.model.dit.audio_window // 2
        wanted = [windows(chunk, begin, begin + FRAMES, config.model.dit.audio_window) for chunk in held[number]]
        np.testing.assert_array_equal(batch.audio[row, 0], np.stack(wanted).astype(np.float32))
    with pytest.raises(ValueError, match="2 chunks, this run needs 3"):
        feeds.features(str(out), config.model, config.stream, batch=2, chunks=3, seed=0)
    (out / encode.DONE).write_text("{}")
    with pytest.raises(ValueError, match="another configuration"):
        feeds.features(str(out), config.model, config.stream, batch=2, chunks=1, seed=0)


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (vae_tiny, {"source": "cache", "path": "somewhere"}, "only 'drawn' has"),
        (vae_tiny, {"source": "drawn"}, "config.data.path is missing: the folder that `livetalk data procedural` wrote"),
        (stage1_tiny, {"source": "drawn"}, "config.data.path is missing: the folder that `livetalk data encode` wrote"),
    ],
)
def test_mistakes_are_told(module, data, message):
    config = module.get_config()
    config.data.update(data)
    with pytest.raises(UsageError, match=message):
        open_data(training_config(config), one_device())


def test_what_cannot_be_trained_is_told(clips):
    config = built(vae_tiny, clips)
    with pytest.raises(ValueError, match=r"config\.updates is 0: an iteration has at least one"):
        Autoencoding(dataclasses.replace(config, updates=0), one_device())
    alone = dataclasses.replace(config.autoencoding, decoder_alone=True)
    with pytest.raises(ValueError, match=r"decoder_alone needs an encoder: give its folder as config\.checkpoint"):
        Autoencoding(dataclasses.replace(config, autoencoding=alone), one_device())
