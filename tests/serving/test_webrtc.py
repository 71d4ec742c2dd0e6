"""The WebRTC transport with a peer of this process, and what it makes of a microphone."""

import asyncio
import gc
import json
from fractions import Fraction

import aioice.ice
import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from livetalk_jax.serving import webrtc
from livetalk_jax.serving.client import Client, Refused
from livetalk_jax.serving.engine import Limits
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.live import LiveSession
from livetalk_jax.serving.webrtc import Gate, Peer, _Track
from tests.serving import card as cards
from tests.serving.conftest import running

RATE = 48_000
PIECE = RATE // 50


class Microphone(MediaStreamTrack):
    """Noise, and a loud second from `speak` on, as fast as it is spoken."""

    kind = "audio"

    def __init__(self):
        super().__init__()
        self.at = self.until = 0

    def speak(self):
        self.until = self.at + RATE

    async def recv(self):
        await asyncio.sleep(0.02)
        level = 9000 if self.at < self.until else 20
        sound = (level * np.sin(np.arange(self.at, self.at + PIECE) / 20)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self.at, Fraction(1, RATE)
        self.at += PIECE
        return frame


class Listener:
    """A peer that keeps what it is sent. `event` waits for a message of the data channel."""

    def __init__(self):
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.microphone = Microphone()
        self.connection.addTransceiver("video", direction="recvonly")
        self.connection.addTrack(self.microphone)
        self.channel = self.connection.createDataChannel("control")
        self.frames, self.loudness, self.messages = [], 0.0, []
        self._arrived = asyncio.Event()
        self._tasks = []
        self.connection.on("track", lambda track: self._tasks.append(asyncio.ensure_future(self._keep(track))))
        self.channel.on("message", self._hear)

    def _hear(self, message):
        self.messages.append(json.loads(message))
        self._arrived.set()

    async def _keep(self, track):
        try:
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self.frames.append(cards.read(frame.to_ndarray(format="rgb24")))
                else:
                    self.loudness = max(self.loudness, np.abs(frame.to_ndarray()).max() / 32768)
                self._arrived.set()
        except MediaStreamError:
            pass

    async def connect(self, client, session):
        await self.connection.setLocalDescription(await self.connection.createOffer())
        offer = {"sdp": self.connection.localDescription.sdp, "type": "offer"}
        answer = (await client.request("POST", f"/v1/sessions/{session}/webrtc", json=offer)).json()
        assert answer["type"] == "answer" and "H264" in answer["sdp"]
        await self.connection.setRemoteDescription(RTCSessionDescription(**answer))

    async def until(self, found):
        async with asyncio.timeout(90):
            while not (value := found()):
                self._arrived.clear()
                await self._arrived.wait()
        return value

    async def event(self, name):
        return await self.until(lambda: next((m for m in self.messages if m["type"] == name), None))

    def vanish(self):
        """As if its process had died: its sockets are gone, and nobody was told."""
        ice = self.connection.sctp.transport.transport.iceGatherer._connection
        for protocol in ice._protocols:
            protocol.transport.abort()
            protocol.transport.sendto = lambda *_: None

    async def close(self):
        await self.connection.close()
        for task in self._tasks:
            task.cancel()


@pytest.fixture
def loopback(monkeypatch):
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


def test_pictures_and_sound_come_and_the_microphone_speaks(url, server, loopback):
    async def talk():
        async with Client(url) as client:
            session = await client.open()
            listener = Listener()
            await listener.connect(client, session)
            hello = await listener.event("session")
            assert (hello["id"], hello["width"], hello["height"]) == (session, *cards.SIZE[::-1])
            await listener.until(lambda: len(listener.frames) > 5)
            listener.microphone.speak()
            await listener.event("speech_started")
            ended = await listener.event("speech_ended")
            assert 0 < ended["played_seconds"] < 2.5
            await listener.until(lambda: any(speaking for _, speaking in listener.frames) and listener.loudness > 0.1)
            listener.channel.send(json.dumps({"type": "interrupt"}))
            assert (await listener.event("interrupted"))["generation"] == 1
            listener.channel.send("nonsense")
            listener.channel.send(bytes(2**16 + 2))
            errors = await listener.until(lambda: [m["code"] for m in listener.messages if m["type"] == "error"][1:])
            assert (await listener.event("error"))["code"] == "bad_message" and errors == ["too_large"]
            await listener.event("stats")
            await client.close(session)
            assert (await listener.event("closed"))["reason"] == "deleted"
            await listener.close()
            return [number for number, _ in listener.frames]

    numbers = asyncio.run(talk())
    # A busy machine loses packets, and the pictures after them are damaged for a while.
    assert len(numbers) > 10 and np.mean(np.diff(numbers) > 0) > 0.5


def test_peers_that_vanish(loopback, monkeypatch):
    """One in mid-speech, one before it was connected: their sessions end, their seats are free, and nothing is left of them."""
    monkeypatch.setattr(webrtc, "SILENT_SECONDS", 1.5)
    monkeypatch.setattr(webrtc, "CONNECT_SECONDS", 5)

    async def talk(url, engine):
        async with Client(url) as client:
            sessions, listeners = [await client.open() for _ in range(2)], [Listener() for _ in range(2)]
            for session, listener in zip(sessions, listeners, strict=True):
                await listener.connect(client, session)
            listeners[1].vanish()
            listeners[0].microphone.speak()
            await listeners[0].event("speech_started")
            listeners[0].vanish()
            async with asyncio.timeout(20):  # ICE by itself takes 33 s
                while engine.sessions or len(engine._tasks) > 1:
                    await asyncio.sleep(0.05)
            assert not engine.readers and [task.get_coro().__name__ for task in engine._tasks] == ["_reap"]
            for session in [await client.open() for _ in range(2)]:
                await client.close(session)
            for listener in listeners:
                await listener.close()

    with running(cards.TestCard(), Limits(sessions=2, detached_seconds=5)) as (url, server):
        asyncio.run(talk(url, server.engine))
        told = server.engine.metrics.registry.get_sample_value
        assert told("livetalk_sessions_total", {"reason": "nobody_reads"}) == 2 and told("livetalk_sessions_active") == 0
    gc.collect()
    left = [thing for thing in gc.get_objects() if isinstance(thing, (Peer, LiveSession))]
    assert not [thing for thing in left if isinstance(thing, Peer) or thing.engine is server.engine]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"sdp": "nonsense", "type": "offer"}, 422),
        ({"sdp": "", "type": "offer"}, 422),
        ({"sdp": "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF x\r\n", "type": "offer"}, 422),
        ({"sdp": "v=0\r\n", "type": "answer"}, 422),
        ({"type": "offer"}, 422),
        ({"sdp": "v=0\r\n" * 50_000, "type": "offer"}, 422),
    ],
)
def test_offers_that_are_none(url, body, status):
    async def ask():
        async with Client(url) as client:
            session = await client.open()
            with pytest.raises(Refused) as refusal:
                await client.request("POST", f"/v1/sessions/{session}/webrtc", json=body)
            await client.close(session)
            return refusal.value.status

    assert asyncio.run(ask()) == status


def test_offers_that_lack_a_line(loopback):
    """They are answered or refused, and nothing goes on listening. Each kind of line is left out once in every section."""

    async def ask():
        listener = Listener()
        await listener.connection.setLocalDescription(await listener.connection.createOffer())
        offer = listener.connection.localDescription.sdp.splitlines()
        await listener.close()
        section, seen, refused = 0, set(), 0
        for at, line in enumerate(offer):
            section += line.startswith("m=")
            kind = (section, line.split(":")[0])
            if kind in seen:
                continue
            seen.add(kind)
            peer = Peer(None)
            try:
                await peer.answer("\r\n".join(offer[:at] + offer[at + 1 :]) + "\r\n")
                await peer._close()
            except ServingError as error:
                assert error.code == "unprocessable" and "\n" not in error.message
                refused += 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if "_listen" in repr(task)]
        return len(seen), refused, left

    tried, refused, left = asyncio.run(ask())
    assert 0 < refused < tried and not left


def test_slow_readers_miss_the_oldest_frames():
    async def read():
        track = _Track("video", 3)
        assert [track.put(number) for number in range(5)] == [True, True, True, False, False]
        return [await track.recv() for _ in range(3)]

    assert asyncio.run(read()) == [2, 3, 4]


def noise(seconds, level, seed=0):
    return (np.random.default_rng(seed).normal(0, level, (int(seconds * 50), PIECE))).clip(-32768, 32767).astype(np.int16)


def test_the_gate_lets_speech_through_whole_and_silence_not():
    gate = Gate(RATE)
    pieces = [*noise(3, 60), *noise(1, 4000, 1), *noise(0.3, 60, 2), *noise(1, 4000, 3), *noise(2, 60, 4)]
    opened, said = [], []
    for piece in pieces:
        out = gate.push(piece)
        opened.append(gate.open)
        said += [out] if out is not None else []
    # Open from the first word, through the pause, to half a second after the last word.
    assert np.flatnonzero(np.diff(opened)).tolist() == [149, 149 + 115 + 24]
    everything, said = np.concatenate(pieces), np.concatenate(said)
    start = 150 * PIECE - 10 * PIECE  # 0.2 s before
    np.testing.assert_array_equal(said, everything[start : start + len(said)])


def test_the_gate_gets_used_to_noise():
    gate = Gate(RATE)
    loud = [gate.push(piece) is not None for piece in noise(20, 700)]
    assert loud[0] and not any(loud[-100:])
    assert all(gate.push(piece) is not None for piece in noise(1, 8000, 1))
