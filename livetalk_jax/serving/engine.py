"""Sessions in real time: who is admitted, and one thread in which the model serves them in turn.

    live = engine.open(portrait)                     raises ServingError when there is no room

Everything but the model's work happens on the event loop, so nothing here needs a lock.
"""

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.live import LiveSession, Output
from livetalk_jax.serving.metrics import Metrics
from livetalk_jax.serving.model import FPS, TICK, AvatarModel
from livetalk_jax.serving.timeline import Timeline

logger = logging.getLogger(__name__)

STUCK_SECONDS = 60.0  # that no call of a warm model takes, but of one whose chunks take very long
GOODBYE_SECONDS = 3.0  # that readers have for the last messages of a server that ends


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


class Task(NamedTuple):
    """Something for the model thread: `run` there, then, on the loop, `done` with its result or `failed` with what it raised."""

    run: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]


class Pace(NamedTuple):
    """Seconds of a step.

    Attributes:
        first: until its first frames are fetched.
        whole: until all are.
        ahead: of frames that must be in hand when it begins, so that each of its own comes in time.
    """

    first: float
    whole: float
    ahead: float


def _step(
    model: AvatarModel, state: Any, speech: np.ndarray, take: Callable[[np.ndarray, Any, float], Any] = lambda *_: None
) -> tuple[Any, Pace]:
    """A step; `take` is given its frames as they come, with the state after all of them and the seconds since it began."""
    began, made, arrived, ahead = time.perf_counter(), 0, [], 0.0
    pieces, state = model.step(state, speech)
    for frames in map(np.asarray, pieces):
        arrived.append(time.perf_counter() - began)
        ahead = max(ahead, arrived[-1] - made / FPS)
        made += len(frames)
        take(frames, state, arrived[-1])
    return state, Pace(arrived[0], arrived[-1], ahead)


def _try_out(model: AvatarModel, size: tuple[int, int]) -> Any:
    """A chunk of silence of a grey picture of (height, width); the state after it."""
    state = model.start(np.full((*size, 3), 128, np.uint8), None, 0)
    return _step(model, state, np.zeros(model.chunk_frames * TICK, np.float32))[0]


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
        self.ahead_seconds = 0.0  # as in `Pace`
        self.draining = False
        self.lost = False  # the model failed for good, and the process ends
        self._starts: deque[tuple[float, Task]] = deque()
        self._background: deque[Task] = deque()
        self.background_users = 0  # who ask for `in_background` again and again
        self._thread = ThreadPoolExecutor(1, "model")
        self._current: Future | None = None  # what the thread does
        self._called_at = 0.0  # when it began
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task] = set()

    # Life

    @property
    def ready(self) -> bool:
        return self.model is not None and not self.draining and not self.stuck

    @property
    def stuck(self) -> bool:
        """The model does not come back from a call: a device that hangs, or one of several processes that is gone."""
        longest = max(STUCK_SECONDS, 5 * self.chunk_seconds)
        return self.model is not None and self.computing and self.clock.now() - self._called_at > longest

    def spawn(self, work: Coroutine) -> asyncio.Task:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self) -> None:
        """Load, warm up, then serve until cancelled.

        What loading raises goes to the caller, and what a model raises that is lost; a single session's failures do not.
        """
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
        turns, watch = asyncio.create_task(self._take_turns()), self.spawn(self._reap())
        try:
            (ended, *_), _ = await asyncio.wait((turns, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            turns.cancel()
            watch.cancel()
        try:
            await ended
        except Exception as error:
            self.lost = self.draining = True
            self.metrics.ready.set(0)
            for live in list(self.sessions.values()):
                self._failing(live)(error)
            await self._farewell()
            raise

    async def _take_turns(self) -> None:
        """Until the model is lost; then what it raises."""
        assert self.model is not None
        while True:
            self._woken.clear()
            task = self._next()
            if task is None:
                await self._woken.wait()
                continue
            try:
                task.done(await self._in_thread(task.run))
            except Exception as error:
                task.failed(error)
                # A device may be gone, or one of several processes: whoever were let in would fail as well.
                await self._in_thread(functools.partial(_try_out, self.model, self.model.sizes[0]))

    @property
    def computing(self) -> bool:
        """The model thread is in the middle of something, which cannot be stopped."""
        return self._current is not None and not self._current.done()

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        self._called_at = self.clock.now()
        self._current = current = self._thread.submit(call)
        try:
            return await asyncio.wrap_future(current)
        finally:
            if current.done():  # its result would keep a session's state from being freed
                self._current = None

    def _warm_up(self) -> AvatarModel:
        """Every size, every call; the times of the last are what capacity is reckoned from."""
        model = self._load()
        self.chunk_video_seconds = model.chunk_frames / FPS
        speech = np.zeros(model.chunk_frames * TICK, np.float32)
        for height, width in model.sizes:
            state = _try_out(model, (height, width))
            portrait = np.full((height, width, 3), 128, np.uint8)
            state = model.rewind(state, np.stack([portrait] * model.motion_frames), model.chunk_frames)
            began = time.perf_counter()
            model.start(portrait, None, 0)
            self.start_seconds = max(self.start_seconds, time.perf_counter() - began)
            paces = []
            for _ in range(3):
                state, pace = _step(model, state, speech)
                paces.append(pace)
            _, whole, ahead = np.median(paces, axis=0)
            self.chunk_seconds, self.ahead_seconds = max(self.chunk_seconds, whole, 1e-4), max(self.ahead_seconds, ahead)
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
        while (self.sessions or self.background_users) and self.clock.now() < end:
            for live in [live for live in self.sessions.values() if not live.outputs]:
                self.close(live, "shutting_down")
            await self.clock.sleep(0.1)
        for live in list(self.sessions.values()):
            self.close(live, "shutting_down")
        await self._farewell()

    async def _farewell(self) -> None:
        """Give readers time for their last messages, and the model for the chunk under way."""
        end = self.clock.now() + GOODBYE_SECONDS + self.chunk_seconds
        # In the middle of a chunk the process could only be cut off, and so would be all that compute it with this one.
        while (self.readers or (self.model is not None and self.computing)) and self.clock.now() < end:
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
        if self.stuck:
            raise ServingError("model_failed", "the model does not answer; this server must be started again", 30)
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

        def start() -> Any:
            return self._timed(live, "start", model.start, portrait, prompt, seed) if live.state != "closed" else None

        task = Task(start, started, self._failing(live))
        self._starts.append((live.opened_at, task))
        self.wake()
        self.spawn(live.pace())
        return live

    def close(self, live: LiveSession, reason: str) -> None:
        if live.state == "closed":
            return
        live.end(reason)
        self.sessions.pop(live.id, None)
        self.metrics.active.set(len(self.sessions))
        self.metrics.sessions.labels(reason).inc()
        logger.info("session closed", extra={"session": live.id, "reason": reason})

    async def _reap(self) -> None:
        """Every second, until the model says that it is lost."""
        assert self.model is not None
        while True:
            await self.clock.sleep(1.0)
            self.model.check()
            self._close_overdue()  # a call, after which no variable here holds a session that has ended

    def _close_overdue(self) -> None:
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
        others = max(1, len(running) + bool(self.background_users)) - 1
        wait = self.ahead_seconds + self.chunk_seconds * others + self.start_seconds * (self.capacity > 1)
        floor = min(math.ceil(FPS * (wait + 0.1)), 2 * model.chunk_frames)
        candidates = []
        for live in running:
            live.timeline.floor = floor
            if live.timeline.wants():
                live.wanted_at = live.wanted_at or now
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
        live.took("wait", self.clock.now() - (live.wanted_at or self.clock.now()))
        live.wanted_at = None
        work = timeline.begin()
        loop = asyncio.get_running_loop()
        kept: list[np.ndarray] = []

        def run() -> Any:
            state = work.state
            if work.rewind is not None:
                state = self._timed(live, "rewind", model.rewind, state, *work.rewind)
            speech = work.speech.astype(np.float32) / 32768
            state, pace = _step(model, state, speech, lambda *piece: loop.call_soon_threadsafe(arrived, *piece))
            live.took("first_frames", pace.first)
            live.took("step", pace.whole)
            self.chunk_seconds += 0.1 * (pace.whole - self.chunk_seconds)
            self.ahead_seconds += 0.1 * (pace.ahead - self.ahead_seconds)
            self.metrics.realtime_factor.set(self.chunk_video_seconds / pace.whole)
            return state

        def arrived(frames: np.ndarray, state: Any, seconds: float) -> None:
            kept.append(frames)
            # Shown at once, they would stand still until the next are there.
            if timeline.ahead + sum(map(len, kept)) >= FPS * (self.chunk_seconds - seconds):
                hand_on(state)

        def hand_on(state: Any) -> None:
            if live.state == "closed" or not kept:
                return
            for frames in kept:
                timeline.take(work, frames, state)
            kept.clear()
            if not live.frames_made.is_set() and timeline.ahead:
                live.frames_made.set()
                live.state = "live"
                self.metrics.first_frame.observe(self.clock.now() - live.opened_at)
                live.announce("state", state="live")

        def done(state: Any) -> None:
            hand_on(state)
            if live.state != "closed" and not timeline.finish(work):
                self.metrics.discarded.inc()

        return Task(run, done, self._failing(live))

    def _timed(self, live: LiveSession, stage: str, call: Callable, *arguments: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments)
        seconds = time.perf_counter() - began
        live.took(stage, seconds)
        return result

    def _failing(self, live: LiveSession) -> Callable[[Exception], None]:
        def failed(error: Exception) -> None:
            logger.error("the model failed", extra={"session": live.id}, exc_info=error)
            self.metrics.failed.inc()
            with contextlib.suppress(ServingError):
                live.announce("error", **ServingError("model_failed", "the model failed; open a new session").body())
            self.close(live, "model_failed")

        return failed
