"""Sessions of the shipped networks that come, end in every way there is, and go: what stays in the server's process.

    python -m tests.serving.visits --sessions 1000 --out visits.json

Starts `serve.py` with 64×64 pictures in one step, which a core follows faster than real time, and visits it by sockets. After every
fifty sessions all of them have ended, and what the process holds is written down.
"""

import argparse
import asyncio
import ctypes
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import aioice.ice
import jax
import numpy as np
from prometheus_client import Gauge

import serve
from livetalk_jax import flags, media
from livetalk_jax.serving.client import Client
from livetalk_jax.serving.metrics import Metrics
from livetalk_jax.serving.probes import RATE, WINDOW, patiently, speech
from tests.serving.test_process import ROOT, free_port
from tests.serving.test_webrtc import Listener
from tests.sounds import wav_of

OPTIONS = [
    "--config", "tiny", "--config.sampler.steps=1", "--config.stream.buckets=((64,64),)", "--detached_seconds", "3",
    "--sessions", "8",
]  # fmt: skip
ENDINGS = (
    "closed", "killed", "deleted", "interrupted", "closed", "killed", "job", "interrupted", "webrtc", "never read", "killed",
    "cancelled job",
)  # fmt: skip
EVERY = 50  # sessions between two looks


def objects() -> int:
    """Python objects that somebody holds. What is free is given back to the system, as the server does every 20 s."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return len(gc.get_objects())


class Observed(Metrics):
    """What a server tells, and what lives in its process."""

    def __init__(self):
        super().__init__()
        figures = {
            "objects": objects,
            "arrays": lambda: len(jax.live_arrays()),
            "array_bytes": lambda: sum(array.nbytes for array in jax.live_arrays()),
        }
        for name, figure in figures.items():
            Gauge(f"observed_{name}", "Alive in the process.", registry=self.registry).set_function(figure)


async def look(client: Client, process: int) -> dict[str, float]:
    """What the server's process holds, once the last session has gone."""
    while (await client.capacity())["active"]:
        await asyncio.sleep(0.2)
    await asyncio.sleep(1.5)  # the last chunk, made for nobody
    told = dict(re.findall(r"^observed_(\w+) (\S+)$", (await client.request("GET", "/metrics")).text, re.MULTILINE))
    status = dict(re.findall(r"^(\w+):\s+(\d+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE))
    return {
        "resident MiB": round(int(status["VmRSS"]) / 1024, 1),
        "JAX arrays": int(float(told["arrays"])),
        "JAX arrays MiB": round(float(told["array_bytes"]) / 2**20, 3),
        "Python objects": int(float(told["objects"])),
        "threads": int(status["Threads"]),
        "open files": len(os.listdir(f"/proc/{process}/fd")),
    }


async def visit(client: Client, portrait: bytes, samples: np.ndarray, ending: str) -> None:
    """One session from its portrait on, to its end; a job is made after it, while others talk."""
    session = await patiently(client, portrait)
    if ending == "never read":
        return
    if ending == "webrtc":
        listener = Listener()
        await listener.connect(client, session)
        await listener.until(lambda: listener.frames)
        listener.microphone.speak()
        await listener.event("speech_started")
        await listener.close()
        return
    async with client.stream(session, WINDOW) as stream:
        await stream.until_shown(0, 600)
        await stream.speak(samples, RATE)
        if ending == "killed":
            await asyncio.sleep(0.1)  # the chunk of this speech is under way
            stream.cut()
            return
        await stream.until("speech_started", 600)
        if ending == "interrupted":
            await stream.control("interrupt")
            await stream.until("resumed", 600)
        if ending == "deleted":
            await client.close(session)
        else:
            await stream.control("close")
        await stream.until("closed", 600)
    if "job" in ending:
        async with aclosing(client.job(wav_of(samples, RATE), portrait)) as states:
            async for state in states:
                if ending == "cancelled job" and state["frames_done"]:
                    break
        if ending == "job":
            assert state["state"] == "done" and len(await client.job_result(state["id"])) > 1000, state
        await client.request("DELETE", f"/v1/jobs/{state['id']}")


async def visits(url: str, process: int, count: int, at_once: int) -> AsyncIterator[dict]:
    """Visit a server; yields a row before the first session, and after every `EVERY`."""
    portrait = (media.SAMPLES / "portrait.png").read_bytes()
    samples = speech()[: 2 * RATE]
    began = time.monotonic()
    async with Client(url) as client:
        await client.until_ready()
        for number in range(0, count + 1, EVERY):
            yield {"sessions": number, "seconds": round(time.monotonic() - began), **await look(client, process)}
            waiting = iter([ENDINGS[i % len(ENDINGS)] for i in range(number, min(number + EVERY, count))])

            async def some(waiting: Iterator[str]) -> None:
                for ending in waiting:
                    await visit(client, portrait, samples, ending)

            async with asyncio.TaskGroup() as visitors:
                for _ in range(at_once):
                    visitors.create_task(some(waiting))


async def main(arguments: argparse.Namespace) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tests.serving.visits", "serve", *OPTIONS, "--port", str(port)]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, cwd=ROOT, stderr=log, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        try:
            result = flags.invocation(["python -m tests.serving.visits", *sys.argv[1:]])
            result |= {"device": f"{os.cpu_count()} CPU cores", "server": " ".join(["python", "serve.py", *OPTIONS])}
            result |= {"endings": Counter(ENDINGS[i % len(ENDINGS)] for i in range(arguments.sessions)), "rows": []}
            async for row in visits(f"http://127.0.0.1:{port}", server.pid, arguments.sessions, arguments.at_once):
                print(row, flush=True)
                result["rows"].append(row)
                arguments.out.write_text(json.dumps(result, indent=1) + "\n")
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.wait()
            log.seek(0)
            said = log.read()
        reasons = Counter(json.loads(line)["reason"] for line in said.splitlines() if '"session closed"' in line)
        result["reasons that the server gives"] = reasons
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        assert "Traceback" not in said and '"level": "error"' not in said, said[-3000:]


if __name__ == "__main__":
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]  # for WebRTC, here and in the server
    if sys.argv[1:2] == ["serve"]:
        serve.Metrics = Observed
        serve.main(["serve.py", *sys.argv[2:]])  # ends the process
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--at_once", type=int, default=6)
    parser.add_argument("--out", type=Path, default="visits.json")
    asyncio.run(main(parser.parse_args()))
