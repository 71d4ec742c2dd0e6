"""The engine on a clock that the test moves: pacing, turns, limits, failures, and what a thousand sessions leave behind."""

import asyncio
import contextlib
import gc
import threading
import types
import weakref
from itertools import groupby
from typing import ClassVar

import httpx2
import numpy as np
import pytest

from livetalk_jax.serving import engine as engines
from livetalk_jax.serving.app import Server, create_app
from livetalk_jax.serving.engine import Clock, Engine, Limits
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.jobs import KEEP_SECONDS, Jobs
from livetalk_jax.serving.live import LiveSession, Output
from livetalk_jax.serving.metrics import Metrics
from livetalk_jax.serving.timeline import Event, Tick, Timeline
from tests.serving.card import CHUNK, FIRST, SIZE, TestCard, read

PORTRAIT = np.full((*SIZE, 3), 7, np.uint8)


class HandClock(Clock):
    """Time that stands still until it is moved."""

    def __init__(self):
        self.time = 100.0
        self.sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self):
        return self.time

    async def sleep(self, seconds):
        entry = (self.time + seconds, asyncio.Event())
        self.sleepers.append(entry)
        try:
            await entry[1].wait()
        finally:
            self.sleepers.remove(entry)

    async def move(self, seconds):
        self.time += seconds
        for until, event in list(self.sleepers):
            if until <= self.time + 1e-9:
                event.set()
        await settle()


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition):
    """The model's thread is a real one."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def running(card, clock=None, **limits):
    engine = Engine(lambda: card, Limits(**limits), Metrics(), clock)
    task = asyncio.create_task(engine.run())
    await until(lambda: engine.ready or task.done())
    try:
        yield engine
    finally:
        card.gate.set()
        task.cancel()
        await engine.close_all("over")


async def serving(card, clock, sessions):
    """An engine that is ready, and what tells how it ends."""
    engine = Engine(lambda: card, Limits(sessions=sessions), Metrics(), clock)
    task = asyncio.create_task(engine.run())
    await until(lambda: engine.ready)
    return engine, task


async def started(engine, **options):
    live = engine.open(PORTRAIT, **options)
    output = live.subscribe(10_000)
    await until(lambda: live.state == "live")
    await settle()
    return live, output


def ticks_of(items):
    return [item for item in items if isinstance(item, Tick)]


def errors_of(items):
    return [item.fields for item in items if isinstance(item, Event) and item.name == "error"]


def value(engine, name, **labels):
    return engine.metrics.registry.get_sample_value(f"livetalk_{name}", labels)


def test_twenty_five_ticks_a_second():
    async def body():
        clock = HandClock()
        async with running(TestCard(), clock, sessions=1) as engine:
            _, output = await started(engine)
            assert len(ticks_of(await output.take())) == 1
            for _ in range(30):
                await clock.move(0.04)
                (tick,) = ticks_of(await output.take())
                assert tick.sound.shape == (640,) and tick.sound.dtype == np.int16
            await clock.move(0.03)
            assert not output._items
            # A stall is made up for, up to a second of it.
            await clock.move(0.5)
            assert len(ticks_of(await output.take())) == 13
            await clock.move(10)
            assert 1 <= len(ticks_of(await output.take())) <= 2
            await clock.move(0.04)
            assert len(ticks_of(await output.take())) == 1

    asyncio.run(body())


class Late(TestCard):
    """The frames behind the first ones of a chunk wait for `rest`; set at first."""

    def __init__(self):
        super().__init__()
        self.rest, self.waiting = threading.Event(), False
        self.rest.set()

    def step(self, state, speech):
        pieces, state = super().step(state, speech)

        def late():
            yield next(pieces)
            self.waiting = not self.rest.is_set()
            assert self.rest.wait(60)
            yield next(pieces)

        return late(), state


def test_the_first_frames_are_shown_while_the_others_are_made():
    async def body():
        clock, card = HandClock(), Late()
        async with running(card, clock, sessions=1) as engine:
            card.rest.clear()
            live, output = await started(engine)
            for _ in range(5):
                await clock.move(0.04)
            assert engine.computing and card.waiting
            ticks = ticks_of(await output.take())
            assert [read(tick.frame)[0] for tick in ticks] == [0, 1, 2, 3, 3, 3]
            assert [tick.held for tick in ticks] == [False] * FIRST + [True] * 2
            card.rest.set()
            await until(lambda: live.timeline.ahead)
            for _ in range(30):
                await clock.move(0.04)
                await until(lambda: live.timeline.ahead > 2)
            assert [read(tick.frame)[0] for tick in ticks_of(await output.take())] == list(range(4, 34))
            assert 0 < live.stages["first_frames"] <= live.stages["step"]

    asyncio.run(body())


def test_first_frames_wait_where_they_would_stand_still():
    """Nothing is in hand, and the others are expected long after they would have been shown."""

    async def body():
        clock, card = HandClock(), Late()
        async with running(card, clock, sessions=1) as engine:
            card.rest.clear()
            engine.chunk_seconds = 1.0
            live = engine.open(PORTRAIT)
            live.subscribe()
            await until(lambda: card.waiting)
            await settle()
            assert live.state == "starting" and not live.timeline.ahead
            card.rest.set()
            await until(lambda: live.state == "live")
            assert live.timeline.ahead >= CHUNK - 1  # but for the one that is shown at once

    asyncio.run(body())


@pytest.mark.parametrize(("arrive", "ahead"), [((0.9, 1.0), 0.9), ((0.9, 1.1), 1.1 - FIRST / 25), ((1.1, 1.1), 1.1)])
def test_what_a_session_must_have_in_hand(monkeypatch, arrive, ahead):
    """So much that each piece of its next chunk comes in time."""
    clock = iter([0.0, *arrive])
    monkeypatch.setattr(engines, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    card = TestCard()
    _, pace = engines._step(card, card.start(PORTRAIT, None, 0), np.zeros(CHUNK * 640, np.float32))
    assert pace == pytest.approx((*arrive, ahead))


def test_nothing_is_made_for_nobody():
    async def body():
        clock, card = HandClock(), TestCard()
        async with running(card, clock, sessions=1) as engine:
            live, output = await started(engine)
            output.close()
            await clock.move(0.04)
            ticks, steps = live.timeline.ticks, card.steps
            for _ in range(100):
                await clock.move(0.04)
            assert live.timeline.ticks <= ticks + 1 and card.steps == steps
            # Somebody comes back: it goes on where it stood.
            again = live.subscribe()
            await settle()
            for _ in range(5):
                await clock.move(0.04)
            numbers = [tick.number for tick in ticks_of(await again.take())]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and len(numbers) >= 5

    asyncio.run(body())


def test_sessions_end_by_themselves():
    async def body():
        clock = HandClock()
        async with running(TestCard(), clock, sessions=4, session_seconds=1000, idle_seconds=300, detached_seconds=30) as engine:
            gone, idle, long = [(await started(engine))[0] for _ in range(3)]
            next(iter(gone.outputs)).close()
            for _ in range(1100):
                await clock.move(1)
                if long.state == "live":
                    long.push_audio(np.full(1600, 9000, np.int16), 16_000)
            assert [live.reason for live in (gone, idle, long)] == ["nobody_reads", "idle", "session_too_long"]
            assert not engine.sessions
            assert value(engine, "sessions_total", reason="idle") == 1

    asyncio.run(body())


def test_a_reader_that_is_slow_goes_on_at_the_newest():
    async def body():
        clock = HandClock()
        async with running(TestCard(), clock, sessions=1) as engine:
            live, _ = await started(engine)
            slow = live.subscribe(limit=10)
            for _ in range(35):
                await clock.move(0.04)
                await until(lambda: live.timeline.ahead > 2)
            live.announce("kept")
            assert len(slow._items) <= 11
            items = await slow.take()
            numbers = [tick.number for tick in ticks_of(items)]
            assert numbers[-1] == live.timeline.ticks - 1
            assert len(numbers) + slow.dropped == 35 and slow.dropped >= 20
            assert any(isinstance(item, Event) and item.name == "kept" for item in items)
            for _ in range(3000):
                live.announce("flood")
            assert slow.closed

    asyncio.run(body())


def test_a_model_that_raises_ends_that_session_only():
    async def body():
        clock, card = HandClock(), TestCard()
        card.fail_on = 99
        async with running(card, clock, sessions=2) as engine:
            good, output = await started(engine)
            bad = engine.open(np.full((*SIZE, 3), 99, np.uint8))
            with bad.subscribe() as told:
                await until(lambda: bad.state == "closed")
                events = [(item.name, item.fields) for item in await told.take()]
            assert events[0][0] == "error" and events[0][1]["code"] == "model_failed" and events[0][1]["retryable"]
            assert events[1] == ("closed", {"reason": "model_failed"})
            with pytest.raises(ServingError):
                bad.push_audio(np.zeros(10, np.int16), 16_000)
            await output.take()
            for _ in range(100):
                await clock.move(0.04)
                await until(lambda: good.timeline.ahead > 2)
            numbers = [read(tick.frame)[0] for tick in ticks_of(await output.take())]
            assert numbers == list(range(numbers[0], numbers[0] + 100))
            assert value(engine, "model_failures_total") == 1

    asyncio.run(body())


def test_a_model_that_is_lost():
    """It fails whoever asks: all sessions are told, nobody is admitted, and the server ends with what the model raised."""

    async def body():
        clock, card = HandClock(), TestCard()
        engine, running = await serving(card, clock, sessions=3)
        good, output = await started(engine)
        card.step = None  # whatever is asked of it
        other = engine.open(PORTRAIT)
        with other.subscribe() as told:
            await until(lambda: engine.lost)
            assert good.reason == other.reason == "model_failed" and not engine.ready
            assert value(engine, "ready") == 0
            for reader in (told, output):
                (error,) = errors_of(await reader.take())
                assert error["code"] == "model_failed" and error["retryable"]
                assert not running.done() and not await reader.take()
            with pytest.raises(ServingError) as refused:
                engine.open(PORTRAIT)
            assert refused.value.code == "draining"
        await clock.move(0.05)
        with pytest.raises(TypeError):
            await running
        await engine.close_all("over")

    asyncio.run(body())


def test_a_model_that_hangs():
    """Nobody is admitted any more, and the process says that it must be started again."""

    class Hanging(TestCard):
        hangs = False

        def step(self, state, speech):
            self.hangs = not self.gate.is_set()
            return super().step(state, speech)

    async def body():
        clock, card = HandClock(), Hanging()
        async with running(card, clock, sessions=2) as engine:
            await started(engine)
            card.gate.clear()
            engine.open(PORTRAIT).subscribe()
            await until(lambda: card.hangs)
            await clock.move(59)
            assert engine.ready and not engine.stuck
            await clock.move(2)
            assert engine.stuck and not engine.ready
            with pytest.raises(ServingError, match="started again"):
                engine.check_room()
            card.gate.set()
            await until(lambda: engine.ready)

    asyncio.run(body())


def test_a_model_of_which_a_process_is_gone():
    """It is noticed within a second, while nothing is asked of it or while it hangs in what was."""

    async def body(asked):
        clock, card = HandClock(), TestCard()
        engine, running = await serving(card, clock, sessions=2)
        live, output = await started(engine)
        await until(lambda: not engine.computing)
        if asked:
            card.gate.clear()
            before = card.steps
            engine.open(PORTRAIT).subscribe()
            await until(lambda: card.steps > before)
        card.gone = True
        await clock.move(1.0)
        assert live.state == "closed" and live.reason == "model_failed" and not engine.ready
        assert [error["code"] for error in errors_of(await output.take())] == ["model_failed"]
        for _ in range(2 * round(engines.GOODBYE_SECONDS / 0.05)):
            await clock.move(0.05)
        with pytest.raises(ConnectionError, match="the other half"):
            await running
        if not asked:
            await until(lambda: not engine.computing)  # a chunk that was under way
        assert engine.lost and engine.computing == asked
        card.gate.set()
        await engine.close_all("over")

    for asked in (False, True):
        asyncio.run(body(asked))


def test_a_model_that_cannot_be_loaded():
    def load():
        raise OSError("no checkpoint there")

    async def body():
        engine = Engine(load, Limits(), Metrics())
        with pytest.raises(OSError, match="no checkpoint there"):
            await engine.run()
        assert not engine.ready
        with pytest.raises(ServingError) as refused:
            engine.open(PORTRAIT)
        assert refused.value.code == "warming_up" and refused.value.retry_after

    asyncio.run(body())


def test_as_many_as_fit_talk_and_twice_as_many_ask(monkeypatch):
    """Five sessions keep the model busy, whose chunks take 0.2 s of their 1.12: none is disturbed, the others hear no at once."""
    takes, seats, said, speech = 0.2, 5, 100, np.full(640, 9000, np.int16)

    def step(*arguments, original=engines._step):
        return original(*arguments)[0], engines.Pace(takes, takes, takes)

    async def body():
        clock, card = HandClock(), TestCard()

        async def in_time(call):
            await clock.sleep(takes)
            result = call()
            await asyncio.sleep(0)  # its frames arrive first
            return result

        async with running(card, clock, sessions=seats) as engine, contextlib.AsyncExitStack() as stack:
            monkeypatch.setattr(engines, "_step", step)
            engine._in_thread = in_time
            engine.chunk_seconds, engine.ahead_seconds, engine.start_seconds = takes, takes, 0.0
            asked = httpx2.ASGITransport(create_app(Server(engine=engine)))
            http = await stack.enter_async_context(httpx2.AsyncClient(transport=asked, base_url="http://localhost"))
            lives = [engine.open(PORTRAIT) for _ in range(seats)]
            outputs = [stack.enter_context(live.subscribe(10_000)) for live in lives]

            async def talk(begin, end):
                """Each says four seconds, and is silent for two to four."""
                for tick in range(25 * begin, 25 * end):
                    for number, live in enumerate(lives):
                        if tick % (150 + 12 * number) < said:
                            live.push_audio(speech, 16_000)
                    await clock.move(0.04)

            await talk(0, 10)
            steps, shown = card.steps, [live.timeline.ticks for live in lives]
            answers = await asyncio.gather(*(http.post("/v1/sessions") for _ in range(2 * seats)))
            assert set(engine.sessions.values()) == set(lives) and not engine._starts
            for answer in answers:
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "at_capacity")
                assert answer.json()["error"]["retryable"] and 1 <= int(answer.headers["retry-after"]) <= 30
            assert value(engine, "refused_total", code="at_capacity") == len(answers)

            await talk(10, 50)
            assert 0.85 < takes * (card.steps - steps) / 40 <= 1  # of the time, so the model was busy
            assert value(engine, "tick_delay_seconds_sum") < 1e-6 and [live.late for live in lives] == [0] * seats
            assert [live.timeline.ticks - ticks for live, ticks in zip(lives, shown, strict=True)] == [1000] * seats
            for output in outputs:
                ticks = ticks_of(await output.take())
                assert [tick.number for tick in ticks] == [read(tick.frame)[0] for tick in ticks] == list(range(len(ticks)))
                whole = [len(list(run)) for speaking, run in groupby(tick.speaking for tick in ticks) if speaking]
                assert len(whole) > 4 and set(whole[:-1]) == {said}  # no pause in what is said
            lives[0].close("client")
            engine.check_room()
            for live in lives:
                live.close("client")

    asyncio.run(body())


def test_whose_frames_run_out_first_is_served_first():
    async def body():
        clock, card = HandClock(), TestCard()
        async with running(card, clock, sessions=3) as engine:
            lives = [(await started(engine))[0] for _ in range(3)]
            await until(lambda: not engine.computing)
            for live, frames in zip(lives, (9, 3, 6), strict=True):
                while live.timeline.ahead > frames:
                    live.timeline.tick()
            order = []
            engine._chunk = lambda live: order.append(live) or live.timeline.begin()
            engine.chunk_seconds = 1.0
            for _ in range(3):
                engine._next()
            assert [lives.index(live) for live in order] == [1, 2, 0]

    asyncio.run(body())


def test_background_work_waits_for_sessions():
    async def body():
        clock, card = HandClock(), TestCard()
        async with running(card, clock, sessions=2) as engine:
            await started(engine)
            assert await engine.in_background(lambda x: x + 1, 41) == 42
            with pytest.raises(ZeroDivisionError):
                await engine.in_background(lambda: 1 / 0)
            await until(lambda: not engine.computing)  # the model is tried
            card.gate.clear()
            late = engine.open(PORTRAIT)
            late.subscribe()
            await until(lambda: engine.computing and not engine._starts)
            job = asyncio.create_task(engine.in_background(lambda: late.state))
            await settle()
            card.gate.set()
            assert await job == "live"

    asyncio.run(body())


def test_draining():
    async def body():
        clock, card = HandClock(), TestCard()
        async with running(card, clock, sessions=2) as engine:
            live, output = await started(engine)
            await output.take()
            card.gate.clear()
            draining = asyncio.create_task(engine.drain(5))
            await settle()
            assert not engine.ready
            with pytest.raises(ServingError) as refused:
                engine.open(PORTRAIT)
            assert refused.value.code == "draining"
            while live.state != "closed":
                await clock.move(0.1)
            assert not draining.done()  # there is still something to be read
            assert live.reason == "shutting_down"
            names = [item.name for item in await output.take() if isinstance(item, Event)]
            assert names == ["draining", "closed"]
            assert not await output.take()
            await clock.move(0.1)
            assert not draining.done() and engine.computing  # a chunk is under way
            card.gate.set()
            while not draining.done():
                await clock.move(0.1)

    asyncio.run(body())


def test_a_thousand_sessions_leave_nothing_behind():
    """Neither objects of ours nor frames, nor states of the model."""

    class Held:
        def __init__(self, state):
            self.state = state
            Remembering.made.append(weakref.ref(self))

    class Remembering(TestCard):
        made: ClassVar[list] = []

        def start(self, portrait, prompt, seed):
            return Held(super().start(portrait, prompt, seed))

        def step(self, held, speech):
            pieces, state = super().step(held.state, speech)
            pieces = list(pieces)
            self.made.extend(map(weakref.ref, pieces))
            return pieces, Held(state)

        def rewind(self, held, frames, dropped):
            return Held(super().rewind(held.state, frames, dropped))

    async def body():
        clock, card = HandClock(), Remembering()
        async with running(card, clock, sessions=4) as engine:

            async def one(number):
                live, output = await started(engine)
                live.push_audio(np.full(24_000, 9000, np.int16), 24_000)
                live.interrupt()
                await clock.move(0.04)
                await output.take()
                if number % 2:
                    output.close()
                live.close("client")
                while await output.take():
                    pass
                await settle()

            for number in range(1000):
                await one(number)
            await until(lambda: not engine.computing)
            await clock.move(0.04)  # loops that slept wake up and see that their session is over
            card.rewinds.clear()
            assert value(engine, "sessions_total", reason="client") == 1000
            assert not engine.sessions and not engine._starts and len(engine._tasks) <= 1
            gc.collect()
            assert len(Remembering.made) > 1000 and not any(left() is not None for left in Remembering.made)

    asyncio.run(body())
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, (LiveSession, Output, Timeline))]


def test_capacity_is_what_was_measured():
    async def body():
        async with running(TestCard(0.2)) as engine:
            assert engine.capacity == max(1, int(1.12 / engine.chunk_seconds))
        async with running(TestCard(), sessions=7) as engine:
            assert engine.capacity == 7

    asyncio.run(body())


def test_slower_than_real_time_is_said(caplog):
    class Slow(TestCard):
        chunk_frames = 28

    async def body():
        card = Slow()
        engine = Engine(lambda: card, Limits(), Metrics())
        engine._warm_up = lambda: setattr(engine, "chunk_seconds", 2.0) or setattr(engine, "chunk_video_seconds", 1.12) or card
        task = asyncio.create_task(engine.run())
        await until(lambda: engine.capacity)
        assert engine.capacity == 1
        task.cancel()
        await engine.close_all("over")

    asyncio.run(body())
    assert "slower than real time" in caplog.text


def test_jobs_that_ended_are_forgotten():
    async def body():
        clock, card = HandClock(), TestCard()
        async with running(card, clock, sessions=1) as engine:
            jobs = Jobs(engine)
            for shade, state in ((None, "done"), (int(PORTRAIT[0, 0, 0]), "failed")):
                card.fail_on = shade
                job = jobs.submit(PORTRAIT, np.zeros(3 * 640, np.int16), prompt=None, seed=0, owner="me")
                await until(lambda job=job, state=state: job.state == state)
                await settle()
                await clock.move(KEEP_SECONDS - 1)
                assert jobs.get(job.id) is job
                await clock.move(1)
                assert jobs.get(job.id) is None and not job.path.exists()
            jobs.close()

    asyncio.run(body())
