"""What a client does to a server in order to measure it, from outside and by this process's clock.

What is measured in the video (where speech begins in it, how far it reaches) is read out of the bytes that arrived.
"""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from typing import Any

import av
import numpy as np

from livetalk_jax import media
from livetalk_jax.serving.client import Client, Message, Refused, Stream

RATE = 24_000
LOUD = 0.02  # where speech begins, of full scale
WINDOW = 64  # fragments that a soak remembers, ten seconds
EVERY = 10.0  # seconds between two looks at all of it


def speech() -> np.ndarray:
    """The shipped recording, int16 [samples] at `RATE`."""
    return (media.load_audio(media.SAMPLES / "speech.flac", RATE) * 32767).astype(np.int16)


def onset(init: bytes, fragments: bytes, after: float) -> float | None:
    """Where sound begins in a piece of the stream, in its seconds, not before `after`."""
    with av.open(io.BytesIO(init + fragments), "r") as container:
        for frame in container.decode(audio=0):
            assert frame.pts is not None and frame.time_base is not None
            times = float(frame.pts * frame.time_base) + np.arange(frame.samples) / frame.sample_rate
            loud = np.flatnonzero((np.abs(frame.to_ndarray()[0]) > LOUD) & (times >= after))
            if len(loud):
                return float(times[loud[0]])
    return None


async def say(stream: Stream, samples: np.ndarray, after: float) -> dict[str, float]:
    """Speak out of silence, later in the stream than `after`: seconds until it is seen, and by which it is heard later than that."""
    began = time.monotonic()
    await stream.speak(samples, RATE)
    started = await stream.until(lambda message: message.type == "speech_started" and message.fields["time"] > after, 600)
    moment = started.fields["time"]
    seconds = {"speech to its first frame": await stream.until_shown(moment, 600) - began}
    await stream.until_shown(moment + 1, 600)
    init, fragments = stream.media[-1]
    heard = onset(init, b"".join(fragments), moment - 0.5)
    silence = np.flatnonzero(np.abs(samples) > LOUD * 32767)[0] / RATE  # what the recording begins with
    if heard is not None:
        seconds["sound after picture"] = heard - silence - moment
    return seconds


async def reactions(client: Client, portrait: bytes | None, samples: np.ndarray) -> dict[str, float]:
    """Seconds from one's own doing to what is seen of it, once."""
    seconds = {}
    began = time.monotonic()
    session = await client.open(portrait)
    async with client.stream(session, WINDOW) as stream:
        seconds["open to first frame"] = await stream.until_shown(0, 600) - began
        await stream.until_shown(1, 600)
        seconds |= await say(stream, samples, 0.0)
        began = time.monotonic()
        await stream.control("interrupt")
        answer = await stream.until("interrupted", 600)
        seconds["interrupt to answer"] = answer.at - began
        seconds["interrupt to silence"] = await stream.until_shown(answer.fields["time"], 600) - began
        resumed = await stream.until("resumed", 600)
        seconds["interrupt to idle"] = await stream.until_shown(resumed.fields["time"], 600) - began
        await stream.control("close")
        await stream.until("closed")
    return seconds


async def rest(client: Client) -> None:
    """Wait until the chunk is done that the last session left unfinished: the next one's first frame would wait for it."""
    await asyncio.sleep(0.1 + 1.5 * (await client.capacity())["chunk_seconds"])


class Talk:
    """One session that is spoken to without a pause, as fast as one speaks. Counted from its first second on."""

    def __init__(self) -> None:
        self.skews: list[float] = []
        self.arrivals: list[float] = []  # of fragments
        self.again: dict[str, float] = {}
        self.first: Message | None = None  # `stats`
        self.last: Message | None = None
        self.stream: Stream | None = None
        self.began, self.free = asyncio.Event(), asyncio.Event()  # it talks; it may leave

    async def run(self, client: Client, portrait: bytes | None, samples: np.ndarray, minutes: float) -> None:
        session = await patiently(client, portrait)
        async with client.stream(session, WINDOW) as self.stream:
            await self.stream.until_shown(1, 600)
            talking = asyncio.create_task(self._speak(samples))
            self.first = self.last = await self.stream.until("stats", 600)
            self.began.set()
            end = self.first.at + 60 * minutes
            async for message in self.stream:
                self.skews.append(_skew(self.stream))
                self.arrivals += [message.at] if message.type == "media" else []
                self.last = message if message.type == "stats" else self.last
                if message.at > end and self.last is not self.first:
                    break
            talking.cancel()
            if self.last.at < end - 5:
                raise ConnectionError(f"a session ended after {self.last.at - self.first.at:.0f} s")
            await self.free.wait()
            # Once more as in the beginning, to see what has drifted.
            await self.stream.control("interrupt")
            await self.stream.until("interrupted", 600)
            silent = (await self.stream.until("resumed", 600)).fields["time"] + 1
            await self.stream.until_shown(silent, 600)
            self.again = await say(self.stream, samples, silent)
            await self.stream.control("close")

    async def _speak(self, samples: np.ndarray) -> None:
        assert self.stream is not None
        while True:
            await self.stream.speak(samples, RATE, pace=1)

    @property
    def late(self) -> int:
        """Late frames so far."""
        return self.last.fields["frames_late"] - self.first.fields["frames_late"] if self.first and self.last else 0

    def summary(self) -> dict[str, float]:
        first, last = self.first, self.last
        assert first and last
        wall, shown = last.at - first.at, last.fields["time"] - first.fields["time"]
        gaps = np.diff(self.arrivals)
        return {
            "seconds": wall,
            "video seconds a second": shown / wall,
            "new frames a second": (25 * shown - self.late) / wall,
            "real-time factor": (25 * shown - self.late) / (25 * wall),
            "late frames": self.late,
            "longest wait for a fragment": float(gaps.max(initial=0.0)),
            "largest skew of a fragment": float(np.abs(self.skews).max(initial=0.0)),
            "chunk seconds": last.fields["chunk_seconds"],
            **{f"last {stage}": seconds for stage, seconds in last.fields["stages"].items()},
            **{f"{name}, in the end": seconds for name, seconds in self.again.items()},
        }


async def watch(client: Client, talks: list[Talk], began: float) -> dict[str, float | None]:
    """Where all of them are at this moment."""
    chunks = [talk.last.fields["chunk_seconds"] for talk in talks if talk.last]
    return {
        "seconds": time.monotonic() - began,
        "server MiB": await memory(client),
        "late frames": sum(talk.late for talk in talks),
        "chunk seconds": max(chunks, default=None),
    }


async def talk(
    client: Client, portrait: bytes | None, samples: np.ndarray, minutes: float, sessions: int, result: dict[str, Any]
) -> AsyncIterator[dict[str, float | None]]:
    """Sessions that talk at the same time: yields where they are every few seconds, and puts what each of them was into `result`.

    Where they are all that fit, as many again ask to be let in meanwhile.
    """
    talks = [Talk() for _ in range(sessions)]

    async def others() -> None:
        await asyncio.gather(*(talk.began.wait() for talk in talks))
        if sessions == result["capacity"]["sessions"]:
            result["beyond capacity"] = await crowd(client, portrait, sessions)
        for talk in talks:
            talk.free.set()

    running = asyncio.gather(others(), *(talk.run(client, portrait, samples, minutes) for talk in talks))
    began = time.monotonic()
    while not running.done():
        yield await watch(client, talks, began)
        await asyncio.wait([running], timeout=EVERY)
    await running
    yield await watch(client, talks, began)
    result["talking"] = [talk.summary() for talk in talks]


async def visits(client: Client, portrait: bytes | None, samples: np.ndarray, count: int) -> list[dict[str, float | None]]:
    """Sessions that come and go, one after another, every second one cut off in the middle of speech; memory over them."""
    rows = []
    for number in range(count):
        if number % max(1, count // 50) == 0:
            rows.append({"sessions": number, "server MiB": await memory(client)})
        session = await patiently(client, portrait)
        async with client.stream(session, WINDOW) as stream:
            await stream.until("media_init", 600)
            await stream.send(samples)
            if number % 2:
                stream.cut()
        await client.close(session)
    return [*rows, {"sessions": count, "server MiB": await memory(client)}]


async def patiently(client: Client, portrait: bytes | None) -> str:
    """Open a session, as late as the server wants it."""
    while True:
        try:
            return await client.open(portrait)
        except Refused as refused:
            if refused.retry_after is None:
                raise
            await asyncio.sleep(refused.retry_after)


async def crowd(client: Client, portrait: bytes | None, count: int) -> dict[str, float]:
    """So many more sessions than fit: how they are refused."""
    refused, longest = 0, 0.0
    for _ in range(count):
        began = time.monotonic()
        try:
            await client.close(await client.open(portrait))
        except Refused as answer:
            refused += answer.code == "at_capacity"
        longest = max(longest, time.monotonic() - began)
    return {"asked": count, "refused": refused, "longest answer": longest}


def _skew(stream: Stream) -> float:
    """How far the sound of the last fragment reaches beyond its pictures, in seconds."""
    init, fragments = stream.media[-1]
    if not fragments:
        return 0.0
    ends = {}
    with av.open(io.BytesIO(init + fragments[-1]), "r") as container:
        for packet in container.demux():
            if packet.pts is not None and packet.duration:
                ends[packet.stream.type] = float((packet.pts + packet.duration) * packet.time_base)
    return ends.get("audio", 0.0) - ends.get("video", 0.0)


async def memory(client: Client) -> float | None:
    """Resident MiB of the server, where it tells."""
    try:
        lines = (await client.request("GET", "/metrics")).text.splitlines()
    except Refused:  # a session token may not see it
        return None
    return next((float(line.split()[1]) / 2**20 for line in lines if line.startswith("process_resident_memory_bytes ")), None)


async def job(client: Client, portrait: bytes | None) -> dict[str, float]:
    """The shipped recording as a job: from its request until the MP4 is here, and its chunks alone, by the server's clock."""
    began = time.monotonic()
    state = [state async for state in client.job((media.SAMPLES / "speech.flac").read_bytes(), portrait)][-1]
    if state["state"] != "done":
        raise ValueError(f"the job ended as {state['state']}: {state['error']}")
    await client.job_result(state["id"])
    seconds = time.monotonic() - began
    return {
        "frames": state["frames"],
        "request to video, seconds": seconds,
        "request to video, frames/s": state["frames"] / seconds,
        "server's clock, seconds": state["seconds"],
        "server's clock, frames/s": state["frames"] / state["seconds"],
    }
