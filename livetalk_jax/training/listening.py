"""Training the speech encoder: from the speech of a live window, the mouth in each frame of its last chunk.

Every layer has a linear map of its own to the mouth's parts, since the transformer sees every layer; the maps are left behind. The
windows are those of streaming, silence before the session's beginning included. Persons differ in how far they open their mouths,
which speech does not tell: what is learnt is the mean.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from livetalk_jax.models.wav2vec2 import Wav2Vec2, normalize_waveform
from livetalk_jax.training.config import ListeningConfig, SpeechConfig
from livetalk_jax.training.single import SingleNetwork
from livetalk_jax.training.stages import Metrics
from livetalk_jax.training.state import Placement, Weights

# What is told, and the deviation of each over the procedural set: errors count in these.
PARTS = {
    "openness": 0.094, "width": 0.102, "rounding": 0.242, "teeth": 0.174, "tongue": 0.106, "press": 0.212, "tuck": 0.115,
    "closed": 0.286, "silent": 0.357,
}  # fmt: skip
FILTER_BANDS = 8


class SpeechBatch(NamedTuple):
    """Attributes:
    waveform: [B, samples]: what was heard before a chunk's end; float16 on the way in, float32 in a step.
    mouth: float32 [B, F, PARTS] of the chunk's frames.
    """

    waveform: Any
    mouth: Any


def spoil(key: jax.Array, waveform: jax.Array, config: ListeningConfig) -> jax.Array:
    """[B, samples] -> the same speech by other microphones in other places: a smooth random filter and coloured noise."""
    rows, samples = waveform.shape
    keys = jax.random.split(key, 6)
    bands = jnp.linspace(0.0, 1.0, FILTER_BANDS)
    place = jnp.sqrt(jnp.linspace(0.0, 1.0, samples // 2 + 1))  # more bands where speech is
    decibel = jax.random.uniform(keys[0], (rows, FILTER_BANDS), minval=-1.0, maxval=1.0) * config.filter_db
    gain = jax.vmap(lambda row: jnp.interp(place, bands, row))(decibel)
    spectrum = jnp.fft.rfft(waveform) * 10.0 ** (gain / 20)
    slope = jax.random.uniform(keys[1], (rows, 1), maxval=1.5)
    noise = jnp.fft.rfft(jax.random.normal(keys[2], waveform.shape)) * jnp.maximum(place, 0.05) ** -slope
    level = 10.0 ** (-jax.random.uniform(keys[3], (rows, 1), minval=config.noise_db, maxval=60.0) / 20)
    speech, noise = (jnp.fft.irfft(x, samples) for x in (spectrum, noise))

    def loudness(x):
        return jnp.sqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-12)

    spoilt = speech + noise * level * loudness(speech) / loudness(noise)
    return jnp.where(jax.random.bernoulli(keys[4], config.spoilt, (rows, 1)), spoilt, waveform)


def listening_loss(predicted: jax.Array, mouth: jax.Array) -> tuple[jax.Array, Metrics]:
    """Squared error in deviations, of all layers; and how well the last layer's openness and width go with the truth.

    predicted [B, F, layers, PARTS], mouth [B, F, PARTS].
    """
    scale = jnp.asarray(list(PARTS.values()))
    error = (predicted - mouth[:, :, None]) / scale
    last = predicted[:, :, -1]
    names = list(PARTS)
    metrics = {
        f"correlation_{name}": correlation(last[..., names.index(name)], mouth[..., names.index(name)])
        for name in ("openness", "width", "rounding")
    }
    return jnp.mean(jnp.square(error)), {"last_layer": jnp.mean(jnp.square(error[:, :, -1])), **metrics}


def correlation(a: jax.Array, b: jax.Array) -> jax.Array:
    """Pearson's, over the frames of each row [B, F], averaged over rows in which something moves."""
    a, b = (x - jnp.mean(x, 1, keepdims=True) for x in (a, b))
    spread = jnp.sqrt(jnp.sum(a * a, 1) * jnp.sum(b * b, 1))
    moves = jnp.mean(b * b, 1) > 1e-4
    return jnp.sum(jnp.where(moves, jnp.sum(a * b, 1) / (spread + 1e-9), 0.0)) / jnp.maximum(jnp.sum(moves), 1)


class Listening(SingleNetwork):
    """The speech encoder's training; see the module's docstring."""

    config: SpeechConfig

    def __init__(self, config: SpeechConfig, where: Placement):
        super().__init__(config, where, "audio")

    def frames_of(self, batch: SpeechBatch) -> int:
        return batch.mouth.shape[0] * batch.mouth.shape[1]

    def synthetic_batch(self) -> SpeechBatch:
        rng, rows, stream = np.random.default_rng(0), self.config.data.batch, self.config.stream
        waveform = rng.standard_normal((rows, stream.audio_context_seconds * stream.sample_rate), np.float32)
        return SpeechBatch(waveform, rng.random((rows, stream.frames, len(PARTS)), np.float32))

    def additional(self) -> Weights:
        sizes = self.config.model.audio
        return {
            "told.kernel": jnp.zeros((sizes.num_layers, sizes.hidden_size, len(PARTS))),
            "told.bias": jnp.zeros((sizes.num_layers, len(PARTS))),
        }

    def tell(self, weights: Weights, waveform: jax.Array, frames: int) -> jax.Array:
        """Mouths of the last `frames`, float32 [B, frames, layers, PARTS]."""
        stream = self.config.stream
        audio: Wav2Vec2 = self.build(weights, jnp.float32)
        states = audio(normalize_waveform(waveform), waveform.shape[1] * stream.fps // stream.sample_rate)[:, -frames:]
        return jnp.einsum("bflc,lcp->bflp", states, weights["told.kernel"]) + weights["told.bias"]

    def loss(self, weights: Weights, batch: SpeechBatch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        waveform = spoil(key, batch.waveform, self.config.listening)
        return listening_loss(self.tell(weights, waveform, batch.mouth.shape[1]), batch.mouth)
