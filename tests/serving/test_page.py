"""The web page in Chromium, with the test card: what it shows and plays is read from its pixels and samples."""

import base64
import io
import time

import aioice.ice
import pytest
from PIL import Image

from livetalk_jax.serving import app
from livetalk_jax.serving.engine import Limits
from livetalk_jax.serving.tokens import Guard
from tests.serving.browser import chromium, needed, opened, speech
from tests.serving.card import SIZE, TestCard, read
from tests.serving.conftest import running
from tests.serving.test_process import card_server, free_port
from tests.serving.test_replicas import routed

pytestmark = needed
STAGES = ("collect", "turn", "compute", "encode", "network", "player")
FIGURES = (*STAGES, "delay", "fps", "factor", "queue", "waiting", "late")


@pytest.fixture(scope="module")
def microphone(tmp_path_factory):
    return speech(tmp_path_factory.mktemp("sound") / "speech.wav")


@pytest.fixture(scope="module")
def browser(microphone):
    with chromium(microphone) as found:
        yield found


@pytest.fixture
def served(monkeypatch):
    # Where the tests run there may be no network but this.
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    card = TestCard(0.01)
    with running(card, Limits(sessions=1)) as (url, server):
        yield url, server, card


def state(page, name):
    page.locator(f"body[data-state={name}]").wait_for()


def until(page, expression):
    """Wait for an expression of the page's `sample()`, named s."""
    return page.wait_for_function(f"() => {{ const s = sample(); return {expression} && s }}", polling=20).json_value()


def tab_to(page, found):
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate(f"document.activeElement.matches('{found}')"):
            return
    raise AssertionError(f"Tab does not lead to {found}")


def test_everything_by_keyboard_over_a_websocket(served, browser, microphone):
    url, server, _ = served
    with opened(browser, url) as page:
        for control in ("[name=portrait]", "#prompt", "[name=transport]", "#start"):
            tab_to(page, control)
        page.keyboard.press("Enter")
        state(page, "live")
        first = until(page, "s.time > 0.2")
        page.keyboard.press("m")
        talking = until(page, "s.speaking && s.loudness > 0.01")
        assert talking["number"] > first["number"] and talking["time"] > first["time"]
        later = until(page, f"s.time > {talking['time'] + 1}")
        assert later["number"] > talking["number"]
        page.locator("#speaking").wait_for()
        page.keyboard.press("m")
        until(page, "!s.speaking && s.loudness < 0.001")

        page.set_input_files("#sound", microphone)
        until(page, "s.speaking && s.loudness > 0.01")
        page.keyboard.press("Escape")
        until(page, "!s.speaking && s.loudness < 0.001")
        page.wait_for_function("() => !video.muted")
        (live,) = server.engine.sessions.values()
        assert live.timeline.generation == 1
        for figure in FIGURES:
            page.wait_for_function(f"() => document.getElementById('{figure}').textContent !== '–'")

        tab_to(page, "#end")
        page.keyboard.press("Enter")
        state(page, "idle")
        deadline = time.monotonic() + 60
        while server.engine.sessions and time.monotonic() < deadline:
            page.wait_for_timeout(20)
        assert not server.engine.sessions


def test_webrtc_on_a_phone(served, browser, microphone):
    url, server, _ = served
    with opened(browser, url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.set_input_files("#portrait-file", {"name": "own.png", "mimeType": "image/png", "buffer": picture(200)})
        page.check("[value=webrtc]")
        page.tap("#start")
        state(page, "live")
        assert [live.timeline.state.shade for live in server.engine.sessions.values()] == [200]
        first = until(page, "s.time > 0.2")
        page.tap("#microphone")
        talking = until(page, "s.speaking && s.loudness > 0.01")
        assert talking["number"] > first["number"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.tap("#microphone")
        until(page, "!s.speaking")
        page.set_input_files("#sound", microphone)  # through the data channel
        until(page, "s.speaking && s.loudness > 0.01")
        page.tap("#interrupt")
        until(page, "!s.speaking")
        page.tap("#end")
        state(page, "idle")


def test_a_lost_session_is_carried_on(served, browser):
    """The model fails; the page opens another session, which goes on from the last frames that were seen."""
    url, server, card = served
    with opened(browser, url) as page:
        page.click("#start")
        state(page, "live")
        before = until(page, "s.number > 40")["number"]
        (live,) = server.engine.sessions.values()
        card.fail_on = live.timeline.state.shade
        page.locator("body:not([data-state=live])").wait_for()
        card.fail_on = None
        state(page, "live")
        assert live.state == "closed" and live.id not in server.engine.sessions
        after = until(page, f"s.number > {before}")["number"]
        until(page, f"s.number > {after + 10}")
        frames, dropped = card.rewinds[-1]
        assert len(frames) == card.motion_frames and dropped == 0


LOOPBACK = "import aioice.ice; aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ['127.0.0.1']"


@pytest.mark.parametrize("transport", ["websocket", "webrtc"])
def test_a_replica_that_is_killed(served, browser, transport):
    """The page goes on at the other one, with its portrait, its interruptions, and the last frames that were seen."""
    url, server, card = served
    port = free_port()
    doomed = f"http://127.0.0.1:{port}"
    with card_server(port, load=LOOPBACK) as process, routed([doomed, url]) as (address, router), opened(browser, address) as page:
        while [replica.url for replica in router.freest()] != [doomed, url]:  # which has more seats
            page.wait_for_timeout(20)
        page.set_input_files("#portrait-file", {"name": "own.png", "mimeType": "image/png", "buffer": picture(200)})
        page.check(f"[value={transport}]")
        page.click("#start")
        state(page, "live")
        page.click("#interrupt")
        until(page, "s.number > 30")
        assert not server.engine.sessions
        process.kill()
        state(page, "reconnecting")
        state(page, "live")
        (live,) = server.engine.sessions.values()
        assert live.timeline.state.shade == 200 and live.timeline.generation == 1
        frames, dropped = card.rewinds[-1]
        numbers = [read(frame)[0] for frame in frames]
        assert len(frames) == card.motion_frames and dropped == 0 and min(numbers) > 15, numbers  # a black one is 0
        until(page, f"s.number > {max(numbers) + 10}")


def picture(shade):
    file = io.BytesIO()
    Image.new("RGB", SIZE[::-1], (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def drop(page, kind, data):
    """A file onto the page."""
    make = """([kind, data]) => {
      const dropped = new DataTransfer()
      dropped.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], 'dropped', {type: kind}))
      return dropped
    }"""
    transfer = page.evaluate_handle(make, [kind, base64.b64encode(data).decode()])
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})


def test_files_are_dropped_and_errors_told(served, browser, microphone, tmp_path):
    url, server, _ = served
    with opened(browser, url) as page:
        damaged = tmp_path / "portrait.png"
        damaged.write_bytes(b"no picture")
        page.set_input_files("#portrait-file", damaged)
        page.click("#start")
        alert = page.get_by_role("alert")
        alert.get_by_text("This file cannot be used. the picture is not JPEG, PNG or WebP").wait_for()
        state(page, "idle")
        drop(page, "audio/wav", microphone.read_bytes())
        alert.get_by_text("Not yet.").wait_for()
        page.check("[name=portrait][value=portrait]")
        drop(page, "image/png", picture(201))
        page.click("#start")
        state(page, "live")
        (live,) = server.engine.sessions.values()
        assert live.timeline.state.shade == 201
        drop(page, "image/png", picture(202))
        alert.get_by_text("Not now.").wait_for()
        drop(page, "audio/wav", microphone.read_bytes())
        until(page, "s.speaking && s.loudness > 0.01")
        with opened(browser, url) as other:
            other.click("#start")
            other.get_by_role("alert").get_by_text("All seats are taken.").wait_for()
            other.click("#end")
            state(other, "idle")
            page.click("#end")
            state(page, "idle")
            other.click("#start")
            state(other, "live")
            assert other.get_by_role("alert").is_hidden()


def test_a_token_is_kept_fresh(browser, monkeypatch):
    monkeypatch.setattr(app, "TOKEN_SECONDS", 2)
    moment = [1_000_000.0]
    guard = Guard(["key"], now=lambda: moment[0])
    first = guard.mint(2, 60)
    with running(TestCard(), guard=guard) as (url, _), opened(browser, f"{url}/#token={first}") as page:
        moment[0] += 1
        page.wait_for_function(f"() => document.getElementById('token').value !== '{first}'")
        moment[0] += 1.5  # the first has expired
        page.locator("#start").click()
        state(page, "live")
