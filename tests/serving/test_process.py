"""The server as a process: how it starts, drains and ends; and serve.py once with networks, once over two processes."""

import asyncio
import contextlib
import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx2
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import serve
from livetalk_jax.flags import UsageError
from livetalk_jax.serving.client import Client, Refused
from livetalk_jax.serving.tokens import LOCAL
from tests.serving.card import SIZE

ROOT = Path(__file__).parents[2]
CARD = """
import sys, threading, time
from livetalk_jax.serving import logs
from livetalk_jax.serving.app import Server
from livetalk_jax.serving.engine import Engine, Limits
from livetalk_jax.serving.metrics import Metrics
from livetalk_jax.serving.server import Listen, serve
from tests.serving.card import TestCard

card = TestCard()

def load():
    {load}
    return card

logs.configure()
serve(Server(engine=Engine(load, Limits(sessions=3), Metrics())), Listen(port={port}, grace={grace}))
"""


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def process(command, **variables):
    """A running server; its log is in `stderr`. variables: of its environment."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", **variables}
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


def card_server(port, grace=30.0, load="pass"):
    return process([sys.executable, "-c", textwrap.dedent(CARD).format(port=port, grace=grace, load=load)])


async def until_it_answers(url, path, status):
    async with httpx2.AsyncClient(base_url=url) as http, asyncio.timeout(120):
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if (await http.get(path)).status_code == status:
                    return
            await asyncio.sleep(0.05)


def test_draining_lets_sessions_end():
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    async def talk(server):
        async with Client(url) as client:
            await client.until_ready(120)
            session = await client.open()
            async with client.stream(session) as stream:
                await stream.until("media_init")
                server.send_signal(signal.SIGTERM)
                assert (await stream.until("draining")).fields["seconds"] == 300
                await until_it_answers(url, "/readyz", 503)
                with pytest.raises(Refused) as refused:
                    await client.open()
                assert refused.value.code == "draining" and refused.value.retryable
                await stream.until_shown(stream.covered[-1][1] if stream.covered else 0)  # it still runs
                await stream.control("close")
        return session

    with card_server(port, grace=300.0) as server:
        session = asyncio.run(talk(server))
        assert server.wait(60) == 0
        log = server.stderr.read()
    assert "Traceback" not in log
    opened, closed = (json.loads(line) for line in log.splitlines() if '"message": "session ' in line)
    assert opened["session"] == closed["session"] == session and closed["reason"] == "client"


def test_after_the_grace_time_sessions_are_ended():
    port = free_port()

    async def talk(server):
        async with Client(f"http://127.0.0.1:{port}") as client:
            await client.until_ready(120)
            async with client.stream(await client.open()) as stream:
                await stream.until("media_init")
                server.send_signal(signal.SIGTERM)
                assert (await stream.until("closed")).fields["reason"] == "shutting_down"

    with card_server(port, grace=0.3) as server:
        asyncio.run(talk(server))
        assert server.wait(60) == 0


def test_ending_while_the_model_is_compiled():
    """Health is answered at once, readiness is not, and nobody waits for the compiler."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with card_server(port, load="threading.Event().wait()") as server:
        asyncio.run(until_it_answers(url, "/healthz", 200))
        with httpx2.Client(base_url=url) as http:
            assert http.get("/readyz").status_code == 503
            refused = http.post("/v1/sessions")
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "warming_up"
            assert int(refused.headers["retry-after"]) > 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_a_model_that_cannot_be_loaded_ends_the_process():
    with card_server(free_port(), load="raise OSError('no checkpoint in there')") as server:
        assert server.wait(60) == 1
        assert "no checkpoint in there" in server.stderr.read()


def test_a_model_that_is_lost_ends_the_process():
    """Its sessions are told before."""
    port = free_port()
    after_warm_up = "step = card.step; card.step = lambda *what: step(*what) if card.steps < 4 else 1 / 0"

    async def talk():
        async with Client(f"http://127.0.0.1:{port}") as client:
            await client.until_ready(120)
            async with client.stream(await client.open()) as stream:
                assert (await stream.until("error")).fields["code"] == "model_failed"
                assert (await stream.until("closed")).fields["reason"] == "model_failed"

    with card_server(port, load=after_warm_up) as server:
        asyncio.run(talk())
        assert server.wait(60) == 1
        log = server.stderr.read()
    assert "the model is lost" in log


# serve.py


def test_who_is_let_in(monkeypatch):
    monkeypatch.delenv("LIVETALK_API_KEYS", raising=False)
    assert serve.guard_for("127.0.0.1").who(None) == LOCAL
    with pytest.raises(UsageError, match="LIVETALK_API_KEYS"):
        serve.guard_for("0.0.0.0")
    monkeypatch.setenv("LIVETALK_API_KEYS", "one,two")
    assert serve.guard_for("0.0.0.0").who("two") == "key"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--host", "0.0.0.0"], "LIVETALK_API_KEYS"),
        (["--size", "1x1"], "--size 1x1 is none of the configuration's: "),
        (["--tls_cert", "x"], "--tls_cert and --tls_key go together"),
        (["--checkpoint", "/nowhere"], "/nowhere"),
        (["--sessions", "0"], "sessions"),
    ],
)
def test_wrong_options_are_one_line(arguments, line, monkeypatch, tmp_path):
    monkeypatch.delenv("LIVETALK_API_KEYS", raising=False)
    with pytest.raises((UsageError, OSError, ValueError)) as error:
        serve.main(["serve.py", "--port", "0", *arguments])
    assert line in str(error.value) and "\n" not in str(error.value)


def certificate(folder):
    """The flags of one for localhost, and what trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(signed.public_bytes(pem))
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return ["--tls_cert", str(cert), "--tls_key", str(private)], ssl.create_default_context(cafile=str(cert))


def test_serve_py_with_networks(tmp_path):
    """The shipped ones, on few small frames; over HTTPS and WSS."""
    port = free_port()
    tls, trusted = certificate(tmp_path)
    stream = {"buckets": "((32,48),)", "frames": 13, "audio_context_seconds": 1}
    small = [f"--config.stream.{name}={value}" for name, value in stream.items()] + ["--config.sampler.steps=1"]

    async def talk():
        async with Client(f"https://localhost:{port}", verify=trusted) as client:
            await client.until_ready(400)
            session = await client.open()
            async with client.stream(session) as stream:
                await stream.until_shown(0.2, 120)
                await stream.speak(np.full(24_000, 9000, np.int16), 24_000)
                await stream.until("speech_started", 120)
                await stream.control("interrupt")
                await stream.until("resumed", 120)
                motion = await client.motion(session)
                await stream.control("close")
                await stream.until("closed")
            carried = await client.open(motion=motion)
            async with client.stream(carried) as stream:
                await stream.until_shown(0.1, 120)
            return stream.decode()

    with process([sys.executable, "serve.py", "--config", "tiny", *small, "--port", str(port), *tls]) as server:
        frames, _, _ = asyncio.run(talk())
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert frames.shape[1:] == (32, 48, 3)
    assert np.ptp(frames[-1].astype(int)) > 10 and SIZE != (32, 48)


FOLLOWED = """
import sys
import serve
from tests.serving.card import TestCard

serve.load = lambda *_: TestCard(0.6)
serve.main(sys.argv)
"""


def test_serve_py_over_two_processes():
    """The first serves and takes the other along; told to end, both do with 0, though a chunk is under way."""
    port = free_port()
    world = {"LIVETALK_COORDINATOR": f"127.0.0.1:{free_port()}", "LIVETALK_PROCESSES": "2"}
    command = [sys.executable, "-c", FOLLOWED, "--config", "tiny", "--config.parallel.devices=2", "--port", str(port)]

    async def talk(servers):
        async with Client(f"http://127.0.0.1:{port}") as client:
            await client.until_ready(120)
            async with client.stream(await client.open()) as stream:
                await stream.until("media_init")
                for server in servers:
                    server.send_signal(signal.SIGTERM)
                await stream.until("draining")
                await stream.until_shown(0.4)  # the second chunk is under way
                await stream.control("close")
                await stream.until("closed")

    with process(command, **world, LIVETALK_PROCESS="0") as first, process(command, **world, LIVETALK_PROCESS="1") as second:
        asyncio.run(talk([first, second]))
        assert (first.wait(60), second.wait(60)) == (0, 0)
