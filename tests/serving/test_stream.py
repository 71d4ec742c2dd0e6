"""The WebSocket transport, end to end with the test card, as the client sees it."""

import asyncio

import numpy as np

from livetalk_jax.serving.client import Client
from tests.serving import card as cards

RATE = 24_000


def loud(seconds, rate=RATE):
    return np.full(int(seconds * rate), 9000, np.int16)


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
                assert abs(ended.fields["time"] - started.fields["time"] - 2) <= 0.04
                await stream.until_shown(ended.fields["time"] + 0.2)
                await stream.control("close")
                assert (await stream.until("closed")).fields["reason"] == "client"
            frames, sound, rate = stream.decode()
            return started.fields["time"], frames, sound, rate

    start, frames, sound, rate = asyncio.run(talk())
    numbers, speaking = zip(*map(cards.read, frames), strict=True)
    assert list(numbers) == list(range(len(frames)))
    # Picture and sound, decoded, begin and end to speak at the same frame.
    first, last = np.flatnonzero(speaking)[[0, -1]]
    assert first == round(start * 25)
    audible = np.flatnonzero(np.abs(sound) > 0.05) / rate
    assert abs(audible[0] - first / 25) < 0.02
    assert abs(audible[-1] - (last + 1) / 25) < 0.02
    assert abs(len(sound) / rate - len(frames) / 25) < 0.1
