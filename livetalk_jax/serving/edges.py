"""Routes beside the protocol's core: the web page, WebRTC's offers and LiveKit's rooms."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, FastAPI
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from livetalk_jax.serving import livekit
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.live import LiveSession
from livetalk_jax.serving.webrtc import Peer

PAGE = {path.name: path for path in (Path(__file__).parent / "page").iterdir() if path.is_file()}
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; connect-src 'self' ws: wss:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MAX_PEERS = 4  # of one session


class Description(BaseModel):
    """A session description, as browsers make them."""

    sdp: str = Field(max_length=100_000)
    type: Literal["offer", "answer"]


def add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE["index.html"], headers=PAGE_HEADERS)

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str) -> FileResponse:
        if name not in PAGE:
            raise ServingError("not_found", "there is no such file")
        return FileResponse(PAGE[name], headers=PAGE_HEADERS)


def add_webrtc(app: FastAPI, caller: Callable, find: Callable[[str, str], LiveSession], errors: dict) -> None:
    """Args:
    caller: the dependency that says who asks.
    find: a session by its id and who asks for it.
    errors: of the route, for OpenAPI.
    """
    peers: dict[str, int] = {}

    @app.post("/v1/sessions/{session_id}/webrtc", tags=["sessions"], responses=errors)
    async def offer(session_id: str, description: Description, who: Annotated[str, Depends(caller)]) -> Description:
        """An offer in, the answer out; all candidates go with them."""
        live = find(session_id, who)
        if description.type != "offer":
            raise ServingError("unprocessable", "type must be offer")
        if peers.get(live.id, 0) >= MAX_PEERS:
            raise ServingError("forbidden", f"a session has {MAX_PEERS} readers at most")
        peers[live.id] = peers.get(live.id, 0) + 1
        peer = Peer(live)

        async def run() -> None:
            try:
                await peer.run()
            finally:
                left()

        def left() -> None:
            peers[live.id] -= 1
            if not peers[live.id]:
                del peers[live.id]

        try:
            sdp = await peer.answer(description.sdp)
        except BaseException:
            left()
            raise
        live.engine.spawn(run())
        return Description(sdp=sdp, type="answer")


class RoomAddress(BaseModel):
    """A room of LiveKit, and the token that the agent made for its avatar."""

    url: str = Field(max_length=2000, pattern="^wss?://")
    token: str = Field(max_length=10_000)


def add_livekit(app: FastAPI, caller: Callable, operator: Callable, find: Callable[[str, str], LiveSession], errors: dict) -> None:
    """operator: the dependency that lets holders of an API key pass; the server connects to where it is told to."""

    @app.post(
        "/v1/sessions/{session_id}/livekit", tags=["sessions"], status_code=202, dependencies=[Depends(operator)], responses=errors
    )
    async def join(session_id: str, room: RoomAddress, who: Annotated[str, Depends(caller)]) -> dict[str, str]:
        """Send the session into a room, as the avatar of the agent that is there. It ends when the agent leaves."""
        live = find(session_id, who)
        live.engine.spawn(await livekit.join(live, room.url, room.token))
        return {"status": "joined"}
