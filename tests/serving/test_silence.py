"""Silence for an hour, then a word: through the engine, on a clock that is moved by hand, and the WebSocket's muxer.

`python -m tests.serving.test_silence` does the whole hour; the test only its last seconds, in a muxer that begins there.
"""

import asyncio
import resource
import tempfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np

from livetalk_jax.serving import websocket
from livetalk_jax.serving.fmp4 import AAC_RATE, FragmentMuxer
from livetalk_jax.serving.model import FPS, SAMPLE_RATE
from tests.serving.card import TestCard, read
from tests.serving.test_engine import HandClock, running, started, until, value

HOUR = 3600 * FPS
FOREVER = {"sessions": 1, "session_seconds": 1e9, "idle_seconds": 1e9}
SETTLED = 250  # frames after which memory may grow no more


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def keep_silent(path: Path, frames: int, begin: int) -> int:
    """Write what a client is sent, from the frame `begin` of its video on, with a word in the last three seconds.

    Returns:
        The bytes that the process grew by.
    """
    muxer = FragmentMuxer(*TestCard.sizes[0], begin)

    async def told(message):
        pass

    with path.open("wb") as file:

        async def sent(data):
            file.write(data)

        async with running(TestCard(), HandClock(), **FOREVER) as engine:
            live, output = await started(engine)
            stream = websocket._Stream(SimpleNamespace(send_bytes=sent, send_text=told), live)
            await sent(muxer.init)
            stream._muxer = muxer
            writing = asyncio.create_task(websocket._write_to(stream, output))
            settled = 0
            for number in range(1, frames):
                if number == SETTLED:
                    settled = resident()
                if number == frames - 3 * FPS:
                    grown = resident() - settled
                    live.push_audio(np.full(SAMPLE_RATE, 9000, np.int16), SAMPLE_RATE)
                    live.end_segment()
                await engine.clock.move(1 / FPS)
                await until(lambda: live.timeline.ahead > 2 and output._ticks < FPS)
            live.close("client")
            await writing
            await stream.close()
            assert live.late == output.dropped == value(engine, "audio_underruns_total") == 0
            assert live.timeline.ticks == frames and len(engine.metrics.text()) < 50_000
    return grown


def look_at(path: Path, frames: int, begin: int) -> None:
    """Every frame and every sample is there, at its very moment; the word is heard where it is seen."""
    times, samples = [], []
    with av.open(str(path), "r") as container:
        for packet in container.demux():
            if packet.pts is not None:
                (times if packet.stream.type == "video" else samples).append(packet.pts * packet.time_base)
    # The last fragment is sent when the next one begins.
    assert frames - len(times) <= 4 and times == [Fraction(number, FPS) for number in range(begin, begin + len(times))]
    assert all(after - before == Fraction(1024, AAC_RATE) for before, after in pairwise(samples))
    assert samples[0] == Fraction(begin, FPS) and abs(samples[-1] - times[-1]) < Fraction(2, FPS)

    with av.open(str(path), "r") as container:
        container.seek((begin + frames - 3 * FPS) * av.time_base // FPS)
        seen = heard = None
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                seen = frame.time if seen is None and read(frame.to_ndarray(format="rgb24"))[1] else seen
            elif heard is None and len(loud := np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.05)):
                heard = frame.time + loud[0] / AAC_RATE
    assert seen is not None and heard is not None and abs(seen - heard) < 0.01


def test_an_hour_of_silence_through_the_muxer(tmp_path):
    frames, path = 30 * FPS, tmp_path / "sent.mp4"
    begin = HOUR - frames + 4 * FPS  # the word is said when the hour is over
    assert asyncio.run(keep_silent(path, frames, begin)) < 4 * 2**20
    look_at(path, frames, begin)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sent.mp4"
        grown = asyncio.run(keep_silent(path, HOUR, 0))
        look_at(path, HOUR, 0)
        print(f"{HOUR:,} frames, {path.stat().st_size / 2**20:.1f} MiB sent; the process grew by {grown / 2**20:.2f} MiB")
