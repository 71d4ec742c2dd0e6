"""A conversation that outlives its connection, and the server that it began on.

    conversation = Conversation(client, portrait)
    async for message in conversation: ...           until it has ended for good
    await conversation.speak(samples, 16_000)        meanwhile

A connection that breaks is made again. A session that is lost (its replica was killed, its model failed) or about to end
(`draining`) is carried on in another one: with the portrait, the last frames that were seen, and the generation.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import numpy as np
import websockets

from livetalk_jax.serving.client import Client, Message, Refused, Stream
from livetalk_jax.serving.uploads import write_motion

KEPT_FRAGMENTS = 64  # ten seconds, in which there are frames to decode from
MOTION_FRAMES = 5
FOR_GOOD = {"client", "deleted", "idle", "session_too_long"}  # reasons of `closed`
BROKEN = (OSError, httpx2.TransportError, websockets.WebSocketException)


class Conversation:
    """Args:
    portrait: a picture file's bytes; None for the server's own.
    patience: seconds in which a session must be had again.
    form: prompt, seed.

    Attributes:
        session: id of the session at hand.
        stream: of it; what it received stays there when the next one begins.
        generation: how often it was interrupted, over all sessions.
    """

    def __init__(self, client: Client, portrait: bytes | None = None, *, patience: float = 60.0, **form: Any):
        self._client, self._portrait, self._patience, self._form = client, portrait, patience, form
        self.session: str | None = None
        self.stream: Stream | None = None
        self.generation = 0
        self._over = False
        self._attached = asyncio.Event()
        self._motion: bytes | None = None

    async def speak(self, samples: np.ndarray, rate: int, *, pace: float = 0.0) -> None:
        """A whole segment, as `Stream.speak`.

        Raises:
            ConnectionError: the connection broke meanwhile.
        """
        await self._say(lambda stream: stream.speak(samples, rate, pace=pace))

    async def control(self, type: str, **fields: Any) -> None:
        """A control message, as `Stream.control`; raises as `speak`."""
        await self._say(lambda stream: stream.control(type, **fields))

    async def _say(self, call: Callable[[Stream], Awaitable[None]]) -> None:
        await self._attached.wait()
        assert self.stream is not None
        try:
            await call(self.stream)
        except websockets.ConnectionClosed as error:
            raise ConnectionError("the connection broke while something was said") from error

    async def __aiter__(self) -> AsyncIterator[Message]:
        """All messages, those of one session after those of the other.

        Raises:
            Refused, ConnectionError: no session could be had.
        """
        wait, tried_since = 0.0, time.monotonic()
        while not self._over:
            refused: Refused | None = None
            try:
                if self.session is None:
                    self.session = await self._open()
                async for message in self._read(self.session):
                    wait, tried_since = 0.0, time.monotonic()
                    yield message
            except Refused as error:
                refused = error
            except BROKEN:
                pass
            if refused is not None and not refused.retryable:
                raise refused
            if time.monotonic() - tried_since > self._patience:
                raise refused or ConnectionError(f"no server could be reached for {self._patience:g} s")
            await asyncio.sleep(max(wait, refused.retry_after or 0.0 if refused else 0.0))
            wait = min(8.0, 2 * wait or 0.25)

    async def _open(self) -> str:
        if self.stream is not None and (frames := self.stream.last_frames(MOTION_FRAMES)) is not None:
            self._motion = await asyncio.to_thread(write_motion, frames)
        generation = {"generation": self.generation} if self.generation else {}
        return await self._client.open(self._portrait, motion=self._motion, **generation, **self._form)

    async def _read(self, session: str) -> AsyncIterator[Message]:
        """A session's messages, until the connection ends."""
        async with self._client.stream(session, KEPT_FRAGMENTS) as stream:
            begun = False
            try:
                async for message in stream:
                    self.generation = message.fields.get("generation", self.generation)
                    if message.type == "session":
                        begun, self.stream = True, stream
                        self._attached.set()
                    elif message.type == "error" and not begun:
                        if not message.fields["retryable"]:  # it is not there any more
                            self.session = None
                        return
                    elif message.type == "closed":
                        self.session, self._over = None, message.fields["reason"] in FOR_GOOD
                    yield message
                    if message.type == "draining" and await self._move():
                        return
            finally:
                self._attached.clear()

    async def _move(self) -> bool:
        """Carry the session on before it ends, if another server has room."""
        try:
            other = await self._open()
        except (Refused, *BROKEN):
            return False  # it goes on here while it can
        old, self.session = self.session, other
        with contextlib.suppress(Refused, *BROKEN):
            await self._client.close(str(old))
        return True
