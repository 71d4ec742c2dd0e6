"""Sessions in real time: one model thread that serves them in turn, one paced loop a session, and what transports hold on to.

    live = engine.open(portrait)                     raises ServingError when there is no room
    live.push_audio(pcm, rate); live.end_segment(); live.interrupt()
    with live.subscribe() as output:
        async for item in output: ...                Tick or Event, in order

Everything but the model's work happens on the event loop, so nothing here needs a lock.
"""

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from livetalk_jax.serving.audio import Resampler
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.metrics import Metrics
from livetalk_jax.serving.model import FPS, SAMPLE_RATE, TICK, AvatarModel
from livetalk_jax.serving.timeline import Event, Tick, Timeline

logger = logging.getLogger(__name__)

GOODBYE_SECONDS = 3.0  # that readers have for the last messages of a server that ends


async def to_the_end(call: Callable, *arguments: Any) -> Any:
    """`asyncio.to_thread` that a cancellation waits for: what the thread works on may be freed only afterwards."""
    thread = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


class Clock:
    """Monotonic time. Tests bring one that they move themselves."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a session ends by itself, in seconds. `sessions`: how many there may be; None: what the warm-up measures."""

    sessions: int | None = None
    session_seconds: float = 3600.0
    idle_seconds: float = 600.0  # without speech
    detached_seconds: float = 30.0  # without a transport


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
    """

    def __init__(self, engine: "Engine", timeline: Timeline, size: tuple[int, int], owner: str):
        self.id = secrets.token_urlsafe(16)
        self.engine, self.timeline, self.size, self.owner = engine, timeline, size, owner
        self.state = "starting"
        self.reason: str | None = None  # why it was closed
        self.outputs: set[Output] = set()
        self.opened_at = self.detached_at = self.spoke_at = engine.clock.now()
        self.late = 0
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
            "sessions": len(engine.sessions),
        }

    def close(self, reason: str) -> None:
        """End it; transports see `closed` with the reason, then nothing more. Closing twice does nothing."""
        self.engine.close(self, reason)

    # Run by the engine

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
                # After a stall the missed ticks follow at once, so that 25 a second stay 25 a second; a second's worth at most.
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


class Task(NamedTuple):
    """Something for the model thread: `run` there, then, on the loop, `done` with its result or `failed` with what it raised."""

    run: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]


class Engine:
    """Args:
    load: makes the model; called in the model thread, minutes long for the large ones.
    """

    def __init__(self, load: Callable[[], AvatarModel], limits: Limits, metrics: Metrics, clock: Clock | None = None):
        self.limits, self.metrics, self.clock = limits, metrics, clock or Clock()
        self._load = load
        self.model: AvatarModel | None = None
        self.sessions: dict[str, LiveSession] = {}
        self.readers: set[Output] = set()  # that have not read to the end
        self.capacity = 0
        self.chunk_video_seconds = 0.0
        self.chunk_seconds = self.start_seconds = 0.0  # what a chunk, and a session's start, take to compute
        self.draining = False
        self._starts: deque[tuple[float, Task]] = deque()
        self._background: deque[Task] = deque()
        self._thread = ThreadPoolExecutor(1, "model")
        self._current: Future = Future()  # what the thread does
        self._current.set_result(None)
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task] = set()

    # Life

    @property
    def ready(self) -> bool:
        return self.model is not None and not self.draining

    def spawn(self, work: Coroutine) -> asyncio.Task:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self) -> None:
        """Load, warm up, then serve until cancelled. What loading raises goes to the caller; a session's failures do not."""
        began = self.clock.now()
        self.model = await self._in_thread(self._warm_up)
        measured = math.floor(self.chunk_video_seconds / self.chunk_seconds)
        if measured < 1:
            logger.warning(
                "a chunk of %.2f s takes %.2f s: slower than real time, so one session is admitted and will stand still at times",
                self.chunk_video_seconds, self.chunk_seconds,
            )  # fmt: skip
        self.capacity = self.limits.sessions or max(1, measured)
        self.metrics.capacity.set(self.capacity)
        self.metrics.ready.set(1)
        logger.info("ready", extra={"seconds": round(self.clock.now() - began, 2), "chunk_seconds": self.chunk_seconds,
                                    "capacity": self.capacity})  # fmt: skip
        self.spawn(self._reap())
        while True:
            self._woken.clear()
            task = self._next()
            if task is None:
                await self._woken.wait()
                continue
            try:
                result = await self._in_thread(task.run)
            except Exception as error:
                task.failed(error)
            else:
                task.done(result)

    @property
    def computing(self) -> bool:
        """The model thread is in the middle of something, which cannot be stopped."""
        return not self._current.done()

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        self._current = self._thread.submit(call)
        return await asyncio.wrap_future(self._current)

    def _warm_up(self) -> AvatarModel:
        """Every size, every call; the times of the last are what capacity is reckoned from."""
        model = self._load()
        self.chunk_video_seconds = model.chunk_frames / FPS
        speech = np.zeros(model.chunk_frames * TICK, np.float32)
        for height, width in model.sizes:
            portrait = np.full((height, width, 3), 128, np.uint8)
            frames, state = model.step(model.start(portrait, None, 0), speech)
            state = model.rewind(state, frames[-model.motion_frames :], model.chunk_frames)
            began = time.perf_counter()
            model.start(portrait, None, 0)
            self.start_seconds = max(self.start_seconds, time.perf_counter() - began)
            times = []
            for _ in range(3):
                began = time.perf_counter()
                _, state = model.step(state, speech)
                times.append(time.perf_counter() - began)
            self.chunk_seconds = max(self.chunk_seconds, sorted(times)[1], 1e-4)
        return model

    async def close_all(self, reason: str) -> None:
        """End every session and everything that waits."""
        for live in list(self.sessions.values()):
            self.close(live, reason)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def drain(self, grace: float) -> None:
        """Admit nobody any more and give those who are there `grace` seconds to leave."""
        self.draining = True
        self.metrics.ready.set(0)
        for live in self.sessions.values():
            live.announce("draining", seconds=grace)
        end = self.clock.now() + grace
        while self.sessions and self.clock.now() < end:
            await self.clock.sleep(0.1)
        for live in list(self.sessions.values()):
            self.close(live, "shutting_down")
        end = self.clock.now() + GOODBYE_SECONDS
        while self.readers and self.clock.now() < end:
            await self.clock.sleep(0.05)

    # Sessions

    def check_room(self) -> None:
        """Raises:
        ServingError: warming up, draining, or as many sessions as there may be.
        """
        if self.draining:
            raise ServingError("draining", "this server is shutting down; another one will take the session", 1)
        if self.model is None:
            raise ServingError("warming_up", "the model is being loaded and compiled", 10)
        if len(self.sessions) >= self.capacity:
            raise ServingError("at_capacity", f"all {self.capacity} sessions are taken", self._retry_after())

    def _retry_after(self) -> int:
        """Seconds until the oldest session must end, but not so long that nobody would ask again."""
        oldest = min((live.opened_at for live in self.sessions.values()), default=0.0)
        left = oldest + self.limits.session_seconds - self.clock.now()
        return max(1, min(30, math.ceil(left)))

    def open(
        self, portrait: np.ndarray, *, prompt: str | None = None, seed: int = 0, owner: str = "", shown: np.ndarray | None = None,
        generation: int = 0,
    ) -> LiveSession:  # fmt: skip
        """Admit a session and begin to start it.

        Args:
            portrait: uint8 [Y, X, 3] of one of the model's sizes.
            shown: uint8 [n, Y, X, 3], the last frames of the session that this one carries on.
            generation: to count interruptions from.
        """
        self.check_room()
        model = self.model
        assert model is not None
        timeline = Timeline(portrait, chunk_frames=model.chunk_frames, motion_frames=model.motion_frames, shown=shown)
        timeline.generation = generation
        live = LiveSession(self, timeline, (portrait.shape[0], portrait.shape[1]), owner)
        self.sessions[live.id] = live
        self.metrics.active.set(len(self.sessions))
        logger.info("session opened", extra={"session": live.id, "size": f"{live.size[1]}x{live.size[0]}"})

        def started(state: Any) -> None:
            timeline.state = state

        task = Task(lambda: self._timed("start", model.start, portrait, prompt, seed), started, self._failing(live))
        self._starts.append((live.opened_at, task))
        self.wake()
        self.spawn(live.pace())
        return live

    def close(self, live: LiveSession, reason: str) -> None:
        if live.state == "closed":
            return
        live.announce("closed", reason=reason)
        live.state, live.reason = "closed", reason
        self.sessions.pop(live.id, None)
        for output in list(live.outputs):
            output.close()
        live.frames_made.set()
        live._attached.set()
        self.metrics.active.set(len(self.sessions))
        self.metrics.sessions.labels(reason).inc()
        logger.info("session closed", extra={"session": live.id, "reason": reason})

    async def _reap(self) -> None:
        while True:
            await self.clock.sleep(1.0)
            now, limits = self.clock.now(), self.limits
            for live in list(self.sessions.values()):
                if now - live.opened_at > limits.session_seconds:
                    self.close(live, "session_too_long")
                elif not live.outputs and now - live.detached_at > limits.detached_seconds:
                    self.close(live, "nobody_reads")
                elif now - live.spoke_at > limits.idle_seconds:
                    self.close(live, "idle")

    # The model's turns

    def wake(self) -> None:
        self._woken.set()

    def _next(self) -> Task | None:
        """Whoever's frames run out first; a start counts as if they ran out when it was asked for."""
        model = self.model
        assert model is not None
        now = self.clock.now()
        running = [live for live in self.sessions.values() if live.outputs]
        self.metrics.queue.set(sum(live.timeline.ahead for live in running))
        # A chunk may have to wait for one of everybody else, and for a newcomer's start.
        wait = self.chunk_seconds * max(1, len(running) + bool(self._background)) + self.start_seconds * (self.capacity > 1)
        floor = min(math.ceil(FPS * (wait + 0.1)), 2 * model.chunk_frames)
        candidates = []
        for live in running:
            live.timeline.floor = floor
            if live.timeline.wants():
                candidates.append((now + live.timeline.ahead / FPS, live))
        urgent, chosen = min(candidates, key=lambda entry: entry[0], default=(math.inf, None))
        if self._starts and self._starts[0][0] <= urgent:
            return self._starts.popleft()[1]
        if chosen is not None:
            return self._chunk(chosen)
        return self._background.popleft() if self._background else None

    async def in_background(self, call: Callable, *arguments: Any) -> Any:
        """Run a step of something that may wait, such as a job, when no session needs the model."""
        future = asyncio.get_running_loop().create_future()

        def done(result: Any) -> None:
            if not future.done():
                future.set_result(result)

        def failed(error: Exception) -> None:
            if not future.done():
                future.set_exception(error)

        self._background.append(Task(lambda: None if future.cancelled() else call(*arguments), done, failed))
        self.wake()
        return await future

    def _chunk(self, live: LiveSession) -> Task:
        model, timeline = self.model, live.timeline
        assert model is not None
        work = timeline.begin()

        def run() -> tuple[np.ndarray, Any]:
            state = work.state
            if work.rewind is not None:
                state = self._timed("rewind", model.rewind, state, *work.rewind)
            return self._timed("step", model.step, state, work.speech.astype(np.float32) / 32768)

        def done(result: tuple[np.ndarray, Any]) -> None:
            if live.state == "closed":
                return
            if not timeline.finish(work, *result):
                self.metrics.discarded.inc()
            if not live.frames_made.is_set() and timeline.ahead:
                live.frames_made.set()
                live.state = "live"
                self.metrics.first_frame.observe(self.clock.now() - live.opened_at)
                live.announce("state", state="live")

        return Task(run, done, self._failing(live))

    def _timed(self, stage: str, call: Callable, *arguments: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments)
        seconds = time.perf_counter() - began
        self.metrics.chunk.labels(stage).observe(seconds)
        if stage == "step":
            self.chunk_seconds += 0.1 * (seconds - self.chunk_seconds)
            self.metrics.realtime_factor.set(self.chunk_video_seconds / seconds)
        return result

    def _failing(self, live: LiveSession) -> Callable[[Exception], None]:
        def failed(error: Exception) -> None:
            logger.error("the model failed", extra={"session": live.id}, exc_info=error)
            self.metrics.failed.inc()
            with contextlib.suppress(ServingError):
                live.announce("error", **ServingError("model_failed", "the model failed; open a new session").body())
            self.close(live, "model_failed")

        return failed
