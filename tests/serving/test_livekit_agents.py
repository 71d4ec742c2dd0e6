"""The avatar with the other end of its contract as LiveKit has it: livekit-agents' `DataStreamAudioOutput` and `AgentSession`.

Only the room between them is made up, for want of a server. livekit-agents pins an older livekit, so it is not among the test tools:
these tests run where somebody has installed it.
"""

import asyncio
import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from livetalk_jax.serving import livekit
from tests.serving.test_livekit import opened

rtc = pytest.importorskip("livekit.rtc", reason="the extra livekit is not installed")
agents = pytest.importorskip("livekit.agents", reason="livekit-agents is not installed")
from livekit.agents.voice.avatar import DataStreamAudioOutput  # noqa: E402


class End(rtc.EventEmitter):
    """A participant and its room: as much of both as the two sides use. `lost`: topics and methods that nobody listened to."""

    def __init__(self, identity, **attributes):
        super().__init__()
        self.identity, self.attributes = identity, attributes
        self.kind, self.state = rtc.ParticipantKind.PARTICIPANT_KIND_AGENT, rtc.ParticipantState.PARTICIPANT_STATE_ACTIVE
        self.local_participant, self.remote_participants, self.track_publications = self, {}, {}
        self._rpc_handlers, self._streams, self.lost = {}, {}, []

    def isconnected(self):
        return True

    def register_rpc_method(self, name, handler):
        self._rpc_handlers[name] = handler

    def register_byte_stream_handler(self, topic, handler):
        self._streams[topic] = handler

    async def perform_rpc(self, *, destination_identity, method, payload):
        await asyncio.sleep(0.01)
        handlers = self.remote_participants[destination_identity]._rpc_handlers
        if method not in handlers:
            self.lost.append(method)
            raise rtc.RpcError(rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD, "unsupported")
        return handlers[method](rtc.RpcInvocationData("1", self.identity, payload, 10.0))

    async def stream_bytes(self, *, name, topic, destination_identities, attributes):
        (destination,) = destination_identities
        stream = Stream(attributes)
        streams = self.remote_participants[destination]._streams
        streams[topic](stream, self.identity) if topic in streams else self.lost.append(topic)
        return stream

    async def publish_track(self, track, options):
        self.track_publications[track.name] = publication = SimpleNamespace(kind=track.kind)
        for other in self.remote_participants.values():
            other.emit("track_published", publication, self)
        await asyncio.sleep(0.05)  # the answer to us comes after the news to others

    async def disconnect(self):
        for other in self.remote_participants.values():
            other.emit("participant_disconnected", self)


class Stream:
    """A byte stream, written at one end and read at the other."""

    def __init__(self, attributes):
        self.info = SimpleNamespace(attributes=attributes)
        self._chunks = asyncio.Queue()

    async def write(self, data):
        self._chunks.put_nowait(data)

    async def aclose(self):
        self._chunks.put_nowait(None)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if (chunk := await self._chunks.get()) is None:
            raise StopAsyncIteration
        return chunk

    def close(self):
        pass


def sound(seconds, rate=24_000, channels=1):
    """Frames as a voice makes them."""
    for _ in range(round(seconds * 50)):
        yield rtc.AudioFrame(np.full(rate // 50 * channels, 9000, np.int16).tobytes(), rate, channels, rate // 50)


@contextlib.asynccontextmanager
async def together(**options):
    """(live session, the agent's end, its `DataStreamAudioOutput`, events that this told)."""
    async with opened() as live:
        agent, avatar = End("agent"), End("avatar", **{livekit.BEHALF: "agent"})
        agent.remote_participants["avatar"], avatar.remote_participants["agent"] = avatar, agent
        output, told = DataStreamAudioOutput(agent, destination_identity="avatar", **options), []
        for name in ("playback_started", "playback_finished"):
            output.on(name, lambda event, name=name: told.append((name, event)))
        performing = asyncio.create_task(livekit._perform(live, rtc, avatar))
        yield live, agent, output, told
        await agent.disconnect()
        await performing
        assert live.state == "closed" and not agent.lost


async def say(output, *arguments):
    for frame in sound(*arguments):
        await output.capture_frame(frame)
    output.flush()


async def started(told, count=1):
    while [name for name, _ in told].count("playback_started") < count:
        await asyncio.sleep(0.01)


AS_PLUGINS_DO = {"wait_remote_track": rtc.TrackKind.KIND_VIDEO, "wait_playback_start": True, "clear_buffer_timeout": None}


def test_what_is_said_is_finished():
    """The first stream comes as soon as there is a picture."""

    async def main():
        async with together(**AS_PLUGINS_DO) as (_, _, output, told):
            for count, (seconds, *voice) in enumerate([(0.8,), (0.4, 16_000), (0.6, 48_000, 2)], 1):
                await say(output, seconds, *voice)
                finished = await output.wait_for_playout()
                assert finished.playback_position == pytest.approx(seconds, abs=0.01) and not finished.interrupted
                assert [name for name, _ in told] == ["playback_started", "playback_finished"] * count

    asyncio.run(main())


def test_an_interruption():
    """Of two segments, the second of which is not complete; with what is pushed until it is flushed, and with what comes next."""

    async def main():
        async with together(**AS_PLUGINS_DO) as (live, _, output, told):
            await say(output, 1)
            for frame in sound(1):
                await output.capture_frame(frame)
            await started(told)
            output.clear_buffer()
            await say(output, 0.2)
            finished = await output.wait_for_playout()
            assert [name for name, _ in told] == ["playback_started", "playback_finished", "playback_finished"]
            assert all(event.interrupted for _, event in told[1:])
            assert 0 < told[1][1].playback_position < 1 and finished.playback_position == 0
            assert not live.timeline.speaking
            await say(output, 0.4)
            finished = await output.wait_for_playout()
            assert finished.playback_position == pytest.approx(0.4, abs=0.01) and not finished.interrupted
            output.clear_buffer()

    asyncio.run(main())


def test_an_agent_that_does_not_wait_for_the_start():
    async def main():
        async with together() as (_, agent, output, _):
            (avatar,) = agent.remote_participants.values()
            await say(output, 0.4)
            assert (await output.wait_for_playout()).playback_position == pytest.approx(0.4, abs=0.01)
            assert avatar.lost == [livekit.STARTED], "asked once"

    asyncio.run(main())


def test_a_real_agent():
    """An `AgentSession` without models of its own, whose words come spoken; what it notes is what was heard."""

    async def voice(seconds):
        for frame in sound(seconds):
            yield frame

    async def main():
        async with together(**AS_PLUGINS_DO) as (_, _, output, told):
            session = agents.AgentSession()
            session.output.replace_audio_tail(output)
            await session.start(agents.Agent(instructions=""))
            await session.say("All of it.", audio=voice(0.8))
            speech = session.say("Not all of it.", audio=voice(3))
            await started(told, 2)
            await session.interrupt()
            await speech
            await session.say("Again.", audio=voice(0.4))
            await session.aclose()
        finished = [event for name, event in told if name == "playback_finished"]
        assert [event.interrupted for event in finished] == [False, True, False]
        assert [event.playback_position for event in finished[::2]] == pytest.approx([0.8, 0.4], abs=0.01)
        said = [item for item in session.history.items if item.type == "message"]
        assert [(item.text_content, item.interrupted) for item in said[::2]] == [("All of it.", False), ("Again.", False)]

    asyncio.run(main())
