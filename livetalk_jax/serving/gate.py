"""What a request passes before any route, and the one shape in which it is told no."""

import asyncio
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.metrics import Metrics

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def refuse(error: ServingError, metrics: Metrics) -> JSONResponse:
    """The answer that an error is over HTTP."""
    if error.status in (429, 503):
        metrics.refused.labels(error.code).inc()
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error.body()}, error.status, headers)


class Gate:
    """ASGI middleware: bodies up to a limit, and no pages of other sites, which could otherwise use a server that listens on this
    machine only.

    Args:
        body_bytes, body_seconds: of a request at most.
        origins: other sites whose pages may use the server.
        local: only requests to a loopback name are let in.
    """

    def __init__(self, app, body_bytes: int, body_seconds: float, origins: tuple[str, ...], local: bool, metrics: Metrics):
        self._app, self._metrics = app, metrics
        self._body_bytes, self._body_seconds = body_bytes, body_seconds
        self._origins, self._local = origins, local

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        deadline: float | None = asyncio.get_running_loop().time() + self._body_seconds  # None: all of it is here
        seen, too_large = 0, ServingError("too_large", f"a request's body may have {self._body_bytes:,} bytes")
        error = self._stranger(headers.get("host", ""), headers.get("origin"))
        if not error and int(headers.get("content-length", "0")) > self._body_bytes:
            error = too_large
        if error and scope["type"] == "http":
            return await refuse(error, self._metrics)(scope, receive, send)
        if error:
            return await send({"type": "websocket.close", "code": 1008, "reason": error.code})

        async def receive_counted():
            # HTTPException is the one kind that FastAPI's form parser lets through.
            nonlocal seen, deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"a request's body must come within {self._body_seconds:g} s") from None
            if not message.get("more_body", False):
                deadline = None
            seen += len(message.get("body", b""))
            if seen > self._body_bytes:
                raise HTTPException(too_large.status, too_large.message)
            return message

        await self._app(scope, receive_counted if scope["type"] == "http" else receive, send)

    def _stranger(self, host: str, origin: str | None) -> ServingError | None:
        try:
            name, from_here = urlsplit(f"//{host}").hostname, origin is None or urlsplit(origin).netloc == host
        except ValueError:
            return ServingError("bad_request", "the headers Host and Origin must be addresses")
        # A name of somebody else's may lead here too (DNS rebinding).
        if self._local and name not in LOOPBACK:
            return ServingError("forbidden", "without API keys this server answers to localhost only")
        if from_here or origin in self._origins:
            return None
        return ServingError("forbidden", "pages of this origin may not use this server; --allow_origin would let them")
