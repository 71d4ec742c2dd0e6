"""LiveKit's contract with a room that is made up: an agent that sends streams and keeps what it is told."""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from livetalk_jax.serving import livekit
from livetalk_jax.serving.client import Client, Refused
from livetalk_jax.serving.engine import Engine, Limits
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.livekit import FINISHED, STARTED, Contract, join
from livetalk_jax.serving.metrics import Metrics
from livetalk_jax.serving.model import SAMPLE_RATE
from livetalk_jax.serving.tokens import Guard
from tests.serving.card import SIZE, TestCard, read
from tests.serving.conftest import running

PORTRAIT = np.full((*SIZE, 3), 7, np.uint8)
ATTRIBUTES = {"sample_rate": "24000", "num_channels": "1"}


class Agent:
    """The room, as the avatar sees it. `misses`: calls that fail before one gets through."""

    def __init__(self):
        self.ticks, self.calls, self.misses = [], [], 0
        self._changed = asyncio.Event()

    async def show(self, tick):
        self.ticks.append(tick)
        self._changed.set()

    async def call(self, method, payload):
        if self.misses:
            self.misses -= 1
            raise ConnectionError("lost")
        self.calls.append((method, json.loads(payload) if payload else None))
        self._changed.set()

    async def until(self, found):
        async with asyncio.timeout(60):
            while not (value := found()):
                self._changed.clear()
                await self._changed.wait()
        return value

    def finished(self):
        return [payload for method, payload in self.calls if method == FINISHED]

    async def finish(self, count=1):
        return await self.until(lambda: len(self.finished()) >= count and self.finished())


async def sound(seconds, rate=24_000, channels=1, piece=4801):
    """A segment's bytes, cut where no sample ends."""
    data = np.full(int(seconds * rate) * channels, 9000, "<i2").tobytes()
    for begin in range(0, len(data), piece):
        yield data[begin : begin + piece]


@contextlib.asynccontextmanager
async def opened():
    """A session beside its engine."""
    engine = Engine(lambda: TestCard(0.01), Limits(sessions=1), Metrics())
    running = asyncio.create_task(engine.run())
    async with asyncio.timeout(120):
        while not engine.ready:
            await asyncio.sleep(0.01)
        yield engine.open(PORTRAIT)
    running.cancel()
    await engine.close_all("shutting_down")
    with contextlib.suppress(asyncio.CancelledError):
        await running


def perform(play):
    """Run play(live, agent, contract) beside an engine."""

    async def main():
        async with opened() as live:
            agent = Agent()
            contract = Contract(live, agent)
            performing = asyncio.create_task(contract.run())
            await agent.until(lambda: agent.ticks)
            await play(live, agent, contract)
            live.close("deleted")
            await performing
        return agent

    return asyncio.run(main())


def test_segments_are_said_and_answered_one_by_one():
    async def play(live, agent, contract):
        contract.stream(sound(0.8), ATTRIBUTES)
        assert (await agent.finish())[0] == {"playback_position": pytest.approx(0.8, abs=0.01), "interrupted": False}
        contract.stream(sound(0.5, 16_000, 2), {"sample_rate": "16000", "num_channels": "2"})
        contract.stream(sound(0.3), ATTRIBUTES)
        await agent.finish(3)

    agent = perform(play)
    assert [method for method, _ in agent.calls] == [STARTED, FINISHED] * 3
    positions = [finished["playback_position"] for finished in agent.finished()]
    assert positions == pytest.approx([0.8, 0.5, 0.3], abs=0.01)
    heard = np.concatenate([tick.sound for tick in agent.ticks])
    assert (np.abs(heard) > 4000).sum() / SAMPLE_RATE == pytest.approx(1.6, abs=0.02)
    assert all(read(tick.frame)[1] == tick.speaking for tick in agent.ticks if not tick.held)


def test_an_interruption_is_answered_for_every_stream_and_drops_the_rest_of_it():
    async def play(live, agent, contract):
        more = asyncio.Event()

        async def endless():
            async for chunk in sound(3):
                yield chunk
            await more.wait()
            async for chunk in sound(3):
                yield chunk

        contract.stream(sound(0.2), ATTRIBUTES)
        contract.stream(endless(), ATTRIBUTES)
        await agent.until(lambda: [method for method, _ in agent.calls].count(STARTED) == 2)
        assert contract.clear() == "ok"
        finished = await agent.finish(2)
        assert [f["interrupted"] for f in finished] == [False, True]
        assert 0 <= finished[1]["playback_position"] < 3
        more.set()
        contract.stream(sound(0.4), ATTRIBUTES)
        assert (await agent.finish(3))[2] == {"playback_position": pytest.approx(0.4, abs=0.01), "interrupted": False}
        assert sum(tick.speaking for tick in agent.ticks if tick.generation == 1) == 10
        assert contract.clear() == "ok"  # nothing was being said: nothing to finish

    assert len(perform(play).finished()) == 3


def test_a_stall_ends_no_segment():
    async def play(live, agent, contract):
        stalled = asyncio.Event()

        async def stalling():
            async for chunk in sound(1.2):
                yield chunk
            await stalled.wait()
            async for chunk in sound(0.4):
                yield chunk

        contract.stream(stalling(), ATTRIBUTES)
        await agent.until(lambda: sum(tick.speaking for tick in agent.ticks) >= 28)
        began = len(agent.ticks)
        await agent.until(lambda: len(agent.ticks) > began + 20)
        assert not agent.finished()
        stalled.set()
        assert (await agent.finish())[0]["playback_position"] == pytest.approx(1.6, abs=0.01)

    perform(play)


def test_every_stream_is_answered_whatever_it_is(monkeypatch):
    monkeypatch.setattr(livekit, "IDLE_SECONDS", 0.2)

    async def broken():
        yield b"\1\1" * 4800
        raise ConnectionError("reset")

    async def unended():
        yield b"\1\1" * 4800
        await asyncio.Event().wait()

    async def play(live, agent, contract):
        agent.misses = livekit.TRIES - 1
        contract.stream(sound(0), ATTRIBUTES)
        assert (await agent.finish(1))[0] == {"playback_position": 0.0, "interrupted": False}
        for count, attributes in enumerate(
            ({}, {"sample_rate": "x", "num_channels": "1"}, {"sample_rate": "1", "num_channels": "1"})
        ):
            contract.stream(sound(0.1), attributes)
            assert (await agent.finish(count + 2))[-1]["playback_position"] == 0
        contract.stream(broken(), ATTRIBUTES)
        await agent.finish(5)
        contract.stream(unended(), ATTRIBUTES)
        assert (await agent.finish(6))[-1]["playback_position"] == pytest.approx(0.2, abs=0.01)
        contract.stream(unended(), ATTRIBUTES)
        contract.stream(sound(0.1), ATTRIBUTES)  # the one before can have no end any more
        await agent.finish(8)

    assert len(perform(play).finished()) == 8


def test_speech_that_is_too_much_waits():
    async def play(live, agent, contract):
        contract.stream(sound(125, piece=48_000), ATTRIBUTES)
        await agent.until(lambda: live.timeline.pending > 118 * SAMPLE_RATE)
        contract.clear()
        finished = await agent.finish()
        assert finished[0]["interrupted"] and live.timeline.pending == 0

    perform(play)


class Participant(SimpleNamespace):
    """Of the room: the avatar itself, the agent, or somebody else."""

    async def publish_track(self, track, options):
        self.published.append((track.name, options.source))

    def register_rpc_method(self, name, handler):
        self.rpc = {name: handler}

    async def perform_rpc(self, *, destination_identity, method, payload):
        assert destination_identity == "agent"
        await self.agent.call(method, payload)


class Lobby(SimpleNamespace):
    """As much of rtc.Room as is used."""

    def on(self, name, handler):
        self.handlers[name] = handler

    def register_byte_stream_handler(self, topic, handler):
        self.streams[topic] = handler
        self.ready.set()

    async def disconnect(self):
        self.left = True


class Reader:
    def __init__(self, seconds):
        self.chunks, self.closed = sound(seconds), False
        self.info = SimpleNamespace(attributes=ATTRIBUTES)

    def __aiter__(self):
        return self.chunks

    def close(self):
        self.closed = True


def test_in_a_room_of_livekits_own_kinds():
    """With LiveKit's tracks, frames and sources; only the connection is made up."""
    rtc = pytest.importorskip("livekit.rtc")

    async def play(live, agent, contract):
        me = Participant(attributes={livekit.BEHALF: "agent"}, agent=agent, published=[])
        room = Lobby(local_participant=me, remote_participants={}, handlers={}, streams={}, ready=asyncio.Event(), left=False)
        performing = asyncio.create_task(livekit._perform(live, rtc, room))
        await asyncio.sleep(0)
        for identity in ("somebody", "agent"):
            room.remote_participants[identity] = Participant(identity=identity, kind=4)
            room.handlers["participant_connected"](None)
        await room.ready.wait()
        assert [name for name, _ in me.published] == ["avatar_audio", "avatar_video"]
        strange, reader = Reader(1), Reader(0.4)
        room.streams[livekit.AUDIO_TOPIC](strange, "somebody")
        room.streams[livekit.AUDIO_TOPIC](reader, "agent")
        assert (await agent.finish())[0]["playback_position"] == pytest.approx(0.4, abs=0.01)
        assert strange.closed and reader.closed
        clear = me.rpc[livekit.CLEAR]
        assert clear(SimpleNamespace(caller_identity="somebody")) == "reject" and live.timeline.generation == 0
        assert clear(SimpleNamespace(caller_identity="agent")) == "ok" and live.timeline.generation == 1
        room.handlers["participant_disconnected"](Participant(identity="somebody"))
        assert not performing.done()
        room.handlers["participant_disconnected"](Participant(identity="agent"))
        await performing
        assert room.left and live.state == "closed"

    perform(play)


def test_a_room_that_cannot_be_joined():
    pytest.importorskip("livekit.rtc")

    async def play(live, agent, contract):
        with pytest.raises(ServingError, match="the room cannot be joined") as refusal:
            await join(live, "ws://127.0.0.1:1", "token")
        assert refusal.value.status == 422

    perform(play)


def test_over_http_only_for_holders_of_a_key():
    """The server connects to where it is told to."""

    async def ask(url):
        address = {"url": "ws://127.0.0.1:1", "token": "token"}
        async with Client(url, "key") as operator:
            token = (await operator.request("POST", "/v1/tokens")).json()["token"]
            async with Client(url, token) as browser:
                session = await browser.open()
                for client, status in ((browser, 401), (operator, 422)):
                    with pytest.raises(Refused) as refusal:
                        await client.request("POST", f"/v1/sessions/{session}/livekit", json=address)
                    assert refusal.value.status == status

    with running(TestCard(), guard=Guard(["key"])) as (url, _):
        asyncio.run(ask(url))
