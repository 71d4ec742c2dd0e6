"""Two replicas, processes of their own, behind the router: affinity, draining, and a replica that is killed."""

import asyncio
import contextlib
import io
import signal
import socket
import threading

import av
import httpx2
import numpy as np
import pytest
import uvicorn
from PIL import Image

from livetalk_jax import media
from livetalk_jax.flags import UsageError
from livetalk_jax.serving.client import Client, Refused
from livetalk_jax.serving.conversation import Conversation
from livetalk_jax.serving.router import Router, create_app, main
from livetalk_jax.serving.server import uvicorn_config
from livetalk_jax.serving.tokens import Guard
from tests.serving.card import TestCard, read
from tests.serving.conftest import running
from tests.serving.test_http import half_posted
from tests.serving.test_process import card_server, free_port


@contextlib.contextmanager
def routed(urls):
    """The router in a thread; yields (its address, itself)."""
    router = Router(urls)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # whoever comes before the server waits
        web = uvicorn.Server(uvicorn_config(create_app(router)))
        thread = threading.Thread(target=lambda: asyncio.run(web.serve([listening])), name="router")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", router
        finally:
            web.should_exit = True
            thread.join(60)


def frames_of(stream):
    """Numbers of the first frames, as far as they came without a gap."""
    init, fragments = stream.media[0]
    with av.open(io.BytesIO(init + b"".join(fragments)), "r") as container:
        return [read(frame.to_ndarray(format="rgb24"))[0] for frame in container.decode(video=0)]


async def until(messages, condition):
    """Read on until it holds; the message after which it did."""
    async with asyncio.timeout(120):
        async for message in messages:
            if condition():
                return message
    raise AssertionError("the conversation ended")


async def both_ready(client, router):
    async with asyncio.timeout(120):
        while len(router.freest()) < 2:
            await asyncio.sleep(0.05)


def test_a_killed_replica_and_a_draining_one():
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    portrait = io.BytesIO()
    Image.fromarray(np.full((64, 96, 3), 9, np.uint8)).save(portrait, "PNG")

    async def where(session):
        """Which replicas have it, asked directly."""
        found = []
        async with httpx2.AsyncClient(verify=False, timeout=60) as direct:
            for i, url in enumerate(urls):
                with contextlib.suppress(httpx2.TransportError):
                    found += [i] * ((await direct.get(f"{url}/v1/sessions/{session}")).status_code == 200)
        return found

    async def carried_on(conversation, messages, stop):
        """Watch, stop the replica; what the conversation shows next goes on from its last frame."""
        before = conversation.stream
        await until(messages, lambda: before.covered and before.covered[-1][1] > 1.0)
        stop()
        hello = await until(messages, lambda: conversation.stream is not before)
        assert hello.type == "session" and hello.fields["generation"] == conversation.generation == 1
        await until(messages, lambda: conversation.stream.covered and conversation.stream.covered[-1][1] > 0.5)
        numbers = frames_of(conversation.stream)
        assert numbers[0] == read(before.last_frames(1)[0])[0] + 1 and set(np.diff(numbers)) <= {0, 1}

    async def talk(servers, router, url):
        async with Client(url) as client:
            await both_ready(client, router)
            # Sessions spread, each stays where it is, and a router that was started anew finds them.
            sessions = [await client.open(portrait.getvalue()) for _ in range(4)]
            places = [await where(session) for session in sessions]
            assert all(len(place) == 1 for place in places) and {place[0] for place in places} == {0, 1}
            router._places.clear()
            for session in sessions:
                assert (await client.request("GET", f"/v1/sessions/{session}")).json()["id"] == session
            assert (await client.request("GET", "/")).text.startswith("<!doctype html>")
            with pytest.raises(Refused) as refusal:
                await client.request("GET", "/v1/sessions/nobody")
            assert refusal.value.code == "not_found"

            for session in sessions:
                await client.close(session)
            conversation = Conversation(client, portrait.getvalue())
            messages = aiter(conversation)
            await until(messages, lambda: conversation.stream)
            await conversation.control("interrupt")
            await until(messages, lambda: conversation.generation == 1)
            first = conversation.session
            (doomed,) = await where(first)
            await carried_on(conversation, messages, servers[doomed].kill)
            assert await where(conversation.session) == [1 - doomed]
            async with client.stream(first) as stream:
                assert (await stream.until("error")).fields["code"] == "not_found"

            # The other is told to end; the third takes over, and the client leaves before it must.
            with card_server(ports[doomed]) as third:
                await both_ready(client, router)
                await carried_on(conversation, messages, lambda: servers[1 - doomed].send_signal(signal.SIGTERM))
                assert await asyncio.to_thread(servers[1 - doomed].wait, 60) == 0
                assert await where(conversation.session) == [doomed]
                assert third.poll() is None
                await conversation.control("close")
                assert [message.type async for message in messages][-1] == "closed"

    with card_server(ports[0], 120.0) as first, card_server(ports[1], 120.0) as second, routed(urls) as (url, router):
        asyncio.run(talk([first, second], router, url))


def test_jobs_are_where_they_were_made(url):
    async def work(routed_url, router):
        async with Client(routed_url) as client:
            async with asyncio.timeout(60):
                while not router.freest():
                    await asyncio.sleep(0.05)
            states = [state async for state in client.job((media.SAMPLES / "speech.flac").read_bytes())]
            assert states[-1]["state"] == "done"
            video = await client.job_result(states[-1]["id"])
        with av.open(io.BytesIO(video)) as container:
            assert sum(1 for _ in container.decode(video=0)) == states[-1]["frames"]

    with routed([url, "http://127.0.0.1:1"]) as (routed_url, router):
        asyncio.run(work(routed_url, router))


def test_nobody_there():
    async def ask(url):
        async with Client(url) as client:
            with pytest.raises(Refused) as refusal:
                await client.open()
            return refusal.value

    with routed(["http://127.0.0.1:1"]) as (url, _):
        refused = asyncio.run(ask(url))
    assert (refused.status, refused.retryable, refused.retry_after) == (503, True, 5)


def test_bodies_that_do_not_come(monkeypatch):
    monkeypatch.setattr("livetalk_jax.serving.router.BODY_SECONDS", 0.2)
    with routed(["http://127.0.0.1:1"]) as (url, _):
        assert half_posted(url, "/v1/sessions") == (408, "too_slow")


def test_a_mistake_of_the_router(monkeypatch, caplog):
    async def fail(self, request):
        raise RuntimeError("a secret")

    monkeypatch.setattr(Router, "http", fail)
    with routed(["http://127.0.0.1:1"]) as (url, _):
        answer = httpx2.get(f"{url}/v1/sessions/x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal") and "secret" not in answer.text
    (record,) = (record for record in caplog.records if record.name == "livetalk_jax.serving.router" and record.exc_info)
    assert record.session == "x"


def test_a_replica_that_is_asked_too_often_is_not_lost():
    async def look(url):
        router = Router([url])
        for _ in range(2):
            await router._look(router.replicas[0])
        return httpx2.get(f"{url}/v1/capacity").status_code, len(router.freest())

    with running(TestCard(), requests_per_second=0.001) as (url, server):
        server.strangers._burst = 1
        assert asyncio.run(look(url)) == (429, 1)


@pytest.mark.parametrize(("keys", "admitted"), [([], 0), (["key"], 1)])
def test_a_public_router_leaves_out_replicas_that_ask_nobody(keys, admitted):
    async def look(url):
        router = Router([url], public=True)
        await router._look(router.replicas[0])
        await router._look(router.replicas[0])
        return len(router.freest())

    with running(TestCard(), guard=Guard(keys)) as (url, _):
        assert asyncio.run(look(url)) == admitted


@pytest.mark.parametrize("arguments", [[], ["--replica", "somewhere"], ["--replica=http://a:1", "stray"], ["--unknown=1"]])
def test_wrong_arguments(arguments):
    with pytest.raises(UsageError):
        main(["livetalk route", *arguments])
