"""What answers look like, as OpenAPI describes them."""

from typing import Literal

from pydantic import BaseModel

from livetalk_jax.serving.errors import CODES
from livetalk_jax.serving.live import LiveSession


class ErrorDetail(BaseModel):
    code: str
    message: str
    retryable: bool


class ErrorBody(BaseModel):
    error: ErrorDetail


class Token(BaseModel):
    token: str
    expires_in: int


class Capacity(BaseModel):
    ready: bool
    sessions: int
    active: int
    chunk_seconds: float
    chunk_video_seconds: float
    realtime_factor: float


class Session(BaseModel):
    id: str
    state: Literal["starting", "live", "closed"]
    width: int
    height: int
    generation: int
    stream: str


class JobView(BaseModel):
    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    frames: int
    frames_done: int
    seconds: float
    error: ErrorDetail | None


_ANY = ("bad_request", "unauthorized", "forbidden", "rate_limited", "internal")


def errors(*codes: str) -> dict:
    """`responses=` of a route that may answer with these codes, beside those that any route may."""
    statuses = sorted({CODES[code].status for code in (*_ANY, *codes)})
    return {status: {"model": ErrorBody} for status in statuses}


def session_view(live: LiveSession) -> Session:
    return Session(
        id=live.id, state=live.state, width=live.size[1], height=live.size[0], generation=live.timeline.generation,
        stream=f"/v1/sessions/{live.id}/stream",
    )  # fmt: skip
