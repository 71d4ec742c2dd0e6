"""Chromium without a screen, for tests of the page: its microphone is a file, and what it shows and plays can be read."""

import contextlib
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from livetalk_jax import media

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needed = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; `make browser` installs it on Debian")
MILLISECONDS = 90_000  # that anything may take on a machine that others use too
RATE = 48_000

# What the test card shows (tests/serving/card.py), read from the pixels, and how loud it sounds.
PROBE = """() => {
  const video = document.querySelector('video'), canvas = new OffscreenCanvas(96, 64)
  const context = canvas.getContext('2d', {willReadFrequently: true})
  let audio, analyser, source
  window.sample = () => {
    if (source !== (video.srcObject ?? video)) {
      audio ??= new AudioContext()
      analyser = audio.createAnalyser()
      source = video.srcObject ?? video
      const node = video.srcObject ? audio.createMediaStreamSource(source) : audio.createMediaElementSource(source)
      node.connect(analyser)
    }
    context.drawImage(video, 0, 0, 96, 64)
    const lit = (x, y) => context.getImageData(x, y, 1, 1).data[1] > 127
    let number = 0
    for (let bit = 0; bit < 16; bit++) number = 2 * number + lit(6 * bit + 3, 16)
    const wave = new Float32Array(analyser.fftSize)
    analyser.getFloatTimeDomainData(wave)
    return {number, speaking: lit(48, 48), loudness: Math.hypot(...wave) / Math.sqrt(wave.length), time: video.currentTime}
  }
}"""


def speech(path: Path) -> Path:
    """The shipped recording as WAV, which Chromium takes for a microphone."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(media.SAMPLES / "speech.flac")) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.concatenate([frame.to_ndarray()[0] for frame in frames]).tobytes())
    return path


@contextlib.contextmanager
def chromium(microphone: Path) -> Iterator[Browser]:
    flags = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--mute-audio", "--autoplay-policy=no-user-gesture-required",
        "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={microphone}",
        "--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, **options) -> Iterator[Page]:
    """The page, ready to start; fails when a script of it did."""
    context = browser.new_context(permissions=["microphone"], **options)
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(url)
    page.locator("[name=portrait][value=portrait]:checked").wait_for(state="attached")
    page.evaluate(PROBE)
    yield page
    context.close()
    assert not failures
