"""Published weight files into networks, and networks over the frames of a video."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from flax import nnx

from livetalk_jax.conversion.engine import Table, load
from livetalk_jax.conversion.sources import open_file
from livetalk_jax.evaluation.metric import Absent
from livetalk_jax.models.keys import Keys

Network = TypeVar("Network", bound=nnx.Module)


def published(network: Callable[..., Network], table: Table, path: Path) -> Network:
    """`network(rngs=...)` with the weights of a published file; read once.

    Raises:
        Absent: PyTorch is needed and not there, or the file cannot be read.
        ConversionError: the file is of another network.
    """
    return _published(network, table, path)


@functools.cache
def _published(network: Callable[..., Network], table: Table, path: Path) -> Network:
    model = nnx.eval_shape(lambda: network(rngs=Keys(jax.random.key(0))))
    try:
        source = open_file(path)
        load(model, {name: source.read(name) for name in source.tensors}, table)
    except OSError as error:
        raise Absent(str(error)) from None
    return model


@nnx.jit
def evaluate(model: nnx.Module, *inputs: jax.Array | np.ndarray) -> jax.Array:
    """`model(*inputs)`, compiled, in float32 also where a GPU would rather multiply in fewer bits."""
    with jax.default_matmul_precision("highest"):
        return model(*inputs)


class Windows:
    """Frames as they come, cut into windows of one length, so that a network compiles once.

    Args:
        run: uint8 [length, Y, X, 3] -> [outputs, ...].
        length: frames of a window.
        step: the next window begins so many frames later.
    """

    def __init__(self, run: Callable[[np.ndarray], jax.Array | np.ndarray], length: int, step: int):
        self.run, self.length, self.step = run, length, step
        self.count = 0
        self._waiting: np.ndarray | None = None
        self._found: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        self.count += len(frames)
        waiting = frames if self._waiting is None else np.concatenate([self._waiting, frames])
        while len(waiting) >= self.length:
            self._found.append(np.asarray(self.run(waiting[: self.length])))
            waiting = waiting[self.step :]
        self._waiting = waiting.copy()

    def whole(self) -> np.ndarray:
        """The outputs of all full windows.

        Raises:
            Absent: there is none.
        """
        if not self._found:
            raise Absent(f"needs {self.length} frames, the video has {self.count}")
        return np.concatenate(self._found)

    def all(self, outputs: int) -> np.ndarray:
        """The first `outputs` outputs; the last window is filled up with the last frame."""
        if self._waiting is not None and len(self._waiting) > self.length - self.step:
            missing = self.length - len(self._waiting)
            self.add(self._waiting[-1:].repeat(missing, 0))
        return self.whole()[:outputs]
