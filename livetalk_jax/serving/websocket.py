"""The WebSocket transport: JSON control and PCM16 in, events and fragmented MP4 out (docs/serving.md)."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from livetalk_jax.serving.audio import MAX_RATE, MIN_RATE, from_bytes
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.fmp4 import FragmentMuxer
from livetalk_jax.serving.limits import Bucket
from livetalk_jax.serving.live import LiveSession, Output
from livetalk_jax.serving.model import FPS, SAMPLE_RATE
from livetalk_jax.serving.timeline import Event, Tick

logger = logging.getLogger(__name__)

MAX_TEXT = 4096  # characters of a control message
MESSAGES_PER_SECOND = 200
SEND_SECONDS = 20.0  # a reader that takes nothing for so long is gone
STATS_TICKS = FPS  # a `stats` message a second


async def serve_stream(socket: WebSocket, live: LiveSession) -> None:
    """Run an accepted socket until either side ends it."""
    with live.subscribe() as output:
        _say(output, live, "session", id=live.id, state=live.state, height=live.size[0], width=live.size[1], fps=FPS,
             sample_rate=SAMPLE_RATE, generation=live.timeline.generation)  # fmt: skip
        tasks = {asyncio.create_task(_read(socket, live, output)), asyncio.create_task(_write(socket, live, output))}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, (WebSocketDisconnect, TimeoutError, RuntimeError, OSError)):
                logger.error("a stream failed", extra={"session": live.id}, exc_info=error)


def _say(output: Output, live: LiveSession, name: str, **fields: Any) -> None:
    """A message to this client alone, in order with all others."""
    output.put(Event(live.timeline.ticks, name, fields))


async def _read(socket: WebSocket, live: LiveSession, output: Output) -> None:
    rate, bucket = SAMPLE_RATE, Bucket(MESSAGES_PER_SECOND, 2 * MESSAGES_PER_SECOND)
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        try:
            if not bucket.take(live.engine.clock.now()):
                raise ServingError("rate_limited", f"more than {MESSAGES_PER_SECOND} messages a second")
            if message.get("bytes") is not None:
                live.push_audio(from_bytes(message["bytes"]), rate)
            else:
                rate = control(message["text"], live, output, rate)
        except ServingError as error:
            _say(output, live, "error", **error.body())
            if error.code in ("rate_limited", "closed"):
                await asyncio.sleep(0.2)  # for the message to go out
                return


def control(text: str, live: LiveSession, output: Output, rate: int) -> int:
    """Do what a JSON message says; returns the rate of the sound that follows."""
    if len(text) > MAX_TEXT:
        raise ServingError("bad_message", f"a control message has {MAX_TEXT} characters at most")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise ServingError("bad_message", "the message is not JSON") from None
    match message:
        case {"type": "audio_format", "sample_rate": int(new)} if MIN_RATE <= new <= MAX_RATE:
            return new
        case {"type": "audio_format"}:
            raise ServingError("bad_message", f"audio_format needs sample_rate, a number from {MIN_RATE} to {MAX_RATE}")
        case {"type": "end_segment"}:
            live.end_segment()
        case {"type": "interrupt"}:
            live.interrupt()
        case {"type": "ping", **rest}:
            _say(output, live, "pong", **({"id": rest["id"]} if isinstance(rest.get("id"), (int, str)) else {}))
        case {"type": "close"}:
            live.close("client")
        case _:
            raise ServingError("bad_message", "type must be audio_format, end_segment, interrupt, ping or close")
    return rate


async def _to_the_end(call: Callable, *arguments: Any) -> Any:
    """`asyncio.to_thread` that a cancellation waits for: what the thread works on may be freed only afterwards."""
    thread = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


class _Stream:
    """What one client was sent: which tick is which moment of its video."""

    def __init__(self, socket: WebSocket, live: LiveSession):
        self._socket, self._live = socket, live
        self._muxer: FragmentMuxer | None = None
        self._next = 0  # tick that the muxer waits for
        self._stats = 0

    async def send(self, data: dict | bytes) -> None:
        sending = self._socket.send_bytes(data) if isinstance(data, bytes) else self._socket.send_text(json.dumps(data))
        await asyncio.wait_for(sending, SEND_SECONDS)

    async def event(self, event: Event) -> None:
        moment = (event.number - self._next + self._muxer.frames) / FPS if self._muxer else 0.0
        await self.send({"type": event.name, "time": round(max(0.0, moment), 3), **event.fields})

    async def ticks(self, ticks: list[Tick]) -> None:
        """Encode and send what belongs together, a fresh initialisation before it where ticks are missing."""
        if self._muxer is None or ticks[0].number != self._next:
            start = 0
            if self._muxer is not None:
                start = self._muxer.frames
                self._live.engine.metrics.dropped.labels("websocket").inc(ticks[0].number - self._next)
                await _to_the_end(self._muxer.close)
            height, width = self._live.size
            self._muxer = await _to_the_end(FragmentMuxer, height, width, start)
            await self.send(
                {"type": "media_init", "mime": self._muxer.mime, "time": start / FPS, "generation": ticks[0].generation}
            )
            await self.send(self._muxer.init)
        began = time.perf_counter()
        data = await _to_the_end(self._muxer.add, [t.frame for t in ticks], [t.sound for t in ticks])
        self._live.took("encode", time.perf_counter() - began)
        self._next = ticks[-1].number + 1
        if data:
            self._live.engine.metrics.skew.set(self._muxer.skew())
            await self.send(data)
        if ticks[-1].number >= self._stats:
            self._stats = ticks[-1].number + STATS_TICKS
            await self.event(Event(self._next, "stats", self._live.stats()))

    async def close(self) -> None:
        if self._muxer is not None:
            await _to_the_end(self._muxer.close)


async def _write(socket: WebSocket, live: LiveSession, output: Output) -> None:
    stream = _Stream(socket, live)
    try:
        await _write_to(stream, output)
    finally:
        await stream.close()


async def _write_to(stream: _Stream, output: Output) -> None:
    while items := await output.take():
        batch: list[Tick] = []
        for item in items:
            if batch and (isinstance(item, Event) or item.number != batch[-1].number + 1):
                await stream.ticks(batch)
                batch = []
            if isinstance(item, Event):
                await stream.event(item)
            else:
                batch.append(item)
        if batch:
            await stream.ticks(batch)
