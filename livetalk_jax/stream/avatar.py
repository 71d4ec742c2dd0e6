"""Sessions as a server wants them (`livetalk_jax.serving.model.AvatarModel`): states that are never changed, frames as arrays."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np

from livetalk_jax.stream.session import Pipeline, Session


class Avatar:
    """Args:
    pipelines: by the (height, width) of their video; those of one model, which share its weights.
    """

    def __init__(self, pipelines: Mapping[tuple[int, int], Pipeline]):
        self._pipelines = pipelines
        first = next(iter(pipelines.values()))
        self.sizes = tuple(pipelines)
        self.chunk_frames, self.motion_frames = first.geometry.new_frames, first.geometry.motion_frames

    def start(self, portrait: np.ndarray, prompt: str | None, seed: int) -> Session:
        pipeline = self._pipelines[portrait.shape[0], portrait.shape[1]]
        return pipeline.start(portrait.astype(np.float32) / 127.5 - 1, prompt=prompt, seed=seed)

    def step(self, state: Session, speech: np.ndarray) -> tuple[Iterator[jax.Array], Session]:
        session = state.copy()
        return map(jax.block_until_ready, session.generate(session.listen([speech]))), session

    def rewind(self, state: Session, frames: np.ndarray, dropped: int) -> Session:
        session = state.copy()
        session.go_on_from(frames, dropped)
        return session

    def check(self) -> None:
        """One process's devices are known to be lost by a step alone."""
