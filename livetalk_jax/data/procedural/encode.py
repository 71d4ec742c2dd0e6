"""`livetalk data encode`: drawn clips in, features of the frozen networks out, as plain arrays that training holds in memory.

The features are those of `livetalk data prepare`, many clips a program: a small set is encoded in a minute on a GPU.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags
from flax import nnx
from numpy.lib.format import open_memmap
from tqdm import tqdm

from livetalk_jax import flags
from livetalk_jax.config import ModelConfig, RunConfig, StreamConfig
from livetalk_jax.data.features import Features, frozen_networks
from livetalk_jax.data.prepare import ordered
from livetalk_jax.data.procedural.store import StoredClips
from livetalk_jax.models.wav2vec2 import normalize_waveform
from livetalk_jax.stream.audio import normalize_loudness
from livetalk_jax.stream.color import lab_statistics
from livetalk_jax.stream.conditioning import reference_video
from livetalk_jax.stream.networks import compiled
from livetalk_jax.tokenizer import Tokenize, load_tokenizer
from livetalk_jax.training.config import PartConfig, TrainConfig, training_config

USAGE = "usage: livetalk data encode --clips DIR,DIR --out DIR --config stage1_tiny --checkpoint DIR"

ARRAYS = ("chunk_latents", "reference_latents", "clip", "text", "audio", "color_mean", "color_deviation")  # as in `Features`
NEGATIVE = "negative_text.npy"
AHEAD = 24  # batches that are read ahead: loudness takes a core longer than all networks take a GPU
DONE = "features.json"  # written last
# Clips take turns with these: a model that has seen but one prompt would stumble over any other.
CAPTIONS = (
    "A person is talking.", "Somebody speaks to the camera.", "A talking person, seen from the front.", "talking head",
    "Ein Mensch spricht.", "一个人正在说话。", "A person is talking. Only the foreground characters are moving.", "a portrait",
)  # fmt: skip


def recipe(model: ModelConfig, stream: StreamConfig) -> str:
    """What features depend on, as JSON: it lies beside them, and training wants the same."""
    made = {name: dataclasses.asdict(getattr(model, name)) for name in ("vae", "clip", "text", "audio")}
    used = ("frames", "motion_frames", "fps", "sample_rate", "audio_context_seconds", "reference")
    made["stream"] = {name: getattr(stream, name) for name in used}
    return json.dumps(made | {"text_len": model.dit.text_len, "audio_window": model.dit.audio_window}, indent=1)


class Clips(NamedTuple):
    """Attributes:
    frames: uint8 [B, K · new + motion, Y, X, 3].
    reference: uint8 [B, Y, X, 3].
    speech: float32 [B, K, samples], of normal loudness.
    """

    frames: np.ndarray
    reference: np.ndarray
    speech: np.ndarray


class ClipEncoder:
    """Compiled networks for clips of one size; captions are filled up to `text_len` with zeros.

    Args:
        networks: of `features.frozen_networks`.
        dtype: in which all but the speech encoder compute.
    """

    def __init__(self, networks: dict[str, nnx.Module], config: RunConfig | TrainConfig, tokenize: Tokenize):
        self._stream, dtype = config.stream, config.runtime.dtype
        self._last = config.stream.frames + config.model.dit.audio_window // 2
        context = config.stream.audio_context_seconds * config.stream.fps
        self._tokenize = tokenize

        def pixels(video: jax.Array) -> jax.Array:
            return (video.astype(jnp.float32) / 127.5 - 1).astype(dtype)

        def half(x: jax.Array) -> jax.Array:
            return x.astype(jnp.float16)

        def pictures(vae, frames, begins):
            chunks = jax.vmap(lambda begin: jax.lax.dynamic_slice_in_dim(frames, begin, config.stream.frames, 1))(begins)
            latents = jax.lax.map(lambda chunk: vae.encode(pixels(chunk)), chunks)
            return half(jnp.moveaxis(latents, 0, 1))

        def portraits(vae, clip, picture):
            shown = pixels(picture)[:, None]
            latents = vae.encode(reference_video(shown, config.stream.frames, config.stream.reference))
            return half(latents), half(clip(shown[:, 0])), lab_statistics(shown)

        def speech(audio, waveforms):
            states = jax.vmap(lambda wave: audio(normalize_waveform(wave)[None], context)[0, -self._last :])
            return half(states(waveforms))

        self._pictures = compiled(pictures, networks["vae"])
        self._portraits = compiled(portraits, networks["vae"], networks["clip"])
        self._speech = compiled(speech, networks["audio"])
        self._text = compiled(lambda text, ids, mask: half(text(ids, mask) * mask[..., None]), networks["text"])

    def captions(self, texts: list[str]) -> np.ndarray:
        """[n, text_len, text_dim] float16."""
        return np.asarray(self._text(*self._tokenize(texts)))

    def __call__(self, clips: Clips) -> Features:
        """All but the text."""
        stream, (rows, chunks, samples) = self._stream, clips.speech.shape
        begins = np.arange(chunks) * (stream.frames - stream.motion_frames)
        latents = self._pictures(clips.frames, begins)
        portrait, clip, color = self._portraits(clips.reference)
        states = np.asarray(self._speech(clips.speech.reshape(-1, samples)))
        return {
            "chunk_latents": np.asarray(latents),
            "reference_latents": np.asarray(portrait),
            "clip": np.asarray(clip),
            "audio": states.reshape(rows, chunks, *states.shape[1:]),
            "color_mean": np.asarray(color.mean),
            "color_deviation": np.asarray(color.deviation),
        }


def encode(stored: StoredClips, encoder: ClipEncoder, sample_rate: int, out: Path, batch: int) -> Iterator[int]:
    """Features of all clips of a folder; yields how many clips each step has done.

    Raises:
        ValueError: features are not finite.
    """
    batch = min(batch, len(stored))
    captions = encoder.captions(list(CAPTIONS))
    files: dict[str, np.memmap] = {}

    def read(begin: int) -> Clips:
        part = slice(begin, begin + batch)
        speech = stored.speech[part].astype(np.float32)
        loud = [[normalize_loudness(wave, sample_rate) for wave in clip] for clip in speech]
        return Clips(np.array(stored.frames[part]), np.array(stored.reference[part]), np.array(loud))

    # The last batch begins early, so that one program serves all.
    begins = [min(begin, len(stored) - batch) for begin in range(0, len(stored), batch)]
    with ThreadPoolExecutor() as pool:
        for begin, clips in zip(begins, ordered(pool, read, begins, AHEAD), strict=True):
            made = encoder(clips)
            made["text"] = captions[np.arange(begin, begin + batch) % len(CAPTIONS)]
            for name, values in made.items():
                if not np.isfinite(values).all():
                    raise ValueError(f"{name} of clips {begin} to {begin + batch} are not finite")
                if name not in files:
                    files[name] = open_memmap(out / f"{name}.npy", "w+", values.dtype, (len(stored), *values.shape[1:]))
                files[name][begin : begin + batch] = values
            yield batch
    for file in files.values():
        file.flush()


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_list("clips", [], "Folders that `livetalk data procedural --chunks` wrote.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Folder of the features; each folder's lie in one of its name.", flag_values=values)
    absl_flags.DEFINE_string("checkpoint", None, "Folder with the frozen networks.", flag_values=values)
    absl_flags.DEFINE_integer("batch", 8, "Clips in one program.", 1, flag_values=values)


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE, training_config)
    if isinstance(config, PartConfig):
        raise flags.UsageError("features are for the two stages: give --config stage1_tiny, or another configuration of theirs")
    for name in ("clips", "out", "checkpoint"):
        if not values[name].value:
            raise flags.UsageError(f"--{name} is missing; {USAGE}")
    folders = {Path(values.out) / Path(clips).name: StoredClips(clips) for clips in values.clips}
    made = recipe(config.model, config.stream)
    left = {out: stored for out, stored in folders.items() if not (out / DONE).is_file() or (out / DONE).read_text() != made}
    networks = frozen_networks(config.model, config.runtime.dtype, values.checkpoint)
    encoder = ClipEncoder(networks, config, load_tokenizer(config.model.tokenizer, config.model.dit.text_len))
    with tqdm(total=sum(map(len, left.values())), unit="clip", file=sys.stderr) as bar:
        for out, stored in left.items():
            out.mkdir(parents=True, exist_ok=True)
            for count in encode(stored, encoder, config.stream.sample_rate, out, values.batch):
                bar.update(count)
            np.save(out / NEGATIVE, encoder.captions([config.sampler.negative_prompt])[0])
            (out / DONE).write_text(made)
    print(f"{values.out}: {len(folders)} folders, {sum(map(len, folders.values()))} clips")
