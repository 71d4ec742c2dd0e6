"""LiveKit: a session as the avatar of a voice agent, by the contract of livekit-agents' avatar workers.

    agent to avatar   a byte stream a segment, topic lk.audio_stream, attributes sample_rate and num_channels, PCM16; its end is
                      the segment's end
                      RPC lk.clear_buffer: be silent now
    avatar to agent   RPC lk.playback_started
                      RPC lk.playback_finished {"playback_position": seconds, "interrupted": bool}: one a stream, always

`Contract` is that, over a small `Room`; `join` makes one of a real room, for which the extra `livekit` is needed.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from livetalk_jax.serving.audio import from_bytes
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.live import LiveSession
from livetalk_jax.serving.model import SAMPLE_RATE, TICK
from livetalk_jax.serving.timeline import Event, Tick

logger = logging.getLogger(__name__)

AUDIO_TOPIC = "lk.audio_stream"
CLEAR = "lk.clear_buffer"
STARTED, FINISHED = "lk.playback_started", "lk.playback_finished"
BEHALF = "lk.publish_on_behalf"  # the attribute of the avatar's token that names the agent
AGENT_SECONDS = 60.0  # to wait for the agent to come into the room
JOIN_SECONDS = 15.0
IDLE_SECONDS = 10.0  # a stream that is silent for so long has lost its end
TRIES = 3  # of an RPC


class Room(Protocol):
    """What the contract asks of a room in which the agent is."""

    async def show(self, tick: Tick) -> None:
        """Publish a frame and its sound."""

    async def call(self, method: str, payload: str) -> None:
        """Call the agent. Raises whatever the room does when that fails."""


@dataclass(eq=False)
class _Segment:
    """A byte stream. Its speech is dropped once the session's generation is another."""

    chunks: AsyncGenerator[bytes]
    attributes: Mapping[str, str]
    generation: int
    samples: int = 0  # that it has given the session


class Contract:
    """A session and its agent's room. The room tells `stream` and `clear`; `run` does the rest until the session ends."""

    def __init__(self, live: LiveSession, room: Room):
        self._live, self._room = live, room
        live.timeline.quiet_ticks = None  # an agent whose speech stalls has not ended its segment
        self._segments: deque[_Segment] = deque()  # not finished, in order
        self._arrived: asyncio.Queue[_Segment] = asyncio.Queue()
        self._newer = asyncio.Event()
        self._reports: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def stream(self, chunks: AsyncGenerator[bytes], attributes: Mapping[str, str]) -> None:
        """A byte stream of the agent on `AUDIO_TOPIC`."""
        segment = _Segment(chunks, attributes, self._live.timeline.generation)
        self._segments.append(segment)
        self._arrived.put_nowait(segment)
        self._newer.set()

    def clear(self) -> str:
        """The agent's `CLEAR`; what to answer."""
        with contextlib.suppress(ServingError):  # a session that has ended is silent
            self._live.interrupt()
        return "ok"

    async def run(self) -> None:
        with self._live.subscribe() as output:
            helpers = [asyncio.create_task(self._listen()), asyncio.create_task(self._report())]
            try:
                async for item in output:
                    if isinstance(item, Tick):
                        await self._room.show(item)
                    else:
                        self._tell(item)
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    # From the agent

    async def _listen(self) -> None:
        while True:
            segment = await self._arrived.get()
            self._newer.clear()
            if not self._arrived.empty():
                self._newer.set()
            try:
                await self._say(segment)
            except ServingError as error:
                logger.warning("a stream cannot be said: %s", error, extra={"session": self._live.id})
            if self._current(segment):
                self._counted(segment, self._live.end_segment)
                if not segment.samples:
                    self._finish(segment, 0.0, False)

    async def _say(self, segment: _Segment) -> None:
        try:
            rate, channels = int(segment.attributes["sample_rate"]), int(segment.attributes["num_channels"])
            if channels < 1:
                raise ValueError
        except (KeyError, ValueError):
            raise ServingError("bad_message", "a stream needs the attributes sample_rate and num_channels") from None
        rest, whole = b"", 2 * channels
        async with contextlib.aclosing(self._until_lost(segment)) as chunks:
            async for chunk in chunks:
                if not self._current(segment):
                    return
                data = rest + chunk
                rest = data[len(data) // whole * whole :]
                samples = from_bytes(data[: len(data) - len(rest)]).reshape(-1, channels)
                await self._push(segment, samples.mean(1).astype(np.int16), rate)

    async def _push(self, segment: _Segment, samples: np.ndarray, rate: int) -> None:
        """Agents send faster than anybody speaks: what is too much waits here."""
        while self._current(segment):
            try:
                return self._counted(segment, lambda: self._live.push_audio(samples, rate))
            except ServingError as error:
                if error.code != "audio_overflow":
                    raise
            await self._live.engine.clock.sleep(0.1)

    async def _until_lost(self, segment: _Segment) -> AsyncGenerator[bytes]:
        """Its chunks, until its end or until that must be lost: agents send one stream after another, and without pauses."""
        newer = asyncio.ensure_future(self._newer.wait())
        following: asyncio.Future | None = None
        try:
            while True:
                following = asyncio.ensure_future(anext(segment.chunks, None))
                await asyncio.wait({following, newer}, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)  # what has arrived goes before what comes after it
                if not following.done():
                    logger.warning("a stream's end was lost", extra={"session": self._live.id})
                    return
                if (chunk := following.result()) is None:
                    return
                yield chunk
        except ConnectionError as error:
            logger.warning("a stream broke: %s", error, extra={"session": self._live.id})
        finally:
            newer.cancel()
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            await segment.chunks.aclose()

    def _current(self, segment: _Segment) -> bool:
        return self._live.state != "closed" and segment.generation == self._live.timeline.generation

    def _counted(self, segment: _Segment, add: Callable[[], None]) -> None:
        before = self._live.timeline.pending
        add()
        segment.samples += self._live.timeline.pending - before

    # To the agent

    def _tell(self, event: Event) -> None:
        if event.name == "speech_started":
            self._reports.put_nowait((STARTED, ""))
        elif event.name == "speech_ended" and self._segments:
            self._finish(self._segments[0], event.fields["played_seconds"], False)
        elif event.name == "interrupted":
            played = event.fields["played_seconds"]
            for segment in [s for s in self._segments if s.generation < event.fields["generation"]]:
                self._finish(segment, played, True)
                played = 0.0

    def _finish(self, segment: _Segment, played: float, interrupted: bool) -> None:
        self._segments.remove(segment)
        self._reports.put_nowait((FINISHED, json.dumps({"playback_position": played, "interrupted": interrupted})))

    async def _report(self) -> None:
        """Answers in order, each tried some times: an agent that misses one waits for ever."""
        while True:
            method, payload = await self._reports.get()
            for attempt in range(TRIES):
                try:
                    await self._room.call(method, payload)
                    break
                except Exception as error:
                    extra = {"session": self._live.id, "attempt": attempt + 1}
                    logger.warning("the agent did not take %s: %s", method, error, extra=extra)
                    await self._live.engine.clock.sleep(0.1)


async def join(live: LiveSession, url: str, token: str) -> Coroutine[None, None, None]:
    """Join a room as the avatar. Returns what to run there until the agent leaves or the session ends.

    token: a JWT of the room with the attribute `BEHALF`, as agents make for their avatars; without it, the first agent is taken.

    Raises:
        ServingError: LiveKit's package is not there, or the room cannot be joined.
    """
    try:
        from livekit import rtc
    except ImportError:
        raise ServingError("unprocessable", "this server has no LiveKit: pip install 'livetalk-jax[livekit]'") from None
    room = rtc.Room()
    try:
        await asyncio.wait_for(room.connect(url, token), JOIN_SECONDS)
    except (rtc.ConnectError, TimeoutError) as error:
        raise ServingError("unprocessable", f"the room cannot be joined: {error or type(error).__name__}"[:300]) from error
    return _perform(live, rtc, room)


async def _perform(live: LiveSession, rtc: ModuleType, room: Any) -> None:
    changed, gone = asyncio.Event(), asyncio.Event()
    room.on("participant_connected", lambda _: changed.set())
    room.on("disconnected", lambda _: gone.set())
    try:
        async with asyncio.timeout(AGENT_SECONDS):
            while (agent := _agent(rtc, room)) is None:
                changed.clear()
                await changed.wait()
        room.on("participant_disconnected", lambda left: gone.set() if left.identity == agent else None)
        avatar = _Avatar(live.size, rtc, room.local_participant, agent)
        contract = Contract(live, avatar)
        room.local_participant.register_rpc_method(
            CLEAR, lambda call: contract.clear() if call.caller_identity == agent else "reject"
        )

        async def chunks(reader: Any) -> AsyncGenerator[bytes]:
            try:
                async for chunk in reader:
                    yield chunk
            except rtc.StreamError as error:
                raise ConnectionError(str(error)) from error
            finally:
                reader.close()

        room.register_byte_stream_handler(
            AUDIO_TOPIC,
            lambda reader, sender: (
                contract.stream(chunks(reader), reader.info.attributes or {}) if sender == agent else reader.close()
            ),
        )
        await avatar.publish()  # last: agents speak as soon as they see it
        running, leaving = asyncio.create_task(contract.run()), asyncio.create_task(gone.wait())
        await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, leaving):
            task.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            await running
    except TimeoutError:
        logger.warning("no agent came into the room", extra={"session": live.id})
    except Exception:
        logger.exception("a room failed", extra={"session": live.id})
    finally:
        live.close("client")
        await room.disconnect()


def _agent(rtc: ModuleType, room: Any) -> str | None:
    """The identity of the agent that the avatar speaks for, once it is there."""
    wanted, kind = room.local_participant.attributes.get(BEHALF), rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
    there = (p for p in room.remote_participants.values() if (p.identity == wanted if wanted else p.kind == kind))
    return next((participant.identity for participant in there), None)


class _Avatar:
    """A real `Room`."""

    def __init__(self, size: tuple[int, int], rtc: ModuleType, me: Any, agent: str):
        self._rtc, self._me, self._agent = rtc, me, agent
        self._height, self._width = size
        self._video, self._sound = rtc.VideoSource(self._width, self._height), rtc.AudioSource(SAMPLE_RATE, 1)

    async def publish(self) -> None:
        rtc = self._rtc
        track = rtc.LocalAudioTrack.create_audio_track("avatar_audio", self._sound)
        await self._me.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))
        track = rtc.LocalVideoTrack.create_video_track("avatar_video", self._video)
        await self._me.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA))

    async def show(self, tick: Tick) -> None:
        rtc = self._rtc
        self._video.capture_frame(rtc.VideoFrame(self._width, self._height, rtc.VideoBufferType.RGB24, tick.frame.tobytes()))
        await self._sound.capture_frame(rtc.AudioFrame(tick.sound.tobytes(), SAMPLE_RATE, 1, TICK))

    async def call(self, method: str, payload: str) -> None:
        try:
            await self._me.perform_rpc(destination_identity=self._agent, method=method, payload=payload)
        except self._rtc.RpcError as error:
            # An agent that does not wait for the start does not listen for it.
            if method != STARTED or error.code != self._rtc.RpcError.ErrorCode.UNSUPPORTED_METHOD:
                raise
