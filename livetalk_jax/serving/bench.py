"""`livetalk bench serving`: a server as its clients see it, measured from outside by this process's clock.

What is measured in the video (where speech begins in it, how far it reaches) is read out of the bytes that arrived.
"""

import asyncio
import datetime
import io
import json
import os
import shlex
import statistics
import time
from pathlib import Path

import av
import numpy as np
from absl import flags as absl_flags

from livetalk_jax import flags, media
from livetalk_jax.serving.client import Client, Message, Stream

RATE = 24_000
LOUD = 0.02  # where speech begins, of full scale
WINDOW = 64  # fragments that a soak remembers, ten seconds


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("url", "http://127.0.0.1:8000", "The server.", flag_values=values)
    absl_flags.DEFINE_integer("repeats", 5, "Times that starts and interruptions are measured.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_float("minutes", 0.5, "How long to talk without a pause; 30 for a soak.", lower_bound=0, flag_values=values)
    absl_flags.DEFINE_integer("sessions", 1, "How many talk at a time.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_string("portrait", None, "A picture file; the server's own if left out.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Write the results to this JSON file too.", flag_values=values)


USAGE = """usage: livetalk bench serving --url http://127.0.0.1:8000 [--minutes 30] [--sessions 2] [--out FILE.json]

Credentials are taken from LIVETALK_CREDENTIAL: an API key, or a session token.
"""


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


async def reactions(client: Client, portrait: bytes | None, samples: np.ndarray) -> dict[str, float]:
    """Seconds from one's own doing to what is seen of it, once."""
    seconds = {}
    began = time.monotonic()
    session = await client.open(portrait)
    async with client.stream(session, WINDOW) as stream:
        seconds["open to first frame"] = await stream.until_shown(0, 600) - began
        await stream.until_shown(1, 600)
        began = time.monotonic()
        await stream.speak(samples, RATE)
        started = await stream.until("speech_started", 600)
        seconds["speech to its first frame"] = await stream.until_shown(started.fields["time"], 600) - began
        await stream.until_shown(started.fields["time"] + 1, 600)
        init, fragments = stream.media[-1]
        heard = onset(init, b"".join(fragments), started.fields["time"] - 0.5)
        silence = np.flatnonzero(np.abs(samples) > LOUD * 32767)[0] / RATE  # what the recording begins with
        if heard is not None:
            seconds["sound after picture"] = heard - silence - started.fields["time"]
        began = time.monotonic()
        await stream.control("interrupt")
        answer = await stream.until("interrupted", 600)
        seconds["interrupt to answer"] = answer.at - began
        seconds["interrupt to silence"] = await stream.until_shown(answer.fields["time"], 600) - began
        resumed = await stream.until("resumed", 600)
        seconds["interrupt to idle"] = await stream.until_shown(resumed.fields["time"], 600) - began
        await stream.control("close")
    return seconds


async def talk(client: Client, portrait: bytes | None, samples: np.ndarray, minutes: float) -> dict[str, float]:
    """One session that is spoken to without a pause, as fast as one speaks, from its first second on."""
    session = await client.open(portrait)
    async with client.stream(session, WINDOW) as stream:
        await stream.until_shown(1, 600)
        talking = asyncio.create_task(_keep_talking(stream, samples))
        first = last = await stream.until("stats", 600)
        skews, end = [], first.at + 60 * minutes
        async for message in stream:
            skews.append(_skew(stream))
            last = message if message.type == "stats" else last
            if message.at > end and last is not first:
                break
        talking.cancel()
        await stream.control("close")
        return _summary(stream, first, last, skews)


async def _keep_talking(stream: Stream, samples: np.ndarray) -> None:
    while True:
        await stream.speak(samples, RATE, pace=1)


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


def _summary(stream: Stream, first: Message, last: Message, skews: list[float]) -> dict[str, float]:
    wall = last.at - first.at
    shown = last.fields["time"] - first.fields["time"]
    late = last.fields["frames_late"] - first.fields["frames_late"]
    gaps = np.diff([at for at, _ in stream.covered])
    return {
        "seconds": wall,
        "video seconds a second": shown / wall,
        "new frames a second": (25 * shown - late) / wall,
        "real-time factor": (25 * shown - late) / (25 * wall),
        "late frames": late,
        "longest wait for a fragment": float(gaps.max(initial=0.0)),
        "largest skew of a fragment": float(np.abs(skews).max(initial=0.0)),
        "chunk seconds": last.fields["chunk_seconds"],
    }


async def memory(client: Client) -> float | None:
    """Resident bytes of the server, where it tells."""
    response = await client._http.get("/metrics")
    lines = response.text.splitlines() if response.status_code == 200 else []
    return next((float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes ")), None)


async def job(client: Client, portrait: bytes | None) -> dict[str, float]:
    """The shipped recording as a job: chunks one after another, as fast as the server makes them."""
    state = [state async for state in client.job((media.SAMPLES / "speech.flac").read_bytes(), portrait)][-1]
    if state["state"] != "done":
        raise ValueError(f"the job ended as {state['state']}: {state['error']}")
    return {"frames": state["frames"], "seconds": state["seconds"], "frames a second": state["frames"] / state["seconds"]}


async def measure(url: str, credential: str | None, portrait: bytes | None, repeats: int, minutes: float, sessions: int) -> dict:
    samples = speech()
    async with Client(url, credential) as client:
        await client.until_ready()
        result: dict = {"capacity": await client.capacity()}
        runs = [await reactions(client, portrait, samples) for _ in range(repeats)]
        names = dict.fromkeys(name for run in runs for name in run)
        result["reactions"] = {
            name: {"median": statistics.median(values), "longest": max(values)}
            for name in names
            if (values := [run[name] for run in runs if name in run])
        }
        before = await memory(client)
        result["talking"] = list(await asyncio.gather(*(talk(client, portrait, samples, minutes) for _ in range(sessions))))
        after = await memory(client)
        if before and after:
            result["server MiB"] = {"before": before / 2**20, "after": after / 2**20}
        result["job"] = await job(client, portrait)
    return result


def report(result: dict) -> str:
    """The table."""
    lines = [f"sessions at most {result['capacity']['sessions']}, chunk {result['capacity']['chunk_seconds']:.3f} s, "
             f"real-time factor {result['capacity']['realtime_factor']:.2f}"]  # fmt: skip
    for name, times in result["reactions"].items():
        lines.append(f"  {name:32}{times['median']:9.3f} s, longest {times['longest']:.3f} s")
    for number, session in enumerate(result["talking"], 1):
        lines.append(f"session {number}")
        lines += [f"  {name:32}{value:9.3f}" for name, value in session.items()]
    lines.append("job")
    lines += [f"  {name:32}{value:9.3f}" for name, value in result["job"].items()]
    if "server MiB" in result:
        lines.append("server's memory  {before:.0f} MiB before talking, {after:.0f} MiB after".format_map(result["server MiB"]))
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    values = absl_flags.FlagValues()
    define(values)
    if {"--help", "-h"} & set(argv):
        print(f"{USAGE}\n{values.get_help()}")
        return
    try:
        values(argv)
    except absl_flags.Error as error:
        raise flags.UsageError(str(error)) from error
    out = None if values.out is None else Path(values.out)
    if out is not None and not out.parent.is_dir():
        raise flags.UsageError(f"cannot write {out}: the folder {out.parent} does not exist")
    portrait = None if values.portrait is None else Path(values.portrait).read_bytes()
    about = {"command": " ".join(map(shlex.quote, argv[0].split() + argv[1:])), "date": datetime.date.today().isoformat()}
    credential = os.environ.get("LIVETALK_CREDENTIAL")
    result = about | asyncio.run(
        measure(values.url, credential, portrait, values.repeats, values.minutes, values.sessions)
    )  # fmt: skip
    print(report(result))
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n")
