"""HTTP: who may do what, what is taken, and what is said when it is not. No stream is opened here."""

import asyncio
import io
import itertools
import json
import socket
import struct
import threading
import zlib
from http.client import HTTPResponse
from urllib.parse import urlsplit

import av
import httpx2
import numpy as np
import pytest
import websockets.sync.client
from PIL import Image

from livetalk_jax import media
from livetalk_jax.serving import app, jobs, uploads
from livetalk_jax.serving.client import Client, Refused
from livetalk_jax.serving.engine import Engine, Limits
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.tokens import Guard
from livetalk_jax.serving.uploads import UploadLimits
from tests.pictures import BROKEN_EXIF, with_broken_exif
from tests.serving import card as cards
from tests.serving.conftest import running

KEY = "the-key"
SMALL = UploadLimits(body_bytes=400_000, pixels=280_000, seconds=3.0)


def picture(kind="PNG", size=(120, 100), mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def wav(seconds=1.0, rate=16_000, channels=1):
    pcm, size = np.full(round(seconds * rate) * channels, 9000, "<i2").tobytes(), 2 * channels
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, size * rate, size, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(pcm)) + b"WAVEfmt " + form + b"data" + struct.pack("<I", len(pcm)) + pcm


def bomb(width=30_000, height=30_000):
    """A PNG that says it is large and is not."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def server(card):
    with running(card, Limits(sessions=1000), uploads=SMALL, requests_per_second=1e6) as found:
        yield found


@pytest.fixture
def http(url):
    with httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def refusal(response, status, code):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert set(error) == {"code", "message", "retryable"} and error["message"]
    return error


def test_health_readiness_capacity_and_metrics(http):
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").status_code == 200
    capacity = http.get("/v1/capacity").json()
    assert capacity["sessions"] == 1000 and capacity["ready"]
    assert capacity["realtime_factor"] > 1 and capacity["chunk_video_seconds"] == 1.12
    metrics = http.get("/metrics").text
    for name in ("time_to_first_frame_seconds", "chunk_seconds", "realtime_factor", "frames_late", "audio_underruns", "av_skew_seconds",
                 "interrupt_to_silence_seconds", "sessions_active", "refused", "model_failures"):  # fmt: skip
        assert f"livetalk_{name}" in metrics


def test_a_server_that_is_stuck(http, server, monkeypatch):
    monkeypatch.setattr(Engine, "stuck", True)
    for path in ("/healthz", "/readyz"):
        answer = http.get(path)
        assert (answer.status_code, answer.json()) == (503, {"status": "stuck"})
    assert refusal(http.post("/v1/sessions"), 500, "model_failed")["retryable"]


def test_a_session_comes_and_goes(http):
    made = http.post("/v1/sessions", files={"portrait": picture()}, data={"prompt": "Hello.", "seed": "3"})
    assert made.status_code == 201
    session = made.json()
    assert (session["height"], session["width"]) == cards.SIZE
    path = f"/v1/sessions/{session['id']}"
    assert http.get(path).json()["id"] == session["id"]
    motion = Image.open(io.BytesIO(http.get(f"{path}/motion").content))
    assert motion.width == session["width"]
    carried = http.post(
        "/v1/sessions", files={"portrait": picture(), "motion": http.get(f"{path}/motion").content}, data={"generation": "4"}
    )
    assert carried.json()["generation"] == 4
    assert http.delete(path).status_code == 204
    refusal(http.get(path), 404, "not_found")
    refusal(http.delete(path), 404, "not_found")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_portraits_that_are_taken(http, kind):
    assert http.post("/v1/sessions", files={"portrait": picture(kind)}).status_code == 201


def damaged(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 415, "unsupported_media"),
        (b"hello", 415, "unsupported_media"),
        (picture("GIF", mode="P"), 415, "unsupported_media"),
        (picture("BMP"), 415, "unsupported_media"),
        (picture("TIFF"), 415, "unsupported_media"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_media"),
        (wav(0.1), 415, "unsupported_media"),
        (bomb(), 413, "too_large"),
        (bomb(1000, 300), 413, "too_large"),
        (bomb(500, 400), 422, "unprocessable"),
        (damaged(picture("JPEG", (300, 300))), 422, "unprocessable"),
        (damaged(picture("WEBP", (300, 300), lossless=True)), 422, "unprocessable"),
        (picture("PNG", (600, 1)), 422, "unprocessable"),
    ],
)  # fmt: skip
def test_portraits_of_every_wrong_kind(http, data, status, code):
    before = http.get("/v1/capacity").json()["active"]
    refusal(http.post("/v1/sessions", files={"portrait": data}), status, code)
    assert http.get("/v1/capacity").json()["active"] == before


@pytest.mark.filterwarnings("ignore:Metadata Warning")
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_portraits_with_broken_exif(http, kind):
    for changes in BROKEN_EXIF:
        refusal(http.post("/v1/sessions", files={"portrait": with_broken_exif(kind, changes)}), 422, "unprocessable")


def test_a_mistake_of_the_server(http, monkeypatch, caplog):
    def fail(live):
        raise RuntimeError("a secret")

    session = http.post("/v1/sessions").json()["id"]
    monkeypatch.setattr(app, "session_view", fail)
    answer = http.get(f"/v1/sessions/{session}")
    assert not refusal(answer, 500, "internal")["retryable"] and "secret" not in answer.text
    (record,) = (record for record in caplog.records if record.name == app.__name__)
    assert record.session == session and "a secret" in str(record.exc_info[1])


def test_fields_and_names_that_do_not_fit(http):
    refusal(http.post("/v1/sessions", data={"portrait_name": "../../etc/passwd"}), 404, "not_found")
    refusal(http.get("/v1/portraits/..%2f..%2fpyproject.toml"), 404, "not_found")
    assert http.get("/v1/portraits").json() == ["portrait"]
    assert http.get("/v1/portraits/portrait").headers["content-type"] == "image/png"
    refusal(http.post("/v1/sessions", data={"seed": "-1"}), 422, "unprocessable")
    refusal(http.post("/v1/sessions", data={"prompt": "x" * 2001}), 422, "unprocessable")
    refusal(http.post("/v1/sessions", files={"motion": picture(size=(50, 50))}), 422, "unprocessable")
    refusal(http.post("/v1/jobs"), 422, "unprocessable")
    refusal(http.get("/v1/nothing"), 404, "not_found")
    refusal(http.post("/healthz"), 405, "bad_request")


def test_bodies_beyond_the_limit(http):
    refusal(http.post("/v1/sessions", files={"portrait": b"x" * 500_000}), 413, "too_large")

    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="portrait"; filename="p"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 10_000

    answer = http.post("/v1/sessions", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    refusal(answer, 413, "too_large")


def half_posted(url, path, kind="application/json", sent=b""):
    """The answer, (status, code), to a request whose body says that it is longer than what is sent."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + sent)
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.status, json.load(answer)["error"]["code"]


def test_bodies_that_do_not_come():
    """The other side of an upload went silent."""
    with running(cards.TestCard(), uploads=UploadLimits(body_seconds=0.2)) as (url, _):
        for path, kind, sent in (
            ("/v1/sessions", "multipart/form-data; boundary=x", b""),
            ("/v1/sessions", "multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nca'),
            ("/v1/sessions/nobody/webrtc", "application/json", b'{"sdp'),
        ):
            assert half_posted(url, path, kind, sent) == (408, "too_slow")


def test_pages_of_other_sites_are_kept_out(http, url):
    host = url.removeprefix("http://")
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": "[", "Origin": "["}):
        answer = http.get("/v1/capacity", headers=headers)
        assert answer.status_code in (400, 403), answer.text
        assert "access-control-allow-origin" not in answer.headers
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert http.options("/v1/sessions", headers=preflight).status_code == 403
    assert http.get("/healthz", headers={"Origin": f"http://{host}"}).status_code == 200


# Tokens


@pytest.fixture(scope="module")
def guarded():
    moment = [1_000_000.0]
    guard = Guard([KEY, "another"], b"secret", lambda: moment[0])
    with (
        running(cards.TestCard(), guard=guard, origins=("https://friend.example",)) as (url, _),
        httpx2.Client(base_url=url) as http,
    ):
        yield http, moment


def bearer(credential):
    return {"Authorization": f"Bearer {credential}"}


def test_tokens_open_and_use_their_own(guarded):
    http, _ = guarded
    minted = http.post("/v1/tokens", headers=bearer(KEY))
    assert minted.status_code == 201 and minted.json()["expires_in"] == 600
    mine, other = (http.post("/v1/tokens", headers=bearer(key)).json()["token"] for key in (KEY, "another"))
    session = http.post("/v1/sessions", headers=bearer(mine)).json()["id"]
    assert http.get(f"/v1/sessions/{session}", headers=bearer(mine)).status_code == 200
    assert http.get(f"/v1/sessions/{session}?token={mine}").status_code == 200
    assert http.get(f"/v1/sessions/{session}", headers=bearer(KEY)).status_code == 200
    refusal(http.get(f"/v1/sessions/{session}", headers=bearer(other)), 404, "not_found")
    refusal(http.delete(f"/v1/sessions/{session}", headers=bearer(other)), 404, "not_found")
    refusal(http.post("/v1/tokens", headers=bearer(mine)), 401, "unauthorized")
    refusal(http.get("/metrics", headers=bearer(mine)), 401, "unauthorized")
    assert http.get("/metrics", headers=bearer(KEY)).status_code == 200
    assert http.delete(f"/v1/sessions/{session}", headers=bearer(mine)).status_code == 204


def test_credentials_that_are_none(guarded):
    http, moment = guarded
    token = http.post("/v1/tokens", headers=bearer(KEY)).json()["token"]
    payload, signature = token.split(".")
    forged = Guard(["x"], b"other secret", lambda: moment[0]).mint(600)
    for wrong in ("", "x", ".", "a.b", KEY[:-1], payload, f"{payload}.", f".{signature}", f"{payload}A.{signature}",
                  f"{payload}.{signature[:-1]}", forged, "ö", "x" * 2000):  # fmt: skip
        for answer in (
            http.post("/v1/sessions", headers=[("Authorization", f"Bearer {wrong}".strip().encode())]),
            http.get("/v1/sessions/x", params={"token": wrong}),
        ):
            refusal(answer, 401, "unauthorized")
    refusal(http.post("/v1/sessions", headers={"Authorization": "Basic eDp5"}), 401, "unauthorized")
    assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200
    moment[0] += 599
    assert http.get("/v1/sessions/x", headers=bearer(token)).status_code == 404
    moment[0] += 1
    assert "expired" in refusal(http.get("/v1/sessions/x", headers=bearer(token)), 401, "unauthorized")["message"]


def test_a_session_outlives_its_first_token(guarded):
    http, moment = guarded
    first = http.post("/v1/tokens", headers=bearer(KEY)).json()["token"]
    session = f"/v1/sessions/{http.post('/v1/sessions', headers=bearer(first)).json()['id']}"
    moment[0] += 599
    renewed = http.post("/v1/tokens/renew", headers=bearer(first))
    assert (renewed.status_code, renewed.json()["expires_in"]) == (201, 600)
    second = renewed.json()["token"]
    moment[0] += 300
    refusal(http.get(session, headers=bearer(first)), 401, "unauthorized")
    refusal(http.post("/v1/tokens/renew", headers=bearer(first)), 401, "unauthorized")
    assert http.get(session, headers=bearer(second)).status_code == 200
    stranger = http.post("/v1/tokens", headers=bearer(KEY)).json()["token"]
    stranger = http.post("/v1/tokens/renew", headers=bearer(stranger)).json()["token"]
    refusal(http.get(session, headers=bearer(stranger)), 404, "not_found")
    refusal(http.post("/v1/tokens/renew", headers=bearer(KEY)), 400, "bad_request")
    assert http.delete(session, headers=bearer(second)).status_code == 204


def test_a_token_is_not_renewed_for_ever():
    moment = [0.0]
    guard = Guard([KEY], b"secret", lambda: moment[0])
    token, valid = guard.mint(600, 1000), []
    for moment[0] in (0, 500, 1000, 1500):
        token, seconds = guard.renew(token, 600)
        valid.append(seconds)
    assert valid == [600, 600, 600, 100]
    moment[0] = 1600
    with pytest.raises(ServingError, match="expired"):
        guard.renew(token, 600)


def test_a_client_keeps_its_token_fresh(guarded, monkeypatch):
    http, moment = guarded
    monkeypatch.setattr(app, "TOKEN_SECONDS", 2)
    first = http.post("/v1/tokens", headers=bearer(KEY)).json()["token"]

    async def stay():
        async with Client(str(http.base_url), first) as client:
            session = await client.open()
            moment[0] += 1
            async with asyncio.timeout(60):
                while client._headers == bearer(first):
                    await asyncio.sleep(0.05)
            moment[0] += 1.5
            refusal(http.get(f"/v1/sessions/{session}", headers=bearer(first)), 401, "unauthorized")
            await client.close(session)

    asyncio.run(stay())


def test_an_origin_that_was_named(guarded):
    http, _ = guarded
    answer = http.get("/healthz", headers={"Origin": "https://friend.example", "Host": "live.example"})
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"


def test_replicas_of_one_secret_know_each_other():
    here, there = (Guard(["k"], b"shared") for _ in range(2))
    token = here.mint(10)
    assert here.who(token) == there.who(token) != "key"


def test_too_many_requests():
    with running(cards.TestCard(), requests_per_second=0.001) as (url, server), httpx2.Client(base_url=url) as http:
        server.buckets._burst = 3
        answers = [http.get("/v1/sessions/x").status_code for _ in range(5)]
        assert answers == [404] * 3 + [429] * 2
        refused = http.get("/v1/sessions/x")
        assert refusal(refused, 429, "rate_limited")["retryable"] and refused.headers["retry-after"] == "1"
        assert http.get("/healthz").status_code == 200


def told_by(url, path="/v1/sessions/x/stream", **options):
    """The code of the error that a stream begins with."""
    with websockets.sync.client.connect(url.replace("http", "ws", 1) + path, **options) as stream:
        return json.loads(stream.recv(60))["code"]


def test_streams_are_requests_too():
    with running(cards.TestCard(), requests_per_second=0.001) as (url, server):
        server.buckets._burst = 2
        assert [told_by(url) for _ in range(3)] == ["not_found", "not_found", "rate_limited"]


def test_wrong_credentials_are_counted():
    with running(cards.TestCard(), guard=Guard([KEY]), requests_per_second=0.001) as (url, server):
        server.buckets._burst, server.strangers._burst = 100, 4
        with httpx2.Client(base_url=url) as http:
            for _ in range(5):  # right ones are not
                assert http.get("/v1/sessions/x", headers=bearer(KEY)).status_code == 404
                assert http.get("/metrics", headers=bearer(KEY)).status_code == 200
            refusal(http.get("/v1/sessions/x?token=no"), 401, "unauthorized")
            refusal(http.post("/v1/tokens", headers=bearer("no")), 401, "unauthorized")
            refusal(http.get("/metrics", headers=bearer("no")), 401, "unauthorized")
            assert told_by(url, additional_headers=bearer("no")) == "unauthorized"
            for credential in ("no", KEY):  # not even looked at
                refused = http.get("/v1/sessions/x", headers=bearer(credential))
                assert refusal(refused, 429, "rate_limited")["retryable"] and refused.headers["retry-after"] == "1"
            assert told_by(url, additional_headers=bearer("no")) == "rate_limited"
            refusal(http.get("/metrics", headers=bearer("no")), 429, "rate_limited")
            assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200


@pytest.mark.parametrize("path", ["/v1/capacity", "/v1/portraits", "/v1/portraits/portrait"])
def test_what_needs_no_credential_is_counted_by_address(path):
    with running(cards.TestCard(), requests_per_second=0.001) as (url, server), httpx2.Client(base_url=url) as http:
        server.strangers._burst = 3
        assert [http.get(path).status_code for _ in range(5)] == [200] * 3 + [429] * 2


# Recordings and jobs


def test_recordings():
    read = uploads.read_recording(wav(2), SMALL)
    assert read.dtype == np.int16 and len(read) == 32_000 and (read == 9000).all()
    assert abs(len(uploads.read_recording(wav(1, 44_100), SMALL)) - 16_000) <= 1
    speech = uploads.read_recording((media.SAMPLES / "speech.flac").read_bytes(), UploadLimits())
    assert len(speech) == len(media.load_audio(media.SAMPLES / "speech.flac", 16_000))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "unsupported_media"),
        (b"x" * 1000, "unsupported_media"),
        (picture("PNG"), "unsupported_media"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "unsupported_media"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "unsupported_media"),
        (wav(0), "unprocessable"),
        (wav(5), "too_large"),
    ],
)
def test_recordings_that_are_none(data, code):
    with pytest.raises(ServingError) as refused:
        uploads.read_recording(data, SMALL)
    assert refused.value.code in (code, "unprocessable") if code == "unsupported_media" else refused.value.code == code


@pytest.mark.parametrize(
    ("rate", "channels", "fault"),
    [(200_000_007, 1, "200,000,007 samples a second"), (384_001, 1, "384,001"), (3_999, 1, "3,999"), (16_000, 9, "9 channels")],
)
def test_recordings_of_a_rate_or_channels_that_none_has(rate, channels, fault):
    with pytest.raises(ServingError, match=f"the recording has {fault}") as refused:
        uploads.read_recording(wav(8000 / rate, rate, channels), UploadLimits())
    assert refused.value.code == "unprocessable"
    for edge in (4_000, 384_000):
        assert abs(len(uploads.read_recording(wav(0.1, edge, 8), SMALL)) - 1_600) <= 1


def test_a_job(url):
    async def work():
        async with Client(url) as client:
            states = [state async for state in client.job(wav(2.5), picture())]
            return states, await client.job_result(states[-1]["id"]), states[-1]["id"]

    states, video, job = asyncio.run(work())
    assert [state["frames_done"] for state in states] == sorted(state["frames_done"] for state in states)
    assert states[-1]["state"] == "done" and states[-1]["frames"] == states[-1]["frames_done"] == 63
    with av.open(io.BytesIO(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [cards.read(frame)[0] for frame in frames] == list(range(63))
    with av.open(io.BytesIO(video)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert abs(len(sound) / 16_000 - 2.5) < 0.1
    with httpx2.Client(base_url=url) as http:
        assert http.delete(f"/v1/jobs/{job}").status_code == 204
        refusal(http.get(f"/v1/jobs/{job}/result"), 404, "not_found")


class Pending:
    """Frames that lie on a device, and are there when the next step has begun."""

    def __init__(self, frames, next_begun):
        self.frames, self.next_begun = frames, next_begun

    def __array__(self, dtype=None, copy=None):
        assert self.next_begun.wait(60)
        return self.frames


class OnADevice(cards.TestCard):
    last = None  # frame of a job, once the server runs
    begun = threading.Event()

    def step(self, state, speech):
        self.begun.set()
        pieces, state = super().step(state, speech)
        if self.last is None:
            return pieces, state
        self.begun = threading.Event()
        if state.next > self.last:
            self.begun.set()
        return [Pending(frames, self.begun) for frames in pieces], state


def test_a_chunk_is_fetched_while_the_next_is_computed():
    card = OnADevice()

    async def work(url):
        async with Client(url) as client:
            return [state async for state in client.job(wav(2.5), picture())][-1]

    with running(card) as (url, _):
        card.last = 62
        state = asyncio.run(work(url))
    assert (state["state"], state["frames_done"]) == ("done", 63)


def test_jobs_wait_are_cancelled_and_fail(card, url, monkeypatch):
    """One that waits for long is told of again and again, or its connection would be taken for dead."""
    monkeypatch.setattr(jobs, "NEWS_SECONDS", 0.01)

    def submit(http):
        return http.post("/v1/jobs", files={"audio": wav(2.5)})

    with httpx2.Client(base_url=url, timeout=60) as http:
        card.gate.clear()
        try:
            running, waiting = submit(http).json()["id"], submit(http).json()["id"]
            refusal(http.get(f"/v1/jobs/{waiting}/result"), 409, "not_ready")
            assert http.get(f"/v1/jobs/{waiting}").json()["state"] == "queued"
            with http.stream("GET", f"/v1/jobs/{waiting}/events") as events:
                states = [json.loads(line[6:])["state"] for line in itertools.islice(filter(None, events.iter_lines()), 3)]
            assert states == ["queued"] * 3
            for job in (waiting, running):
                assert http.delete(f"/v1/jobs/{job}").status_code == 204
                refusal(http.get(f"/v1/jobs/{job}"), 404, "not_found")
            answers = [submit(http) for _ in range(17)]
            assert [answer.status_code for answer in answers] == [202] * 16 + [503]
            assert "retry-after" in answers[-1].headers
            for answer in answers[:-1]:
                http.delete(f"/v1/jobs/{answer.json()['id']}")
        finally:
            card.gate.set()
        card.fail_on = 0
        try:
            failed = http.post("/v1/jobs", files={"audio": wav(1), "portrait": picture()}).json()["id"]
            with http.stream("GET", f"/v1/jobs/{failed}/events") as events:
                states = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
        finally:
            card.fail_on = None
        assert states[-1]["state"] == "failed" and states[-1]["error"]["code"] == "model_failed"


def test_a_client_is_told_what_was_wrong(url):
    async def ask():
        async with Client(url) as client:
            await client.open(b"no picture")

    with pytest.raises(Refused) as refused:
        asyncio.run(ask())
    assert refused.value.code == "unsupported_media" and not refused.value.retryable
