"""A client of the server in Python, asyncio. It keeps what arrives with the time of its arrival, so that a server can be measured
from outside.

    async with Client("http://127.0.0.1:8000") as client:
        session = await client.open(portrait)
        async with client.stream(session) as stream:
            await stream.speak(samples, 16_000)
            async for message in stream:
                print(message.at, message.type)
"""

import asyncio
import contextlib
import io
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import av
import httpx2
import numpy as np
import websockets

SEND_SECONDS = 0.02  # of sound a message when it is sent as it is spoken
RENEW_AGAIN_SECONDS = 5.0  # after a fresh token could not be had


class Refused(Exception):
    """The server said no: `code`, `status` and what it said; `retry_after` seconds where it named any."""

    def __init__(self, status: int, error: dict, retry_after: float | None = None):
        super().__init__(error["message"])
        self.status, self.code, self.retryable, self.retry_after = status, error["code"], error["retryable"], retry_after


@dataclass(frozen=True)
class Message:
    """One message: `at` by this process's monotonic clock, `type` "media" for bytes, and the rest of what it says."""

    at: float
    type: str
    fields: dict[str, Any] = field(default_factory=dict)
    data: bytes = b""


class Stream:
    """A session's WebSocket. Reading it, by `async for` or `until`, is what keeps the session running.

    Attributes:
        media: (an initialisation, the fragments that follow it), one a discontinuity, as received; the last `keep` fragments each.
        covered: (arrival, end of the video in seconds of the stream) of every fragment.
        messages: all but bytes.

    Of each the last `keep` stay; None: all.
    """

    def __init__(self, socket: websockets.ClientConnection, keep: int | None = None):
        self._socket, self._keep_fragments = socket, keep
        self.media: deque[tuple[bytes, deque[bytes]]] = deque(maxlen=keep)
        self.covered: deque[tuple[float, float]] = deque(maxlen=keep)
        self.messages: deque[Message] = deque(maxlen=keep)
        self._passed_over: deque[Message] = deque(maxlen=1000)
        self._init_next = False

    async def __aiter__(self) -> AsyncIterator[Message]:
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                yield self._keep(await self._socket.recv())

    def _keep(self, received: str | bytes) -> Message:
        at = time.monotonic()
        if isinstance(received, bytes):
            message = Message(at, "media", data=received)
            if self._init_next:
                self.media.append((received, deque(maxlen=self._keep_fragments)))
                self._init_next = False
            else:
                self.media[-1][1].append(received)
                self.covered.append((at, _video_end(self.media[-1][0] + received)))
            return message
        fields = json.loads(received)
        message = Message(at, fields.pop("type"), fields)
        self._init_next |= message.type == "media_init"
        self.messages.append(message)
        return message

    async def until(self, found: Callable[[Message], bool] | str, seconds: float = 60.0) -> Message:
        """The next message that fits, or of that type; those that were passed over on the way come later, to whom they fit.

        Raises:
            TimeoutError, ConnectionError: it did not come.
        """
        fits = found if callable(found) else lambda message: message.type == found
        for message in self._passed_over:
            if fits(message):
                self._passed_over.remove(message)
                return message
        async with asyncio.timeout(seconds):
            async for message in self:
                if fits(message):
                    return message
                if message.type != "media":
                    self._passed_over.append(message)
        raise ConnectionError(f"the stream ended: {self._socket.close_code} {self._socket.close_reason}")

    async def until_shown(self, moment: float, seconds: float = 60.0) -> float:
        """Wait until the video covers a moment of the stream; when it did."""
        while not self.covered or self.covered[-1][1] <= moment:
            await self.until("media", seconds)
        return next(at for at, end in self.covered if end > moment)

    async def send(self, samples: np.ndarray) -> None:
        """int16 [samples] at the rate that `rate` set last."""
        await self._socket.send(samples.astype("<i2").tobytes())

    async def control(self, type: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": type, **fields}))

    def cut(self) -> None:
        """Break the connection off without a word, as a client that is killed."""
        self._socket.transport.abort()

    async def speak(self, samples: np.ndarray, rate: int, *, pace: float = 0.0) -> None:
        """A whole segment, int16 [samples]. pace: seconds that a second of it takes to send; 0 at once, 1 as it is spoken."""
        await self.control("audio_format", sample_rate=rate)
        step, began = max(1, int(rate * (SEND_SECONDS if pace else 1.0))), time.monotonic()
        for begin in range(0, len(samples), step):
            await asyncio.sleep(max(0.0, began + pace * (begin + step) / rate - time.monotonic()) if pace else 0)
            await self.send(samples[begin : begin + step])
        await self.control("end_segment")

    def decode(self) -> tuple[np.ndarray, np.ndarray, int]:
        """All frames uint8 [F, Y, X, 3] and all sound float32 [samples] that arrived, and the sound's rate."""
        frames, sound, rate = [], [], 0
        for init, fragments in self.media:
            data = init + b"".join(fragments)
            with av.open(io.BytesIO(data), "r") as container:
                frames += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            with av.open(io.BytesIO(data), "r") as container:
                sound += [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
                rate = container.streams.audio[0].rate
        return np.stack(frames), np.concatenate(sound), rate

    def last_frames(self, count: int) -> np.ndarray | None:
        """The newest frames that arrived, uint8 [≤ count, Y, X, 3]; None if there were none."""
        init, fragments = next(((init, fragments) for init, fragments in reversed(self.media) if fragments), (b"", ()))
        if not fragments:
            return None
        with av.open(io.BytesIO(init + b"".join(fragments)), "r") as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            keys = [i for i, packet in enumerate(packets) if packet.is_keyframe and i <= len(packets) - count] or [0]
            frames = [frame for packet in packets[keys[-1] :] for frame in packet.decode()]
            return np.stack([frame.to_ndarray(format="rgb24") for frame in frames[-count:]])


def _video_end(data: bytes) -> float:
    with av.open(io.BytesIO(data), "r") as container:
        ends = [float((p.pts + p.duration) * p.time_base) for p in container.demux(video=0) if p.pts is not None and p.duration]
    return max(ends, default=0.0)


class Client:
    """Args:
    url: such as http://127.0.0.1:8000.
    credential: an API key or a session token, which is renewed while the client is open; None where the server asks for none.
    verify: of TLS; a context for a certificate of one's own.
    """

    def __init__(self, url: str, credential: str | None = None, verify: ssl.SSLContext | bool = True):
        self._url, self._verify = url.rstrip("/"), verify
        self._http = httpx2.AsyncClient(base_url=self._url, timeout=120, verify=verify)
        self._headers: dict[str, str] = {}
        if credential:
            self._use(credential)
        self._renewing: asyncio.Task | None = None

    def _use(self, credential: str) -> None:
        self._headers["Authorization"] = f"Bearer {credential}"
        self._http.headers.update(self._headers)

    async def __aenter__(self) -> Self:
        if self._headers:
            self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, *_) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._http.aclose()

    async def _renew(self) -> None:
        """Exchange a session token for a fresh one, now and whenever half of its time is over; an API key is refused, and stays."""
        while True:
            wait = RENEW_AGAIN_SECONDS
            try:
                fresh = (await self.request("POST", "/v1/tokens/renew")).json()
                self._use(fresh["token"])
                wait = fresh["expires_in"] / 2
            except Refused as refused:
                if not refused.retryable:
                    return
            except (httpx2.TransportError, ValueError):
                pass  # not reached, or something between answered in its stead
            await asyncio.sleep(wait)

    async def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Raises:
        Refused: any answer from 400 on.
        """
        response = await self._http.request(method, path, **options)
        if response.status_code >= 400:
            after = response.headers.get("retry-after")
            raise Refused(response.status_code, response.json()["error"], float(after) if after else None)
        return response

    async def until_ready(self, seconds: float = 3600.0) -> None:
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if (await self._http.get("/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.2)

    async def capacity(self) -> dict:
        return (await self.request("GET", "/v1/capacity")).json()

    async def open(self, portrait: bytes | None = None, *, motion: bytes | None = None, **form: Any) -> str:
        """Open a session and return its id. portrait: a picture file's bytes, None for the shipped one; form: prompt, seed, …"""
        files = {name: data for name, data in (("portrait", portrait), ("motion", motion)) if data is not None}
        response = await self.request("POST", "/v1/sessions", files=files or None, data={k: str(v) for k, v in form.items()})
        return response.json()["id"]

    async def close(self, session: str) -> None:
        await self.request("DELETE", f"/v1/sessions/{session}")

    async def motion(self, session: str) -> bytes:
        """What another replica needs to carry the session on."""
        return (await self.request("GET", f"/v1/sessions/{session}/motion")).content

    @contextlib.asynccontextmanager
    async def stream(self, session: str, keep: int | None = None) -> AsyncIterator[Stream]:
        """Connect to a session's stream. keep: fragments of video and messages to remember; None for all."""
        address = f"{self._url.replace('http', 'ws', 1)}/v1/sessions/{session}/stream"
        tls = self._verify if isinstance(self._verify, ssl.SSLContext) else None
        async with websockets.connect(address, additional_headers=self._headers, max_size=None, ssl=tls) as socket:
            yield Stream(socket, keep)

    async def job(self, audio: bytes, portrait: bytes | None = None, **form: Any) -> AsyncIterator[dict]:
        """Submit a job and yield its states until it has ended."""
        files = {"audio": audio} | ({"portrait": portrait} if portrait is not None else {})
        response = await self.request("POST", "/v1/jobs", files=files, data={k: str(v) for k, v in form.items()})
        async with self._http.stream("GET", f"/v1/jobs/{response.json()['id']}/events") as events:
            async for line in events.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def job_result(self, job: str) -> bytes:
        return (await self.request("GET", f"/v1/jobs/{job}/result")).content
