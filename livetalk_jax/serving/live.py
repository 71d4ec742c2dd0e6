"""A session that runs, and what transports hold on to.

    live.push_audio(pcm, rate); live.end_segment(); live.interrupt()
    with live.subscribe() as output:
        async for item in output: ...                Tick or Event, in order

All of it happens on the event loop, so nothing here needs a lock.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from livetalk_jax.serving.audio import Resampler
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.model import FPS, SAMPLE_RATE
from livetalk_jax.serving.timeline import Event, Tick, Timeline

if TYPE_CHECKING:
    from livetalk_jax.serving.engine import Engine


class Output:
    """What one transport reads of a session. A reader that falls `limit` ticks behind goes on at the newest one.

    `Tick.number` then jumps. Events are never dropped; a reader that lets thousands pile up is shut out.
    """

    def __init__(self, live: "LiveSession", limit: int):
        self._live, self._limit = live, limit
        self._items: deque[Tick | Event] = deque()
        self._ticks = 0
        self._arrived = asyncio.Event()
        self.dropped = 0
        self.closed = False

    def put(self, item: Tick | Event) -> None:
        if self.closed:
            return
        if isinstance(item, Tick):
            if self._ticks >= self._limit:
                events = [kept for kept in self._items if isinstance(kept, Event)]
                self._items = deque(events)
                self.dropped += self._ticks
                self._ticks = 0
            self._ticks += 1
        self._items.append(item)
        if len(self._items) > self._limit + 2000:
            self.close()
        self._arrived.set()

    async def take(self) -> list[Tick | Event]:
        """All that has arrived, waiting for the first of it; nothing when the session or this output is closed."""
        while not self._items and not self.closed:
            self._arrived.clear()
            await self._arrived.wait()
        items, self._items, self._ticks = list(self._items), deque(), 0
        if not items:
            self._live.engine.readers.discard(self)
        return items

    async def __aiter__(self) -> AsyncIterator[Tick | Event]:
        while items := await self.take():
            for item in items:
                yield item

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._live.outputs.discard(self)
            self._live.detached_at = self._live.engine.clock.now()
            self._arrived.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()
        self._live.engine.readers.discard(self)


class LiveSession:
    """A session that runs. Made by `Engine.open`; all methods are called on the event loop.

    Attributes:
        state: "starting" until its first frames are made, then "live", in the end "closed".
        size: (height, width) of the video.
        owner: who opened it, as `tokens` names them.
        late: ticks in which the model had no new frame.
        stages: seconds that each stage of a chunk took last.
    """

    def __init__(self, engine: "Engine", timeline: Timeline, size: tuple[int, int], owner: str):
        self.id = secrets.token_urlsafe(16)
        self.engine, self.timeline, self.size, self.owner = engine, timeline, size, owner
        self.state: Literal["starting", "live", "closed"] = "starting"
        self.reason: str | None = None  # why it was closed
        self.outputs: set[Output] = set()
        self.opened_at = self.detached_at = self.spoke_at = engine.clock.now()
        self.late = 0
        self.stages: dict[str, float] = {}
        self.wanted_at: float | None = None  # since when the next chunk is wanted
        self._resampler: Resampler | None = None
        self._attached = asyncio.Event()
        self.frames_made = asyncio.Event()
        self._interrupted_at: float | None = None
        self._segment_at: float | None = None  # when the first sample of the segment arrived

    # In

    def push_audio(self, samples: np.ndarray, rate: int) -> None:
        """Speech as it is spoken: int16 [samples], mono, at any rate.

        Raises:
            ServingError: the session is closed, the rate is none, or too much is waiting already.
        """
        self._check_open()
        if self._resampler is None or self._resampler.rate != rate:
            self._flush()
            self._resampler = Resampler(rate)
        self.timeline.push(self._resampler.push(samples))
        self.spoke_at = self.engine.clock.now()
        if self._segment_at is None:
            self._segment_at = self.spoke_at
        self.engine.wake()

    def end_segment(self) -> None:
        """All of the segment was sent; without this mark, half a second without sound means the same."""
        self._check_open()
        self._flush()
        self.timeline.end_segment()
        self.engine.wake()

    def interrupt(self) -> int:
        """Be silent now: drops queued speech and unseen frames, answers with the event `interrupted`. Returns the generation."""
        self._check_open()
        if self._resampler is not None:
            self._resampler.flush()
        event = self.timeline.interrupt()
        self.engine.metrics.interrupts.inc()
        if event.fields["was_speaking"]:
            self._interrupted_at = self.engine.clock.now()
        self._segment_at = None
        self.publish(event)
        self.engine.wake()
        return self.timeline.generation

    def _check_open(self) -> None:
        if self.state == "closed":
            raise ServingError("closed", f"the session is closed: {self.reason}")

    def _flush(self) -> None:
        if self._resampler is not None:
            self.timeline.push(self._resampler.flush())

    # Out

    def subscribe(self, limit: int = 2 * FPS) -> Output:
        """Begin to read; the session runs while somebody does. limit: ticks that may wait."""
        output = Output(self, limit)
        if self.state == "closed":
            output.closed = True
            return output
        self.outputs.add(output)
        self.engine.readers.add(output)
        self._attached.set()
        self.engine.wake()
        return output

    def publish(self, item: Tick | Event) -> None:
        for output in list(self.outputs):
            output.put(item)

    def announce(self, name: str, **fields: Any) -> None:
        self.publish(Event(self.timeline.ticks, name, fields))

    def stats(self) -> dict[str, Any]:
        """Live figures for the client."""
        engine, timeline = self.engine, self.timeline
        return {
            "generation": timeline.generation,
            "speaking": timeline.in_segment,
            "frames_ready": timeline.ahead,
            "speech_waiting_seconds": round(timeline.pending / SAMPLE_RATE, 3),
            "frames_late": self.late,
            "chunk_seconds": round(engine.chunk_seconds, 4),
            "realtime_factor": round(engine.chunk_video_seconds / engine.chunk_seconds, 3),
            "stages": {stage: round(seconds, 4) for stage, seconds in self.stages.items()},
            "sessions": len(engine.sessions),
        }

    def took(self, stage: str, seconds: float) -> None:
        """Note what a stage of a chunk took: "wait", "start", "rewind", "step", its "first_frames", or "encode"."""
        self.stages[stage] = seconds
        self.engine.metrics.chunk.labels(stage).observe(seconds)

    def close(self, reason: str) -> None:
        """End it; transports see `closed` with the reason, then nothing more. Closing twice does nothing."""
        self.engine.close(self, reason)

    # Run by the engine

    def end(self, reason: str) -> None:
        self.announce("closed", reason=reason)
        self.state, self.reason = "closed", reason
        for output in list(self.outputs):
            output.close()
        self.frames_made.set()
        self._attached.set()

    async def pace(self) -> None:
        """A tick every 40 ms, from the first frame on and while somebody reads."""
        engine, clock = self.engine, self.engine.clock
        await self.frames_made.wait()
        while self.state != "closed":
            if not self.outputs:
                self._attached.clear()
                await self._attached.wait()
            due = clock.now()
            while self.outputs and self.state != "closed":
                delay = clock.now() - due
                if delay < 0:
                    await clock.sleep(-delay)
                    continue
                engine.metrics.tick_delay.observe(delay)
                self.tick()
                # After a stall the missed ticks follow at once, so that 25 a second stay 25 a second; of more than a second, none.
                due = due + 1 / FPS if delay < 1 else clock.now()

    def tick(self) -> None:
        metrics, now = self.engine.metrics, self.engine.clock.now()
        in_segment, interrupted = self.timeline.in_segment, self.timeline.cut_short
        for item in self.timeline.tick():
            if isinstance(item, Tick):
                metrics.frames.inc()
                if item.held:
                    self.late += not interrupted
                    metrics.late.labels("interrupt" if interrupted else "model").inc()
                    if in_segment:
                        metrics.underruns.inc()
                if not item.speaking and self._interrupted_at is not None:
                    metrics.interrupt.observe(now - self._interrupted_at)
                    self._interrupted_at = None
            elif item.name == "speech_started" and self._segment_at is not None:
                metrics.speech_delay.observe(now - self._segment_at)
            elif item.name == "speech_ended":
                self._segment_at = None
            self.publish(item)
        self.engine.wake()
