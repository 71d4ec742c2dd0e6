"""livetalk route: one address before several replicas.

New sessions and jobs go to the replica with most room; what is about one of them goes to where it is. Which that is, the router
remembers or asks, so that it may be started anew at any time. A session whose replica is lost is not found any more: its client
opens another one, with the portrait and the last frames that it saw.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import uvicorn
import websockets
from absl import flags as absl_flags
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from livetalk_jax import flags
from livetalk_jax.serving import logs
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.gate import LOOPBACK
from livetalk_jax.serving.server import uvicorn_config

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
PATIENCE = httpx2.Timeout(5.0, read=None)  # to be reached; an answer may take long
ABOUT_ONE = re.compile(r"/v1/(sessions|jobs)/([^/]+)")
NEW = ("/v1/sessions", "/v1/jobs")
MAX_BODY, BODY_SECONDS = 32 * 2**20, 120.0  # of a request
REMEMBERED = 100_000
LOST = (httpx2.TransportError, OSError, TimeoutError, websockets.WebSocketException)
HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}


@dataclass(eq=False)
class Replica:
    """`room`: sessions that it would still admit; `ready`: whether it admits any."""

    url: str
    ready: bool = False
    room: int = 0


class Router:
    """Args:
    urls: of the replicas, such as http://10.0.0.1:8000.
    public: others than this machine may reach the router, so a replica that asks for no credentials is left out.
    """

    def __init__(self, urls: list[str], public: bool = False):
        self._public = public
        self.replicas = [Replica(url.rstrip("/")) for url in urls]
        self._places: OrderedDict[str, Replica] = OrderedDict()  # ids of sessions and jobs
        self._http = httpx2.AsyncClient(timeout=PATIENCE)

    async def watch(self) -> None:
        """Look after the replicas until cancelled."""
        async with self._http:
            while True:
                await asyncio.gather(*map(self._look, self.replicas))
                await asyncio.sleep(WATCH_SECONDS)

    async def _look(self, replica: Replica) -> None:
        was = replica.ready
        try:
            answer = await self._http.get(f"{replica.url}/v1/capacity", headers={"Host": "localhost"}, timeout=5.0)
            if answer.status_code == 429:
                return  # others ask too often from this address; it is what it was
            capacity = answer.json()
            replica.ready, replica.room = capacity["ready"], capacity["sessions"] - capacity["active"]
            if self._public and not was and replica.ready:
                stranger = await self._http.get(f"{replica.url}/v1/sessions/any", headers={"Host": "localhost"}, timeout=5.0)
                replica.ready = stranger.status_code == 401
                if not replica.ready:
                    logger.error("a replica would let everybody in; set LIVETALK_API_KEYS there", extra={"url": replica.url})
        except (*LOST, ValueError, KeyError):
            replica.ready = False
        if was != replica.ready:
            logger.info("replica", extra={"url": replica.url, "ready": replica.ready})

    def freest(self) -> list[Replica]:
        """Those that admit sessions, the one with most room first."""
        return sorted((replica for replica in self.replicas if replica.ready), key=lambda replica: -replica.room)

    async def place(self, connection: HTTPConnection) -> Replica | None:
        """Where the session or job is that a request is about."""
        found = ABOUT_ONE.match(connection.url.path)
        assert found is not None
        kind, name = found.groups()
        if name not in self._places:
            headers, query = self._headers(connection), connection.url.query
            for replica in self.replicas:
                with contextlib.suppress(*LOST):
                    asked = await self._http.get(f"{replica.url}/v1/{kind}/{name}?{query}", headers=headers, timeout=5.0)
                    if asked.status_code == 200:
                        self._remember(name, replica)
                        break
        return self._places.get(name)

    def _remember(self, name: str, replica: Replica) -> None:
        self._places[name] = replica
        if len(self._places) > REMEMBERED:
            self._places.popitem(last=False)

    def _forget(self, replica: Replica) -> None:
        """It does not answer: what was there is lost, or will be found again."""
        replica.ready = False
        self._places = OrderedDict((name, at) for name, at in self._places.items() if at is not replica)

    def _headers(self, connection: HTTPConnection) -> dict[str, str]:
        """As they came, so that the replica sees the host and origin that the browser sees; and who asks."""
        skipped = HOP_BY_HOP | {name for name in connection.headers if name.startswith(("sec-websocket", "x-forwarded"))}
        kept = {name: value for name, value in connection.headers.items() if name not in skipped}
        return kept | {"x-forwarded-for": connection.client.host if connection.client else ""}

    # HTTP

    async def http(self, request: Request) -> Response:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > MAX_BODY:
                        return _refuse(ServingError("too_large", f"a request's body may have {MAX_BODY:,} bytes"))
        except TimeoutError:
            return _refuse(ServingError("too_slow", f"a request's body must come within {BODY_SECONDS:g} s"))
        new = request.method == "POST" and request.url.path in NEW
        refusal: Response
        if ABOUT_ONE.match(request.url.path):
            place = await self.place(request)
            if place is None:
                return _refuse(ServingError("not_found", "no replica has this session or job"))
            choices, refusal = [place], _refuse(ServingError("not_found", "the replica with this session or job is lost"))
        else:
            choices, refusal = self.freest(), _refuse(ServingError("at_capacity", "no replica can be reached", 5))
        for replica in choices:
            try:
                answer = await self._ask(replica, request, bytes(body))
            except LOST:
                self._forget(replica)
                continue
            if not (new and answer.status_code == 503):
                return await self._passed_on(answer, replica if new else None)
            refusal = await self._passed_on(answer, None)  # full, or about to end: the next one
        return refusal

    async def _ask(self, replica: Replica, request: Request, body: bytes) -> httpx2.Response:
        query = f"?{request.url.query}" if request.url.query else ""
        asked = self._http.build_request(
            request.method, f"{replica.url}{request.url.path}{query}", headers=self._headers(request), content=body
        )
        return await self._http.send(asked, stream=True)

    async def _passed_on(self, answer: httpx2.Response, made_at: Replica | None) -> Response:
        """The replica's answer; `made_at`: where what it tells of was made."""
        headers = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        if made_at is None and answer.status_code < 400:
            return StreamingResponse(_until_lost(answer), answer.status_code, headers)
        content = await answer.aread()
        if made_at is not None and answer.status_code in (201, 202):
            self._remember(json.loads(content)["id"], made_at)
            made_at.room -= 1
        headers.pop("content-encoding", None)
        return Response(content, answer.status_code, headers)

    # WebSocket

    async def socket(self, socket: WebSocket) -> None:
        await socket.accept()
        replica = await self.place(socket) if ABOUT_ONE.match(socket.url.path) else None
        if replica is None:
            return await self._lost(socket)
        at = httpx2.URL(replica.url)
        headers = self._headers(socket)
        address = f"ws://{headers.pop('host')}{socket.url.path}?{socket.url.query}"
        try:
            async with websockets.connect(
                address, host=at.host, port=at.port or 80, additional_headers=headers, max_size=None, compression=None, proxy=None
            ) as inner:
                ways = {asyncio.create_task(_inwards(socket, inner)), asyncio.create_task(_outwards(socket, inner))}
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                if inner.close_code is not None:
                    # 1006 cannot be said: the replica is gone without a word.
                    code = 1012 if inner.close_code == 1006 else inner.close_code
                    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                        await socket.close(code, inner.close_reason or "")
        except LOST:
            self._forget(replica)
            await self._lost(socket)

    async def _lost(self, socket: WebSocket) -> None:
        error = ServingError("not_found", "no replica has this session; open another")
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.send_text(json.dumps({"type": "error", "time": 0, **error.body()}))
            await socket.close(1008, error.code)


def _refuse(error: ServingError) -> JSONResponse:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse({"error": error.body()}, error.status, headers)


async def _until_lost(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()


async def _inwards(socket: WebSocket, inner: websockets.ClientConnection) -> None:
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        data = message.get("bytes")
        await inner.send(message["text"] if data is None else data)


async def _outwards(socket: WebSocket, inner: websockets.ClientConnection) -> None:
    async for message in inner:
        await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))


def create_app(router: Router) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):
        watching = asyncio.create_task(router.watch())
        yield
        watching.cancel()

    app = FastAPI(title="LiveTalk-JAX router", lifespan=lifespan, openapi_url=None)

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        found = ABOUT_ONE.match(request.url.path)
        about = {found[1].removesuffix("s"): found[2]} if found else {}
        logger.error("a request failed", extra={"path": request.url.path, **about}, exc_info=error)
        return _refuse(ServingError("internal", "the router made a mistake; its log has more"))

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readiness(response: Response) -> dict[str, int]:
        ready = len(router.freest())
        response.status_code = 200 if ready else 503
        return {"ready": ready, "replicas": len(router.replicas)}

    @app.api_route("/{path:path}", methods=["GET", "POST", "DELETE", "OPTIONS"])
    async def http(request: Request) -> Response:
        return await router.http(request)

    app.add_api_websocket_route("/{path:path}", router.socket)
    return app


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_multi_string("replica", [], "A replica's address, http://HOST:PORT; one flag each.", flag_values=values)
    absl_flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.", flag_values=values)
    absl_flags.DEFINE_integer("port", 8000, "Port to listen on.", 0, 65_535, flag_values=values)
    absl_flags.DEFINE_string("tls_cert", None, "Certificate chain, PEM.", flag_values=values)
    absl_flags.DEFINE_string("tls_key", None, "The certificate's key, PEM.", flag_values=values)


def main(argv: list[str]) -> None:
    values = absl_flags.FlagValues()
    define(values)
    if {"--help", "-h"} & set(argv):
        return print(f"usage: {argv[0]} --replica http://HOST:PORT …\n{values.get_help()}")
    try:
        rest = values(argv)[1:]
    except absl_flags.Error as error:
        raise flags.UsageError(str(error)) from error
    if rest or not values.replica or not all(re.match("http://[^/]+/?$", url) for url in values.replica):
        raise flags.UsageError("give the replicas: --replica http://HOST:PORT, one flag each")
    logs.configure()
    app = create_app(Router(values.replica, public=values.host not in LOOPBACK))
    config = uvicorn_config(app, host=values.host, port=values.port, ssl_certfile=values.tls_cert, ssl_keyfile=values.tls_key)
    uvicorn.Server(config).run()
