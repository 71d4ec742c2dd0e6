"""One model over several processes, driven by the first: what it asks of its model, all others ask of theirs, in the same order.

Programs over the devices of several processes run when every process starts them. Process 0 has the sessions; the others follow it.
"""

import atexit
import itertools
import logging
import secrets
import socket
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from livetalk_jax.stream.avatar import Avatar

logger = logging.getLogger(__name__)

_CALLS = ("start", "step", "rewind")


class _Held:
    """A state of process 0, and the number under which the others hold theirs."""

    def __init__(self, number: int, state: Any):
        self.number, self.state = number, state


class Leader:
    """An `Avatar` of process 0 that takes the others along.

    Args:
        avatar: this process's.
        followers: connections to the others.
    """

    def __init__(self, avatar: Avatar, followers: Sequence[Connection]):
        self._avatar, self._followers = avatar, followers
        self.sizes, self.chunk_frames, self.motion_frames = avatar.sizes, avatar.chunk_frames, avatar.motion_frames
        self._numbers = itertools.count()
        self._forgotten: deque[int] = deque()  # states that nobody here holds any more; filled by the garbage collector
        atexit.register(self.close)  # before JAX, which at the end of a process waits for all others

    def start(self, portrait: np.ndarray, prompt: str | None, seed: int) -> _Held:
        number = self._send("start", None, portrait, prompt, seed)
        return self._hold(number, self._avatar.start(portrait, prompt, seed))

    def step(self, held: _Held, speech: np.ndarray) -> tuple[Iterator[jax.Array], _Held]:
        number = self._send("step", held, speech)
        frames, state = self._avatar.step(held.state, speech)
        return frames, self._hold(number, state)

    def rewind(self, held: _Held, frames: np.ndarray, dropped: int) -> _Held:
        number = self._send("rewind", held, frames, dropped)
        return self._hold(number, self._avatar.rewind(held.state, frames, dropped))

    def check(self) -> None:
        """Raises ConnectionError: another process is gone. They never send anything, so what comes is a connection's end."""
        for number, follower in enumerate(self._followers, 1):
            if follower.poll():
                raise ConnectionError(f"process {number} of the model is gone")

    def close(self) -> None:
        """Let the others end."""
        for follower in self._followers:
            follower.close()

    def _send(self, call: str, held: _Held | None, *arguments: Any) -> int:
        forgotten = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
        number = next(self._numbers)
        for follower in self._followers:
            follower.send((call, number, None if held is None else held.number, arguments, forgotten))
        return number

    def _hold(self, number: int, state: Any) -> _Held:
        held = _Held(number, state)
        weakref.finalize(held, self._forgotten.append, number)
        return held


def follow(avatar: Avatar, leader: Connection) -> None:
    """Do as process 0 does, until it ends."""
    states: dict[int, Any] = {}
    while True:
        try:
            call, number, before, arguments, forgotten = leader.recv()
        except (EOFError, OSError):
            return
        for old in forgotten:
            states.pop(old, None)
        assert call in _CALLS
        try:
            held = () if before is None else (states[before],)
            result = getattr(avatar, call)(*held, *arguments)
            if call == "step":
                frames, result = result
                deque(frames, maxlen=0)  # which waits for them
            states[number] = result
        except Exception:  # process 0 raises the same and deals with it
            logger.exception("process %d could not %s", jax.process_index(), call)


def connect(host: str | None) -> list[Connection]:
    """Connections of process 0 to all others, or of another to process 0; all processes call it at the same time.

    host: a name of process 0 that all can reach; None for its machine's name.
    """
    key, listener = secrets.token_bytes(32), None
    port = 0
    if jax.process_index() == 0:
        listener = Listener(("", 0), authkey=key)
        port = listener.address[1]
    name = (host or socket.gethostname()).encode()
    card = np.zeros(32 + 2 + 256, np.uint8)
    card[:34], card[34 : 34 + len(name)] = np.frombuffer(key + port.to_bytes(2), np.uint8), np.frombuffer(name, np.uint8)
    card = multihost_utils.broadcast_one_to_all(card)
    if listener is not None:
        with listener:
            return [listener.accept() for _ in range(jax.process_count() - 1)]
    key, port, name = bytes(card[:32]), int.from_bytes(bytes(card[32:34])), bytes(card[34:]).rstrip(b"\0")
    return [Client((name.decode(), port), authkey=key)]
