"""The process: uvicorn around the application, and how it ends.

The first SIGTERM or Ctrl-C drains: not ready, no new sessions, those there are have a grace time to end, then exit 0. The second
ends at once.
"""

import asyncio
import contextlib
import logging
import os
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI

from livetalk_jax.serving.app import Server, create_app

logger = logging.getLogger(__name__)

MAX_MESSAGE = 2**20  # bytes of a WebSocket message


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where to listen, and how long sessions have to end when the process is told to."""

    host: str = "127.0.0.1"
    port: int = 8000
    tls_cert: str | None = None
    tls_key: str | None = None
    grace: float = 30.0


class _Uvicorn(uvicorn.Server):
    """uvicorn with our way of ending."""

    def __init__(self, config: uvicorn.Config, server: Server, grace: float):
        super().__init__(config)
        self._server, self._grace = server, grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task | None = None
        self.failed = False

    async def serve(self, sockets=None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame) -> None:
        if self._loop is None or self._draining is not None:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        async def drain() -> None:
            logger.info("draining", extra={"sessions": len(self._server.engine.sessions), "grace": self._grace})
            await self._server.engine.drain(self._grace)
            self.should_exit = True

        self._draining = self._draining or asyncio.ensure_future(drain())

    def fail(self) -> None:
        self.failed = self.should_exit = True


def uvicorn_config(app: FastAPI, ping: float = 10, **options: Any) -> uvicorn.Config:
    """How the application is served: sockets that do not answer pings are closed, video is not compressed once more."""
    return uvicorn.Config(
        app, ws="websockets-sansio", ws_max_size=MAX_MESSAGE, ws_ping_interval=ping, ws_ping_timeout=ping,
        ws_per_message_deflate=False, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=5,
        **options,
    )  # fmt: skip


def serve(server: Server, listen: Listen) -> NoReturn:
    """Serve until told to end, then end the process: 0, or 1 when the model or the address could not be had, or the model is lost."""
    web: list[_Uvicorn] = []
    app = create_app(server, on_failure=lambda: web[0].fail())
    config = uvicorn_config(
        app, host=listen.host, port=listen.port, ssl_certfile=listen.tls_cert, ssl_keyfile=listen.tls_key
    )  # fmt: skip
    web.append(_Uvicorn(config, server, listen.grace))
    logger.info("listening", extra={"url": f"{'https' if listen.tls_cert else 'http'}://{listen.host}:{listen.port}"})
    with contextlib.suppress(SystemExit):  # uvicorn's way to say that the address is taken
        web[0].run()
    code = 0 if web[0].started and not web[0].failed else 1
    logger.info("ended", extra={"code": code})
    # What computes may do so for minutes, if it compiles, for nobody; and JAX would wait for a process of several that is gone.
    if server.engine.computing or server.engine.lost:
        logging.shutdown()
        os._exit(code)
    sys.exit(code)
