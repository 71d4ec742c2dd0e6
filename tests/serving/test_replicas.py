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
from livetalk_jax.serving.router import Router, create_app, main
from livetalk_jax.serving.server import uvicorn_config
from livetalk_jax.serving.tokens import Guard
from tests.serving.card import TestCard, read
from tests.serving.conftest import running
from tests.serving.test_process import card_server, free_port


@contextlib.contextmanager
def routed(urls):
    """The router in a thread; yields (its address, itself)."""
    router = Router(urls)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
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

    async def carried_on(client, session, stream, stop):
        """Watch, stop the replica, carry on from the last frames elsewhere; the frames' numbers go on."""
        await stream.until_shown(1.0)
        motion = await client.motion(session)
        last = read(np.asarray(Image.open(io.BytesIO(motion)))[-64:])[0]
        generation = (await client.request("GET", f"/v1/sessions/{session}")).json()["generation"]
        await stop()
        other = await client.open(portrait.getvalue(), motion=motion, generation=generation)
        async with client.stream(other) as second:
            hello = await second.until("session")
            assert hello.fields["generation"] == generation == 1
            await second.until_shown(0.5)
            numbers = frames_of(second)
        assert numbers[0] == last + 1 and set(np.diff(numbers)) <= {0, 1}
        return other

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

            session, (doomed,) = sessions[0], places[0]
            for other in sessions[1:]:
                await client.close(other)
            async with client.stream(session) as stream:
                await stream.until("session")
                await stream.control("interrupt")
                await stream.until("interrupted")

                async def kill():
                    servers[doomed].kill()
                    with pytest.raises(ConnectionError):
                        await stream.until("closed")

                session = await carried_on(client, session, stream, kill)
            assert await where(session) == [1 - doomed]
            async with client.stream(sessions[0]) as stream:
                assert (await stream.until("error")).fields["code"] == "not_found"

            # The other is told to end; the third takes over, and the client leaves before it must.
            with card_server(ports[doomed]) as third:
                await both_ready(client, router)
                async with client.stream(session) as stream:

                    async def drain():
                        servers[1 - doomed].send_signal(signal.SIGTERM)
                        await stream.until("draining")

                    last = await carried_on(client, session, stream, drain)
                    await client.close(session)
                    await stream.until("closed")
                assert await asyncio.to_thread(servers[1 - doomed].wait, 60) == 0
                assert await where(last) == [doomed]
                assert third.poll() is None

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
