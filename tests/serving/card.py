"""A test card in place of a model: every frame says its number and whether it speaks, in blocks that survive video coding."""

import threading
import time
from collections import deque
from typing import NamedTuple

import numpy as np

from livetalk_jax.serving.model import TICK

SIZE = (64, 96)
CHUNK, MOTION = 28, 5
FIRST = 4  # frames of a chunk that come before the others
BITS = 16


class State(NamedTuple):
    shade: int  # of the portrait
    next: int  # number of the next frame


def draw(number: int, speaking: bool, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The number in 16 blocks of the upper half, the lower half bright while speaking."""
    height, width = size
    bits = np.unpackbits(np.array([number >> 8 & 255, number & 255], np.uint8))
    frame = np.empty((height, 3 * width), np.uint8)
    frame[: height // 2] = np.repeat(255 * bits, 3 * (width // BITS))
    frame[height // 2 :] = 255 if speaking else 0
    return frame.reshape(height, width, 3)


def read(frame: np.ndarray) -> tuple[int, bool]:
    """(number, speaking) of a drawn frame, decoded or not."""
    height, width = frame.shape[:2]
    blocks = frame[: height // 2, :, 1].reshape(height // 2, BITS, width // BITS).mean((0, 2)) > 127
    return int(blocks @ (1 << np.arange(BITS - 1, -1, -1))), bool(frame[height // 2 :].mean() > 127)


class TestCard:
    """Args:
    seconds: that a chunk takes.

    Attributes:
        gate: steps wait for it; set at first.
        fail_on: a portrait's shade whose steps raise.
        rewinds: (frames, dropped) of the last ones.
    """

    __test__ = False
    sizes = (SIZE,)
    chunk_frames, motion_frames = CHUNK, MOTION

    def __init__(self, seconds: float = 0.0):
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.fail_on: int | None = None
        self.gone = False
        self.steps = 0
        self.rewinds: deque[tuple[np.ndarray, int]] = deque(maxlen=10)

    def start(self, portrait, prompt, seed):
        return State(int(portrait[0, 0, 0]), 0)

    def step(self, state, speech):
        self.steps += 1
        assert speech.shape == (CHUNK * TICK,) and speech.dtype == np.float32
        assert self.gate.wait(60)
        time.sleep(self.seconds)
        if state.shade == self.fail_on:
            raise RuntimeError("the card is torn")
        loud = np.abs(speech.reshape(CHUNK, TICK)).max(1) > 0.01
        frames = np.stack([draw(state.next + i, bool(loud[i])) for i in range(CHUNK)])
        return iter([frames[:FIRST], frames[FIRST:]]), state._replace(next=state.next + CHUNK)

    def rewind(self, state, frames, dropped):
        assert frames.shape == (MOTION, *SIZE, 3) and frames.dtype == np.uint8
        self.rewinds.append((frames, dropped))
        return state._replace(next=read(frames[-1])[0] + 1)

    def check(self):
        if self.gone:
            raise ConnectionError("the other half of the card is gone")


if __name__ == "__main__":
    import argparse

    from livetalk_jax.serving import logs
    from livetalk_jax.serving.app import Server
    from livetalk_jax.serving.engine import Engine, Limits
    from livetalk_jax.serving.metrics import Metrics
    from livetalk_jax.serving.server import Listen, serve

    parser = argparse.ArgumentParser(description="Serve the test card: the server without a model.")
    parser.add_argument("--seconds", type=float, default=0.2, help="that a chunk takes")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    logs.configure()
    serve(Server(engine=Engine(lambda: TestCard(arguments.seconds), Limits(), Metrics())), Listen(port=arguments.port))
