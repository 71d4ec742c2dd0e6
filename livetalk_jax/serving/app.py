"""The HTTP side: sessions, jobs, health, metrics and who may use them. FastAPI writes its OpenAPI at /openapi.json."""

import asyncio
import contextlib
import ctypes
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from fastapi import Depends, FastAPI, File, Form, Query, Request, Response, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect

from livetalk_jax import media
from livetalk_jax.serving import edges, uploads
from livetalk_jax.serving.engine import Engine
from livetalk_jax.serving.errors import CODES, ServingError
from livetalk_jax.serving.gate import Gate, refuse
from livetalk_jax.serving.jobs import Job, Jobs
from livetalk_jax.serving.limits import Buckets
from livetalk_jax.serving.live import LiveSession
from livetalk_jax.serving.tokens import LOCAL, Guard, may_touch
from livetalk_jax.serving.uploads import UploadLimits
from livetalk_jax.serving.views import Capacity, JobView, Session, Token, errors, session_view
from livetalk_jax.serving.websocket import serve_stream

logger = logging.getLogger(__name__)

TOKEN_SECONDS = 600
TIDY_SECONDS = 20.0
MAX_READERS = 4  # transports of one session
SHIPPED = {"portrait": media.SAMPLES / "portrait.png"}


@dataclass(kw_only=True)
class Server:
    """What the application is made of. origins: other sites whose pages may use it."""

    engine: Engine
    guard: Guard = field(default_factory=Guard)
    uploads: UploadLimits = field(default_factory=UploadLimits)
    origins: tuple[str, ...] = ()
    requests_per_second: float = 20.0
    jobs: Jobs = field(init=False)
    buckets: Buckets = field(init=False)  # of callers
    strangers: Buckets = field(init=False)  # of addresses: requests that need no credential, and credentials that were none

    def __post_init__(self):
        self.jobs = Jobs(self.engine)
        self.buckets, self.strangers = (Buckets(self.requests_per_second, 3 * self.requests_per_second) for _ in range(2))


_UPLOAD = errors("too_slow", "too_large", "unsupported_media", "unprocessable", "at_capacity", "not_found")
_FOUND = errors("not_found", "unprocessable")
_POSTED = errors("not_found", "unprocessable", "too_slow", "too_large")


async def _tidy() -> None:
    """Give what sessions freed back to the system now and then: glibc keeps it, in more and more pieces."""
    with contextlib.suppress(AttributeError):  # other C libraries have no such function
        trim = ctypes.CDLL(None).malloc_trim
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            await asyncio.to_thread(trim, 0)


def create_app(server: Server, on_failure: Callable[[], None] = lambda: None) -> FastAPI:
    """The application. on_failure: told when the model cannot be loaded, or is lost."""
    engine, guard, limits = server.engine, server.guard, server.uploads

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):
        running = asyncio.create_task(engine.run())

        def ended(task: asyncio.Task) -> None:
            if not task.cancelled() and (error := task.exception()):
                logger.error("the model is lost" if engine.lost else "the model could not be loaded", exc_info=error)
                on_failure()

        running.add_done_callback(ended)
        tidying = asyncio.create_task(_tidy())
        yield
        tidying.cancel()
        running.cancel()
        await engine.close_all("shutting_down")
        server.jobs.close()

    app = FastAPI(title="LiveTalk-JAX", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    app.add_middleware(
        CORSMiddleware, allow_origins=list(server.origins), allow_methods=["GET", "POST", "DELETE"], allow_headers=["Authorization"]
    )
    app.add_middleware(
        Gate, body_bytes=limits.body_bytes, body_seconds=limits.body_seconds, origins=server.origins, local=guard.open,
        metrics=engine.metrics,
    )  # fmt: skip

    # Errors: one shape

    @app.exception_handler(ServingError)
    async def serving_error(request: Request, error: ServingError) -> JSONResponse:
        return refuse(error, engine.metrics)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return refuse(ServingError("unprocessable", f"{where}: {first['msg']}"), engine.metrics)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        codes = {401: "unauthorized", 403: "forbidden", 404: "not_found", 408: "too_slow", 413: "too_large"}
        code = codes.get(error.status_code, "bad_request")
        body = {"code": code, "message": str(error.detail), "retryable": CODES[code].retryable}
        return JSONResponse({"error": body}, error.status_code, getattr(error, "headers", None))

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        about = {name: request.path_params[f"{name}_id"] for name in ("session", "job") if f"{name}_id" in request.path_params}
        logger.error("a request failed", extra={"path": request.url.path, **about}, exc_info=error)
        return refuse(ServingError("internal", "the server made a mistake; its log has more"), engine.metrics)

    # Who

    bearer = HTTPBearer(auto_error=False, description="An API key, or a session token of POST /v1/tokens")
    Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]

    def address(connection: HTTPConnection) -> str:
        return connection.client.host if connection.client else ""

    def identify(connection: HTTPConnection, credential: str | None) -> str:
        """Who asks. An address with too many wrong credentials waits before the next is looked at, so that nobody guesses."""
        if not server.strangers.has(address(connection), engine.clock.now()):
            raise ServingError("rate_limited", "too many wrong credentials; slow down", 1)
        try:
            return guard.who(credential)
        except ServingError:
            server.strangers.take(address(connection), engine.clock.now())
            raise

    def admit(connection: HTTPConnection, credential: str | None) -> str:
        """Who asks, if it is not too often."""
        who = identify(connection, credential)
        if not server.buckets.take(f"{who} {address(connection)}", engine.clock.now()):
            raise ServingError("rate_limited", "too many requests; slow down", 1)
        return who

    async def caller(request: Request, header: Bearer, token: str | None = Query(None)) -> str:
        in_address = token if request.method == "GET" else None  # where a page cannot set headers
        return admit(request, header.credentials if header else in_address)

    Caller = Annotated[str, Depends(caller)]

    async def operator(request: Request, header: Bearer) -> None:
        if identify(request, header.credentials if header else None) not in ("key", LOCAL):
            raise ServingError("unauthorized", "this needs an API key")

    async def visitor(request: Request) -> None:
        if not server.strangers.take(address(request), engine.clock.now()):
            raise ServingError("rate_limited", "too many requests; slow down", 1)

    Visitor = Depends(visitor)

    def find(name: str, who: str) -> LiveSession:
        live = engine.sessions.get(name)
        if live is None or not may_touch(who, live.owner):
            raise ServingError("not_found", "there is no such session")
        return live

    def find_job(name: str, who: str) -> Job:
        job = server.jobs.get(name)
        if job is None or not may_touch(who, job.owner):
            raise ServingError("not_found", "there is no such job")
        return job

    async def portrait_of(upload: UploadFile | None, name: str | None) -> np.ndarray:
        assert engine.model is not None
        if upload is not None:
            data = await upload.read()
        elif (name or "portrait") in SHIPPED:
            data = await asyncio.to_thread(SHIPPED[name or "portrait"].read_bytes)
        else:
            raise ServingError("not_found", f"there is no portrait of that name; there are {', '.join(SHIPPED)}")
        return await asyncio.to_thread(uploads.read_portrait, data, engine.model.sizes, limits)

    Portrait = Annotated[UploadFile | None, File(description="JPEG, PNG or WebP; instead of portrait_name")]
    PortraitName = Annotated[str | None, Form(max_length=100, description="one of GET /v1/portraits")]
    Prompt = Annotated[str | None, Form(max_length=limits.prompt)]
    Seed = Annotated[int, Form(ge=0, lt=2**31)]

    # The server

    @app.get("/healthz", tags=["server"], responses={503: {"description": "the model hangs: start the process again"}})
    async def health(response: Response) -> dict[str, str]:
        """The process lives, and is not stuck in a call of the model."""
        response.status_code = 503 if engine.stuck else 200
        return {"status": "stuck" if engine.stuck else "ok"}

    @app.get("/readyz", tags=["server"], responses={503: {"description": "warming up, stuck or shutting down"}})
    async def readiness(response: Response) -> dict[str, str]:
        """Sessions are admitted."""
        response.status_code = 200 if engine.ready else 503
        stage = "draining" if engine.draining else "warming_up" if engine.model is None else "stuck"
        return {"status": "ready" if engine.ready else stage}

    @app.get("/metrics", tags=["server"], response_class=Response, dependencies=[Depends(operator)], responses=errors())
    async def metrics() -> Response:
        return Response(engine.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/capacity", tags=["server"], dependencies=[Visitor], responses=errors())
    async def capacity() -> Capacity:
        """How many sessions there may be, and why."""
        factor = engine.chunk_video_seconds / engine.chunk_seconds if engine.chunk_seconds else 0.0
        return Capacity(
            ready=engine.ready, sessions=engine.capacity, active=len(engine.sessions), chunk_seconds=engine.chunk_seconds,
            chunk_video_seconds=engine.chunk_video_seconds, realtime_factor=factor,
        )  # fmt: skip

    @app.post("/v1/tokens", tags=["server"], status_code=201, dependencies=[Depends(operator), Depends(caller)], responses=errors())
    async def mint() -> Token:
        """With an API key: a token that a browser may open and use sessions with."""
        # Renewed for as long as a session may live that it opens in its last second.
        return Token(token=guard.mint(TOKEN_SECONDS, engine.limits.session_seconds), expires_in=TOKEN_SECONDS)

    @app.post("/v1/tokens/renew", tags=["server"], status_code=201, dependencies=[Depends(caller)], responses=errors())
    async def renew(header: Bearer) -> Token:
        """With a session token that is still valid: a fresh one that may use the same sessions and jobs."""
        token, seconds = guard.renew(header.credentials if header else None, TOKEN_SECONDS)
        return Token(token=token, expires_in=seconds)

    @app.get("/v1/portraits", tags=["server"], dependencies=[Visitor], responses=errors())
    async def portraits() -> list[str]:
        """Names of the portraits that come with the server."""
        return list(SHIPPED)

    @app.get(
        "/v1/portraits/{name}", tags=["server"], response_class=FileResponse, dependencies=[Visitor],
        responses=errors("not_found", "unprocessable"),
    )  # fmt: skip
    async def portrait_file(name: str) -> FileResponse:
        if name not in SHIPPED:
            raise ServingError("not_found", "there is no portrait of that name")
        return FileResponse(SHIPPED[name])

    # Sessions

    @app.post("/v1/sessions", tags=["sessions"], status_code=201, responses=_UPLOAD)
    async def open_session(
        who: Caller, portrait: Portrait = None, portrait_name: PortraitName = None, prompt: Prompt = None, seed: Seed = 0,
        motion: Annotated[UploadFile | None, File(description="of GET …/motion, to carry a session on")] = None,
        generation: Annotated[int, Form(ge=0, lt=2**31)] = 0,
    ) -> Session:  # fmt: skip
        """Open a session; 503 with Retry-After when there is no room. It ends when nobody reads its stream for a while."""
        engine.check_room()
        picture = await portrait_of(portrait, portrait_name)
        shown = None
        if motion is not None:
            size = (picture.shape[0], picture.shape[1])
            shown = await asyncio.to_thread(uploads.read_motion, await motion.read(), size, limits)
        live = engine.open(picture, prompt=prompt or None, seed=seed, owner=who, shown=shown, generation=generation)
        return session_view(live)

    @app.get("/v1/sessions/{session_id}", tags=["sessions"], responses=_FOUND)
    async def session(session_id: str, who: Caller) -> Session:
        return session_view(find(session_id, who))

    @app.delete("/v1/sessions/{session_id}", tags=["sessions"], status_code=204, responses=_FOUND)
    async def close_session(session_id: str, who: Caller) -> None:
        find(session_id, who).close("deleted")

    @app.get(
        "/v1/sessions/{session_id}/motion", tags=["sessions"], response_class=Response,
        responses={200: {"content": {"image/png": {}}}, **_FOUND},
    )  # fmt: skip
    async def motion(session_id: str, who: Caller) -> Response:
        """The last frames shown, one below the other: POST them with the portrait to carry the session on elsewhere."""
        frames = find(session_id, who).timeline.motion()
        return Response(await asyncio.to_thread(uploads.write_motion, frames), media_type="image/png")

    @app.websocket("/v1/sessions/{session_id}/stream")
    async def stream(socket: WebSocket, session_id: str, token: str | None = None) -> None:
        scheme, _, credential = socket.headers.get("authorization", "").partition(" ")
        await socket.accept()
        try:
            live = find(session_id, admit(socket, credential if scheme.lower() == "bearer" else token))
            if len(live.outputs) >= MAX_READERS:
                raise ServingError("forbidden", f"a session has {MAX_READERS} readers at most")
        except ServingError as error:
            await socket.send_text(json.dumps({"type": "error", **error.body()}))
            await socket.close(1008, error.code)
            return
        await serve_stream(socket, live)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(1000, live.reason or "")

    # Jobs

    @app.post("/v1/jobs", tags=["jobs"], status_code=202, responses=_UPLOAD)
    async def submit(
        who: Caller, audio: Annotated[UploadFile, File(description="WAV, MP3, FLAC, Ogg, M4A, MP4 or WebM")],
        portrait: Portrait = None, portrait_name: PortraitName = None, prompt: Prompt = None, seed: Seed = 0,
    ) -> JobView:  # fmt: skip
        """Have a whole video made."""
        server.jobs.check_room()
        picture = await portrait_of(portrait, portrait_name)
        speech = await asyncio.to_thread(uploads.read_recording, await audio.read(), limits)
        server.jobs.check_room()
        return JobView(**server.jobs.submit(picture, speech, prompt=prompt or None, seed=seed, owner=who).view())

    @app.get("/v1/jobs/{job_id}", tags=["jobs"], responses=_FOUND)
    async def job(job_id: str, who: Caller) -> JobView:
        return JobView(**find_job(job_id, who).view())

    @app.get(
        "/v1/jobs/{job_id}/events", tags=["jobs"], response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **_FOUND},
    )  # fmt: skip
    async def job_events(job_id: str, who: Caller) -> StreamingResponse:
        """Server-sent events: the job as JSON, whenever it changes and every 15 seconds, until it has ended."""
        found = find_job(job_id, who)

        async def events() -> AsyncIterator[str]:
            async for state in found.progress():
                yield f"data: {json.dumps(state)}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.get(
        "/v1/jobs/{job_id}/result", tags=["jobs"], response_class=FileResponse,
        responses={200: {"content": {"video/mp4": {}}}, **_FOUND, **errors("not_ready")},
    )  # fmt: skip
    async def job_result(job_id: str, who: Caller) -> FileResponse:
        found = find_job(job_id, who)
        if found.state != "done":
            raise ServingError("not_ready", f"the job is {found.state}")
        return FileResponse(found.path, media_type="video/mp4", filename="video.mp4")

    @app.delete("/v1/jobs/{job_id}", tags=["jobs"], status_code=204, responses=_FOUND)
    async def cancel_job(job_id: str, who: Caller) -> None:
        """Cancel it, or forget its video."""
        await server.jobs.remove(find_job(job_id, who))

    edges.add_page(app)
    edges.add_webrtc(app, caller, find, _POSTED)
    edges.add_livekit(app, caller, operator, find, _POSTED)
    return app
