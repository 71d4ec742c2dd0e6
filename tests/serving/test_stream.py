"""The WebSocket transport, end to end with the test card, as clients see it: good ones, slow ones, dead ones and hostile ones."""

import asyncio
import base64
import contextlib
import io
import json
import os
import socket
from types import SimpleNamespace
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livetalk_jax.serving import websocket
from livetalk_jax.serving.client import Client, Stream
from livetalk_jax.serving.engine import Limits
from livetalk_jax.serving.timeline import Event, Tick
from livetalk_jax.serving.tokens import Guard
from tests.serving import card as cards
from tests.serving.conftest import running

RATE = 24_000


def loud(seconds, rate=RATE):
    return np.full(int(seconds * rate), 9000, np.int16)


@pytest.fixture(scope="module")
def server(card):
    with running(card, Limits(sessions=100), requests_per_second=1e6) as found:
        yield found


def test_a_conversation(url):
    async def talk():
        async with Client(url) as client:
            session = await client.open()
            async with client.stream(session) as stream:
                hello = await stream.until("session")
                assert (hello.fields["width"], hello.fields["height"]) == cards.SIZE[::-1]
                await stream.until_shown(0.2)
                await stream.speak(loud(2), RATE)
                started = await stream.until("speech_started")
                ended = await stream.until("speech_ended")
                assert abs(ended.fields["played_seconds"] - 2) < 0.01
                await stream.until_shown(ended.fields["time"] + 0.2)
                stages = (await stream.until("stats")).fields["stages"]
                assert stages.keys() >= {"start", "wait", "first_frames", "step", "encode"} and all(
                    0 <= took < 60 for took in stages.values()
                )
                await stream.control("close")
                assert (await stream.until("closed")).fields["reason"] == "client"
            frames, sound, rate = stream.decode()
            return started.fields["time"], frames, sound, rate

    start, frames, sound, rate = asyncio.run(talk())
    numbers, speaking = zip(*map(cards.read, frames), strict=True)
    # On a loaded machine a frame may stand for a while; none is lost.
    new = [0, *(i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1])]
    assert [numbers[i] for i in new] == list(range(len(new)))
    # Picture and sound, decoded, begin and end to speak at the same frame.
    first, *_, last = [i for i in new if speaking[i]]
    assert first == round(start * 25)
    assert sum(speaking[i] for i in new) == 50
    audible = np.flatnonzero(np.abs(sound) > 0.05) / rate
    assert abs(audible[0] - first / 25) < 0.02
    assert abs(audible[-1] - (last + 1) / 25) < 0.02
    assert abs(len(sound) / rate - len(frames) / 25) < 0.1


def test_a_hundred_interruptions_are_all_answered(url):
    async def talk():
        async with Client(url) as client:
            session = await client.open()
            async with client.stream(session) as stream:
                await stream.until("media_init")
                for number in range(1, 101):
                    await stream.send(loud(0.05 * (number % 7)))
                    await stream.control("interrupt")
                    assert (await stream.until("interrupted")).fields["generation"] == number
                await stream.speak(loud(0.5), RATE)
                assert (await stream.until("speech_started")).fields["generation"] == 100
                await stream.until("speech_ended")
            await client.close(session)

    asyncio.run(talk())


def test_a_broken_stream_can_be_opened_again(url):
    async def talk():
        async with Client(url) as client:
            session = await client.open()
            async with client.stream(session) as stream:
                await stream.until("media_init")
                await stream.control("interrupt")
                await stream.until("interrupted")
            async with client.stream(session) as stream:
                assert (await stream.until("session")).fields["generation"] == 1
                await stream.until_shown(0.1)
            await client.close(session)

    asyncio.run(talk())


async def nobody_reads(server, *sessions):
    async with asyncio.timeout(60):
        while any(server.engine.sessions[session].outputs for session in sessions):
            await asyncio.sleep(0.02)


def test_a_client_killed_in_mid_chunk():
    card = cards.TestCard()
    with running(card, Limits(sessions=2)) as (url, server):

        async def talk():
            async with Client(url) as client:
                other = await client.open()
                async with client.stream(other) as safe:
                    await safe.until("media_init")
                    card.gate.clear()
                    victim = await client.open()
                    async with client.stream(victim) as stream:
                        await stream.until("session")
                        await stream.send(loud(3))
                        stream.cut()
                    await nobody_reads(server, victim)
                    card.gate.set()
                    moment = safe.covered[-1][1] if safe.covered else 0.0
                    await safe.until_shown(moment + 1)

        asyncio.run(talk())


def handshake(url, session):
    """A WebSocket as bare bytes: the other side of one that went silent."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET /v1/sessions/{session}/stream HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    received = b""
    while b'"type": "session"' not in received:
        received += connection.recv(4096)
    return connection


def test_half_open_sockets_and_bare_bytes():
    """They are closed, and another session goes on."""
    with running(cards.TestCard(), ping=0.5) as (url, server):

        async def talk():
            async with Client(url) as client:
                sessions = [await client.open() for _ in range(3)]
                async with client.stream(await client.open()) as safe:
                    await safe.until("media_init")
                    silent, garbled, huge = [await asyncio.to_thread(handshake, url, session) for session in sessions]
                    garbled.sendall(os.urandom(5000))
                    huge.sendall(b"\x82\xff" + (2**40).to_bytes(8, "big") + b"abcd")  # says that a terabyte follows
                    await nobody_reads(server, *sessions)
                    moment = safe.covered[-1][1] if safe.covered else 0.0
                    await safe.speak(loud(0.2), RATE)
                    assert (await safe.until("speech_ended")).fields["time"] > moment
                    await client.request("GET", "/readyz")
                    for connection in (silent, garbled, huge):
                        connection.close()

        asyncio.run(talk())


class Noise(cards.TestCard):
    """Frames that are large however they are encoded."""

    def step(self, state, speech):
        pieces, state = super().step(state, speech)
        return [np.random.default_rng(0).integers(0, 256, frames.shape, np.uint8) for frames in pieces], state


def test_a_reader_that_stops_reading(monkeypatch):
    """What it does not read is not kept for it, and nobody else notices; when it reads again, it is shown what is now."""
    monkeypatch.setattr(websocket, "SEND_SECONDS", 600)
    with running(Noise(), ping=300, send_buffer=4096) as (url, server), socket.socket() as narrow:
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        parts = urlsplit(url)
        narrow.connect((parts.hostname, parts.port))
        narrow.setblocking(False)

        async def talk():
            async with Client(url) as client:
                session, other = await client.open(), await client.open()
                address = f"{url.replace('http', 'ws')}/v1/sessions/{session}/stream"
                async with client.stream(other) as safe, websockets.connect(address, sock=narrow, max_queue=1) as slow:
                    outputs = server.engine.sessions[session].outputs
                    while not any(output.dropped for output in list(outputs)):
                        await safe.until("media")
                    assert all(len(output._items) < 100 for output in list(outputs))
                    reading = Stream(slow)
                    again = await reading.until(lambda message: message.type == "media_init" and message.fields["time"] > 0)
                    await reading.until_shown(again.fields["time"])
                    assert server.engine.sessions[other].late == 0

        asyncio.run(talk())


def test_a_reader_that_missed_frames_gets_a_fresh_start(server):
    """A new initialisation, and the video's time goes on without a gap."""
    sent, batches = [], asyncio.Queue()

    async def keep(message):
        sent.append(message)

    def ticks(begin, end):
        return [Tick(n, cards.draw(n, False), np.zeros(640, np.int16), 0, False, False) for n in range(begin, end)]

    async def write():
        for batch in (ticks(0, 20), [*ticks(100, 110), Event(110, "hello", {}), *ticks(110, 120)], []):
            batches.put_nowait(batch)
        await websocket._write(
            SimpleNamespace(send_bytes=keep, send_text=keep),
            SimpleNamespace(engine=server[1].engine, size=cards.SIZE, stats=dict, took=lambda stage, seconds: None),
            SimpleNamespace(take=batches.get),
        )

    asyncio.run(write())
    told = [(at, json.loads(message)) for at, message in enumerate(sent) if isinstance(message, str)]
    starts = [(at, message) for at, message in told if message["type"] == "media_init"]
    assert [message["time"] for _, message in starts] == [0.0, 0.8]
    assert [message["time"] for _, message in told if message["type"] == "hello"] == [1.2]
    second = b"".join(message for message in sent[starts[1][0] + 1 :] if isinstance(message, bytes))
    with av.open(io.BytesIO(second), "r") as container:
        frames = [(frame.time, cards.read(frame.to_ndarray(format="rgb24"))[0]) for frame in container.decode(video=0)]
    assert frames[0] == (0.8, 100)


def test_what_is_no_message_is_answered_and_survived(url):
    wrong = [
        b"\x01", "", "{", "[]", "null", '"x"', "1e999", "[" * 4000, '{"type": 1}', '{"type": "speak"}', '{"type": "audio_format"}',
        '{"type": "audio_format", "sample_rate": 7999}', '{"type": "audio_format", "sample_rate": true}',
        '{"type": "audio_format", "sample_rate": "16000"}', '{"type": "audio_format", "sample_rate": 1e4}', "x" * 5000,
        '{"type": ["interrupt"]}', '{"type": "interrupt"', "\x00", "\ud7ff",
    ]  # fmt: skip

    async def talk():
        async with Client(url) as client:
            session = await client.open()
            async with client.stream(session) as stream:
                for message in wrong:
                    await stream._socket.send(message)
                    error = await stream.until("error")
                    assert error.fields["code"] == "bad_message" and error.fields["message"], message
                await stream.control("ping", id="still there")
                assert (await stream.until("pong")).fields["id"] == "still there"
            await client.close(session)

    asyncio.run(talk())


def test_messages_without_end(url):
    async def talk():
        async with Client(url) as client:
            session = await client.open()
            async with client.stream(session) as stream:
                with contextlib.suppress(websockets.ConnectionClosed):
                    for _ in range(3000):
                        await stream._socket.send('{"type": "ping"}')
                with contextlib.suppress(ConnectionError):
                    await stream.until(lambda message: message.fields.get("code") == "rate_limited")
                    with pytest.raises(ConnectionError):
                        await stream.until("never")
            await client.close(session)
            session = await client.open()
            async with client.stream(session) as stream:
                with pytest.raises(ConnectionError):
                    await stream._socket.send(b"\0" * (2**20 + 2))
                    await stream.until("never")
            await client.close(session)

    asyncio.run(talk())


def test_speech_without_end(url):
    async def talk():
        async with Client(url) as client:
            session = await client.open()
            async with client.stream(session) as stream:
                await stream.control("audio_format", sample_rate=16_000)
                for _ in range(10):
                    await stream.send(loud(30, 16_000))
                error = await stream.until("error")
                assert error.fields["code"] == "audio_overflow" and error.fields["retryable"]
                await stream.control("interrupt")
                assert (await stream.until("interrupted")).fields["dropped_seconds"] <= 120
            await client.close(session)

    asyncio.run(talk())


def test_streams_that_are_refused():
    moment = [1e6]
    guard = Guard(["key"], b"secret", lambda: moment[0])
    with running(cards.TestCard(), guard=guard) as (url, _):

        async def talk():
            async with Client(url, "key") as owner:
                token = (await owner.request("POST", "/v1/tokens")).json()["token"]
                async with Client(url, token) as client:
                    session = await client.open()
                    address = f"{url.replace('http', 'ws')}/v1/sessions/{session}/stream"
                    other = guard.mint(600)
                    for query, code in (("", "unauthorized"), ("?token=x.y", "unauthorized"), (f"?token={other}", "not_found")):
                        async with websockets.connect(address + query) as refused:
                            assert json.loads(await refused.recv())["code"] == code
                            with pytest.raises(websockets.ConnectionClosed):
                                await refused.recv()
                            assert refused.close_code == 1008
                    with pytest.raises(websockets.InvalidStatus):
                        await websockets.connect(f"{address}?token={token}", origin="https://evil.example")
                    async with websockets.connect(f"{address}?token={token}") as taken:
                        assert json.loads(await taken.recv())["type"] == "session"
                    moment[0] += 601
                    async with websockets.connect(f"{address}?token={token}") as refused:
                        assert "expired" in json.loads(await refused.recv())["message"]

        asyncio.run(talk())


def test_no_more_than_a_few_readers(url):
    async def talk():
        async with Client(url) as client, contextlib.AsyncExitStack() as stack:
            session = await client.open()
            for _ in range(4):
                await (await stack.enter_async_context(client.stream(session))).until("session")
            async with client.stream(session) as fifth:
                assert (await fifth.until("error")).fields["code"] == "forbidden"
            await client.close(session)

    asyncio.run(talk())


# Fuzzing

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), lambda x: st.lists(x, max_size=3)
)
kinds = st.sampled_from(["audio_format", "end_segment", "interrupt", "ping", "Close", "", None])
controls = st.builds(
    lambda kind, rest: json.dumps({**rest, "type": kind}),
    kinds,
    st.dictionaries(st.sampled_from(["sample_rate", "id", "generation", "x"]), values, max_size=3),
)
messages = st.lists(controls | st.text(max_size=200) | st.binary(max_size=3000), max_size=12)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversation=messages)
def test_any_messages(url, conversation):
    """Whatever is sent, every answer has its form, and the session still speaks, is silent and says goodbye."""

    async def talk():
        async with Client(url) as client:
            session = await client.open()
            async with client.stream(session) as stream:
                for message in conversation:
                    await stream._socket.send(message)
                await stream.control("interrupt")
                await stream.control("ping", id="last")
                await stream.until(lambda message: message.type == "pong" and message.fields.get("id") == "last")
                await stream.control("close")
                await stream.until("closed")
                for message in stream.messages:
                    assert message.type != "error" or set(message.fields) == {"code", "message", "retryable", "time"}

    asyncio.run(talk())
