"""Servers of the test card, on real sockets of this machine."""

import asyncio
import contextlib
import socket
import threading

import pytest
import uvicorn

from livetalk_jax.serving.app import Server, create_app
from livetalk_jax.serving.engine import Engine, Limits
from livetalk_jax.serving.metrics import Metrics
from livetalk_jax.serving.server import uvicorn_config
from tests.serving.card import TestCard


@contextlib.contextmanager
def running(card: TestCard, limits: Limits | None = None, ping: float = 10, send_buffer: int = 0, **options):
    """A server in a thread of its own; yields (its address, its `Server`). send_buffer: bytes of a connection's, 0 for the usual."""
    ready, holder = threading.Event(), {}

    async def main():
        server = Server(engine=Engine(lambda: card, limits or Limits(sessions=8), Metrics()), **options)
        with socket.socket() as listening:
            if send_buffer:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
            listening.bind(("127.0.0.1", 0))
            listening.listen()  # whoever comes before the server waits
            config = uvicorn_config(create_app(server), ping)
            web = uvicorn.Server(config)
            holder.update(server=server, web=web, url=f"http://127.0.0.1:{listening.getsockname()[1]}")
            serving = asyncio.create_task(web.serve([listening]))
            while not server.engine.ready and not serving.done():
                await asyncio.sleep(0.01)
            ready.set()
            await serving

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="server")
    thread.start()
    assert ready.wait(60)
    try:
        yield holder["url"], holder["server"]
    finally:
        card.gate.set()
        holder["web"].should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def card():
    return TestCard(0.01)


@pytest.fixture(scope="module")
def server(card):
    """(address, `Server`) of one that a module's tests share."""
    with running(card) as found:
        yield found


@pytest.fixture
def url(server):
    return server[0]
