"""The frozen networks at work: what a clip's pictures, speech and caption become before training sees them.

Everything is computed as `livetalk generate` computes it for a live stream; tests hold the two together.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.config import ModelConfig, StreamConfig
from livetalk_jax.data.clips import Media
from livetalk_jax.data.record import Damaged
from livetalk_jax.models.wav2vec2 import normalize_waveform
from livetalk_jax.stream.audio import normalize_loudness
from livetalk_jax.stream.color import lab_statistics
from livetalk_jax.stream.networks import compiled, load_network, network_dtype, random_network
from livetalk_jax.tokenizer import Tokenize

Features = dict[str, np.ndarray]
"""Of one clip: what `pipeline` makes a `TrainBatch` of.

    chunk_latents      [K, T, H, W, 16] float16
    reference_latents  [T, H, W, 16]    float16; its first frame is the portrait's latent, the VAE being causal
    clip               [257, clip_dim]  float16
    text               [n, text_dim]    float16, the caption's tokens alone
    audio              [K, F + window // 2, layers, C] float16: the frames of each chunk, and those before it that its windows reach
    color_mean, color_deviation  [1, 1, 1, 3] float32

float16 holds three bits more than bfloat16, in which the published networks compute. All of these numbers are far below its
largest, 65,504: the latents are normalised, and states come from norms. One that is not leaves the clip out.
"""

NETWORKS = ("vae", "clip", "text", "audio")


def frozen_networks(model: ModelConfig, dtype: str, checkpoint: str | None) -> dict[str, nnx.Module]:
    """The four networks that make features, from a checkpoint or, without one, untrained; the transformer is not loaded.

    Raises:
        CheckpointError: the checkpoint lacks one, or holds one of another size.
    """
    if checkpoint is None:
        return {name: random_network(model, name, network_dtype(name, dtype), 0) for name in NETWORKS}
    return {name: load_network(model, name, network_dtype(name, dtype), checkpoint) for name in NETWORKS}


class Encoders:
    """Compiled networks; one program a bucket, and one each for text, speech and portrait.

    Args:
        networks: of `frozen_networks`.
        dtype: in which all but the speech encoder compute.
    """

    def __init__(self, networks: dict[str, nnx.Module], stream: StreamConfig, dtype: str, audio_window: int, tokenize: Tokenize):
        self._stream, self._tokenize = stream, tokenize
        frames = stream.audio_context_seconds * stream.fps
        last = stream.frames + audio_window // 2
        if last > frames:
            raise ValueError(f"audio_context_seconds {stream.audio_context_seconds} is shorter than a chunk and its windows")

        def pixels(video: jax.Array) -> jax.Array:
            return (video.astype(jnp.float32) / 127.5 - 1).astype(dtype)

        def latents(vae, video, shown):
            blank = jnp.arange(video.shape[1])[:, None, None, None] >= shown
            return vae.encode(jnp.where(blank, 0, pixels(video))).astype(jnp.float32)

        def portrait(clip, picture):
            return clip(pixels(picture)), lab_statistics(pixels(picture)[:, None])

        self._latents = compiled(latents, networks["vae"])
        self._portrait = compiled(portrait, networks["clip"])
        self._text = compiled(lambda text, ids, mask: text(ids, mask), networks["text"])
        self._speech = compiled(lambda audio, wave: audio(normalize_waveform(wave)[None], frames)[0, -last:], networks["audio"])
        self._caption = functools.lru_cache(256)(self._encode_caption)

    def _encode_caption(self, caption: str) -> np.ndarray:
        ids, mask = self._tokenize([caption])
        return _half("text", np.asarray(self._text(ids, mask)[0], np.float32)[mask[0] != 0])

    def caption(self, caption: str) -> np.ndarray:
        """umT5 states of the caption's tokens, float16 [n, text_dim]."""
        return self._caption(caption)

    def __call__(self, media: Media, caption: str) -> Features:
        """Features of a clip.

        Raises:
            Damaged: they are not numbers, or too large to be stored.
        """
        stream = self._stream
        step = stream.frames - stream.motion_frames
        chunks = [
            media.frames[None, begin : begin + stream.frames] for begin in range(0, len(media.frames) - stream.motion_frames, step)
        ]
        portrait = np.broadcast_to(media.reference, chunks[0].shape)
        shown = 1 if stream.reference == "first" else stream.frames
        encoded = [self._latents(chunk, np.int32(stream.frames)) for chunk in chunks]
        reference = self._latents(portrait, np.int32(shown))
        clip, color = self._portrait(media.reference[None])
        speech = [self._speech(normalize_loudness(wave, stream.sample_rate)) for wave in media.speech]
        return {
            "chunk_latents": _half("latents", np.concatenate(encoded)),
            "reference_latents": _half("latents", np.asarray(reference[0])),
            "clip": _half("CLIP", np.asarray(clip[0], np.float32)),
            "text": self.caption(caption),
            "audio": _half("speech", np.stack(speech)),
            "color_mean": np.asarray(color.mean[0]),
            "color_deviation": np.asarray(color.deviation[0]),
        }


def _half(name: str, values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise Damaged("not finite", f"{name} features hold {np.abs(values).max():g}, which is no number or more than 65,504")
    return half
