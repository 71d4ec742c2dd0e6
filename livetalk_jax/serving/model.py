"""What the server asks of a model. `livetalk_jax.stream.avatar.Avatar` is one; tests bring a test card."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

FPS = 25
SAMPLE_RATE = 16_000
TICK = SAMPLE_RATE // FPS  # samples that belong to one frame


class AvatarModel(Protocol):
    """Pictures of somebody who says what is heard, chunk by chunk. Called by one thread, for many sessions in turn.

    A state is whatever a session needs to go on. It is never changed: `step` and `rewind` return another, so that work which
    turns out to be in vain is undone by forgetting it.

    Attributes:
        sizes: (height, width) of the videos that it makes, all warmed up.
        chunk_frames: frames that a step adds, at `FPS` a second.
        motion_frames: shown frames that a step goes on from.
    """

    sizes: Sequence[tuple[int, int]]
    chunk_frames: int
    motion_frames: int

    def start(self, portrait: np.ndarray, prompt: str | None, seed: int) -> Any:
        """The state before the first step. portrait: uint8 [Y, X, 3] of one of `sizes`."""

    def step(self, state: Any, speech: np.ndarray) -> tuple[Iterable[ArrayLike], Any]:
        """The next frames to float32 speech [chunk_frames · TICK] in [−1, 1], and the state after them.

        Frames come in pieces, uint8 [n, Y, X, 3], `chunk_frames` in all: to go on to the next piece is to wait until it is computed.
        They may lie on a device: `np.asarray` fetches them, in any thread.
        """

    def rewind(self, state: Any, frames: np.ndarray, dropped: int) -> Any:
        """The state as if the last `dropped` frames had not been made: the next step goes on from these.

        frames: uint8 [motion_frames, Y, X, 3], the last that are shown.
        """

    def check(self) -> None:
        """Raises what says that the model is lost, if that is known without a step: that another process of its is gone.

        Called by another thread than the rest, at any time.
        """
