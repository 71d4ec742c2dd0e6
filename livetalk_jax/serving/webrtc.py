"""The WebRTC transport: an offer in, an answer out, then a track of pictures, one of sound and a data channel for control.

The data channel carries what the WebSocket's messages say (docs/serving.md), without the media. A sound track of the client is
speech too: its microphone, with the silence between left out.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from fractions import Fraction
from typing import Any

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from livetalk_jax.serving.audio import from_bytes
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.limits import Bucket
from livetalk_jax.serving.live import LiveSession, Output
from livetalk_jax.serving.model import FPS, SAMPLE_RATE, TICK
from livetalk_jax.serving.timeline import Event, Tick
from livetalk_jax.serving.websocket import MESSAGES_PER_SECOND, STATS_TICKS, control

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 20.0  # to come from the answer to a connection
SILENT_SECONDS = 10.0  # a peer that nothing comes from is gone; one that lives tells each second or so what it receives
FAREWELL_SECONDS = 0.2  # for the last message to go out
MAX_BINARY = 2**16  # bytes of a message of the data channel, as its descriptions say
VIDEO_WAITING = 3  # frames; when the encoder is slower, the oldest go
SOUND_WAITING = FPS


class Gate:
    """Leaves silence out of a microphone's sound: opens well above the noise, closes after half a second of quiet.

    Args:
        rate: samples a second of what is pushed.
    """

    QUIET = 330  # root mean square, of 32,768: nobody speaks below this
    ABOVE = 3.0  # times the noise
    HOLD, BEFORE = 0.5, 0.2  # seconds: of quiet until it closes; of what came before it opened and goes along

    def __init__(self, rate: int):
        self._rate = rate
        self._noise = self.QUIET / self.ABOVE
        self._quiet = self.HOLD
        self._before: deque[np.ndarray] = deque()
        self.open = False

    def push(self, samples: np.ndarray) -> np.ndarray | None:
        """What of it to say, int16 [samples]; None: nobody speaks. `open` going false ends a segment."""
        level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float32))))
        seconds = len(samples) / self._rate
        self._quiet = 0.0 if level > max(self.QUIET, self.ABOVE * self._noise) else self._quiet + seconds
        # Noise is what stays: down at once, up within some seconds.
        self._noise = min(level, self._noise * (1 + 0.25 * seconds) + 1)
        self.open = self._quiet < self.HOLD
        self._before.append(samples)
        if self.open:
            said = np.concatenate(self._before)
            self._before.clear()
            return said
        while len(self._before) * seconds > self.BEFORE:
            self._before.popleft()
        return None


class _Track(MediaStreamTrack):
    """What aiortc pulls frames out of. A reader that is slow misses the oldest."""

    def __init__(self, kind: str, waiting: int):
        super().__init__()
        self.kind = kind
        self._frames: deque[av.VideoFrame | av.AudioFrame] = deque(maxlen=waiting)
        self._arrived = asyncio.Event()

    def put(self, frame: av.VideoFrame | av.AudioFrame) -> bool:
        """Whether there was room for it."""
        room = len(self._frames) < (self._frames.maxlen or 0)
        self._frames.append(frame)
        self._arrived.set()
        return room

    async def recv(self) -> av.VideoFrame | av.AudioFrame:
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError
            self._arrived.clear()
            await self._arrived.wait()
        return self._frames.popleft()

    def stop(self) -> None:
        super().stop()
        self._arrived.set()


class Peer:
    """One peer connection to a session. `answer`, then `run` until it has ended."""

    def __init__(self, live: LiveSession):
        self._live = live
        # No server is asked who we are: candidates are this machine's own addresses, or those of the public name in front of it.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._video, self._sound = _Track("video", VIDEO_WAITING), _Track("audio", SOUND_WAITING)
        self._channel: RTCDataChannel | None = None
        self._output: Output | None = None
        self._rate = SAMPLE_RATE
        self._first: int | None = None  # tick that the video begins with
        self._bucket = Bucket(MESSAGES_PER_SECOND, 2 * MESSAGES_PER_SECOND)
        self._changed = asyncio.Event()
        self._microphones: set[asyncio.Task] = set()
        connection = self._connection
        connection.on("connectionstatechange", self._changed.set)
        connection.on("datachannel", self._take_channel)
        connection.on("track", self._take_track)

    async def answer(self, sdp: str) -> str:
        """The answer to an offer, with this machine's candidates.

        Raises:
            ServingError: it is no offer, or offers nothing that is had here.
        """
        connection = self._connection
        try:
            await connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            if not connection.getTransceivers():
                raise ValueError("it has neither pictures nor sound")
            for transceiver in connection.getTransceivers():
                self._add_track(transceiver)
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # whatever a parser makes of what somebody sends
            await self._close()
            raise ServingError("unprocessable", f"the offer cannot be used: {type(error).__name__} {error}"[:200]) from error
        return connection.localDescription.sdp

    def _add_track(self, transceiver: RTCRtpTransceiver) -> None:
        """Send a track in the first transceiver of each kind, pictures as H.264 where the peer has it: it may use more bits."""
        track = self._video if transceiver.kind == "video" else self._sound
        if any(sender.track is track for sender in self._connection.getSenders()):
            return
        transceiver.direction = "sendrecv"
        transceiver.sender.replaceTrack(track)
        if track is self._video:
            codecs = RTCRtpSender.getCapabilities("video").codecs
            transceiver.setCodecPreferences(sorted(codecs, key=lambda codec: codec.mimeType != "video/H264"))

    async def run(self) -> None:
        """Send until either side ends."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._until("connected", "failed", "closed")
            if self._connection.connectionState == "connected":
                with self._live.subscribe() as self._output:
                    await self._send()
        except TimeoutError:
            pass  # it never came
        finally:
            await self._close()

    async def _close(self) -> None:
        for task in self._microphones:
            task.cancel()
        with contextlib.suppress(Exception):  # a connection that is only half made cannot be closed
            await self._connection.close()

    async def _until(self, *states: str) -> None:
        while self._connection.connectionState not in states:
            self._changed.clear()
            await self._changed.wait()

    async def _gone(self) -> None:
        """Until the connection is over, or nothing has come through it for a while: a peer that dies says no goodbye."""
        heard = -1
        while heard != (heard := await self._received()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENT_SECONDS):
                    return await self._until("failed", "closed")

    async def _received(self) -> int:
        """Packets, so far."""
        reports = (await self._connection.getStats()).values()
        return sum(report.packetsReceived for report in reports if report.type == "transport")

    async def _send(self) -> None:
        output, live = self._output, self._live
        assert output is not None
        gone = asyncio.create_task(self._gone())
        gone.add_done_callback(lambda _: output.close())
        self._greet()
        try:
            async for item in output:
                if isinstance(item, Event):
                    self._say(item)
                    continue
                self._show(item)
                if item.number % STATS_TICKS == 0:
                    self._say(Event(item.number, "stats", live.stats()))
            await asyncio.sleep(FAREWELL_SECONDS)
        finally:
            gone.cancel()

    def _show(self, tick: Tick) -> None:
        self._first = tick.number if self._first is None else self._first
        at = tick.number - self._first
        picture = av.VideoFrame.from_ndarray(tick.frame, format="rgb24")
        picture.pts, picture.time_base = at, Fraction(1, FPS)
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(tick.sound[None]), format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, at * TICK, Fraction(1, SAMPLE_RATE)
        if not self._video.put(picture):
            self._live.engine.metrics.dropped.labels("webrtc").inc()
        self._sound.put(sound)

    # Control

    def _take_channel(self, channel: RTCDataChannel) -> None:
        self._channel = channel
        channel.on("message", self._hear)
        self._greet()

    def _greet(self) -> None:
        """The first message, once there is both a channel and a connection."""
        live, size = self._live, self._live.size
        if self._channel is not None and self._output is not None:
            fields = {"id": live.id, "state": live.state, "height": size[0], "width": size[1], "fps": FPS,
                      "sample_rate": SAMPLE_RATE, "generation": live.timeline.generation}  # fmt: skip
            self._say(Event(live.timeline.ticks, "session", fields))

    def _say(self, event: Event) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            time = 0.0 if self._first is None else max(0.0, (event.number - self._first) / FPS)
            self._channel.send(json.dumps({"type": event.name, "time": round(time, 3), **event.fields}))

    def _hear(self, message: str | bytes) -> None:
        live, output = self._live, self._output
        if output is None or output.closed:
            return
        try:
            if not self._bucket.take(live.engine.clock.now()):
                raise ServingError("rate_limited", f"more than {MESSAGES_PER_SECOND} messages a second")
            if isinstance(message, bytes):
                if len(message) > MAX_BINARY:
                    raise ServingError("too_large", f"a message has {MAX_BINARY // 1024} KiB at most")
                live.push_audio(from_bytes(message), self._rate)
            else:
                self._rate = control(message, live, output, self._rate)
        except ServingError as error:
            self._refuse(error)

    def _refuse(self, error: ServingError) -> None:
        fields: dict[str, Any] = error.body()
        self._say(Event(self._live.timeline.ticks, "error", fields))
        if error.code in ("rate_limited", "closed") and self._output is not None:
            self._output.close()

    # Microphone

    def _take_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and not self._microphones:
            self._microphones.add(asyncio.create_task(self._listen(track)))

    async def _listen(self, track: MediaStreamTrack) -> None:
        gate: Gate | None = None
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if self._output is None or not isinstance(frame, av.AudioFrame):
                    continue
                gate = gate or Gate(frame.sample_rate)
                # Packed 16-bit, so channels lie beside each other.
                samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels)).mean(1).astype(np.int16)
                was_open = gate.open
                said = gate.push(samples)
                try:
                    if said is not None:
                        self._live.push_audio(said, frame.sample_rate)
                    elif was_open:
                        self._live.end_segment()
                except ServingError as error:
                    self._refuse(error)
                    if error.code == "closed":
                        return
