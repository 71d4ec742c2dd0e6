"""What training is fed: the contract between `livetalk_jax.data`, which yields batches, and the losses, which take them."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from livetalk_jax.config import ModelConfig
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.color import LabStatistics

IMAGE_TOKENS = 257  # of CLIP's ViT-H/14


class TrainBatch(NamedTuple):
    """Clips of one aspect bucket, all of it cached features; NumPy on the way in, float16 where they are stored so, and float32 global
    arrays in a step.

    A clip is K consecutive chunks: chunk k is frames [k·new_frames, k·new_frames + F) of it, 25 a second, so consecutive chunks
    share their motion frames. K is `data.chunks` of the configuration: 1 in stage 1, the longest rollout in stage 2. In a run of
    several processes each yields its own rows of the global batch, of the same bucket at the same step.

    Attributes:
        chunk_latents: [B, K, T, H, W, 16] float32, normalised; each chunk encoded by the VAE on its own, as one video. The VAE is
            causal: the first M latents are those of the motion frames alone, the first is that of the chunk's first frame alone.
        reference_latents: [B, T, H, W, 16] float32: the reference frame, from outside the clip, followed by F − 1 blank frames
            or itself again (`stream.reference`), encoded as one video.
        portrait_latent: [B, 1, H, W, 16] float32: the reference frame alone.
        clip: [B, I, clip_dim]: CLIP features of the reference frame.
        text: [B, L, text_dim]: umT5 states of the caption, zero where there is no token; L ≤ text_len, the same in every batch.
        audio: [B, P, K, F, window, layers, C]: wav2vec2 windows of each chunk (`stream.audio.windows`), the features taken from a
            context of `audio_context_seconds` that ends where the chunk ends, as in live use; P = 1.
        color: Lab statistics of the reference frame, arrays [B, 1, 1, 1, 3] float32.
    """

    chunk_latents: Any
    reference_latents: Any
    portrait_latent: Any
    clip: Any
    text: Any
    audio: Any
    color: LabStatistics


class TrainData(Protocol):
    """An endless stream of batches that can be put back to where it was.

    Attributes:
        negative_text: [L, text_dim]: umT5 states of the configuration's negative prompt, zero where there is no token; L as in the
            batches.
    """

    negative_text: np.ndarray

    def __next__(self) -> TrainBatch: ...

    def get_state(self) -> dict[str, Any]:
        """The position behind the last batch that was returned (not behind those read ahead), as JSON can hold it."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a position."""


def synthetic_batch(
    model: ModelConfig, geometry: Geometry, *, batch: int, chunks: int, seed: int | tuple[int, ...], text_tokens: int = 8
) -> TrainBatch:
    """Random numbers in the shape of a batch; the same seed gives the same numbers."""
    rng = np.random.default_rng(seed)
    dit, (t, h, w) = model.dit, geometry.latent_grid
    features = (dit.audio_window, dit.audio_blocks, dit.audio_channels)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((batch, *shape), np.float32)

    mean: Any = 50.0 + normal(1, 1, 1, 3)
    deviation: Any = normal(1, 1, 1, 3)
    return TrainBatch(
        chunk_latents=normal(chunks, t, h, w, model.vae.z_dim),
        reference_latents=normal(t, h, w, model.vae.z_dim),
        portrait_latent=normal(1, h, w, model.vae.z_dim),
        clip=normal(model.clip.tokens, dit.clip_dim),
        text=normal(text_tokens, dit.text_dim),
        audio=normal(1, chunks, geometry.frames, *features),
        color=LabStatistics(mean, 10.0 + np.abs(deviation)),
    )


class SyntheticData:
    """Random batches that take turns through the buckets: for tests and benchmarks. See `TrainData`.

    Args:
        batch: rows that this process yields.
        process: tells the rows of several processes apart.
    """

    def __init__(self, model: ModelConfig, geometries: list[Geometry], *, batch: int, chunks: int, seed: int, process: int = 0):
        self._model, self._geometries = model, geometries
        self._batch, self._chunks, self._seed, self._process = batch, chunks, seed, process
        self._position = 0
        self.negative_text = np.random.default_rng(seed).standard_normal((8, model.dit.text_dim), np.float32)

    def __iter__(self) -> Iterator[TrainBatch]:
        return self

    def __next__(self) -> TrainBatch:
        geometry = self._geometries[self._position % len(self._geometries)]
        seed = (self._seed, self._position, self._process)
        self._position += 1
        return synthetic_batch(self._model, geometry, batch=self._batch, chunks=self._chunks, seed=seed)

    def get_state(self) -> dict[str, Any]:
        return {"position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        self._position = state["position"]
