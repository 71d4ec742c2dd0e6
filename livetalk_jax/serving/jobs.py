"""Jobs: a portrait and a recording in, an MP4 out when it is done. They take the model's time that sessions leave."""

import asyncio
import contextlib
import logging
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from livetalk_jax import media
from livetalk_jax.serving.engine import Engine
from livetalk_jax.serving.errors import ServingError
from livetalk_jax.serving.model import FPS, SAMPLE_RATE, TICK, AvatarModel

logger = logging.getLogger(__name__)

MAX_WAITING = 16
KEEP_SECONDS = 600.0  # a job that has ended, and its video
NEWS_SECONDS = 15.0  # without a change, after which a job's state is told once more
State = Literal["queued", "running", "done", "failed", "cancelled"]


class Job:
    """Attributes:
    frames, frames_done: of the video.
    path: the MP4, once it is done.
    """

    def __init__(self, owner: str, frames: int, path: Path):
        self.id = secrets.token_urlsafe(16)
        self.owner, self.frames, self.path = owner, frames, path
        self.state: State = "queued"
        self.error: dict | None = None
        self.frames_done = 0
        self.seconds = 0.0  # from its first chunk to its last
        self.task: asyncio.Task | None = None
        self._changed = asyncio.Event()

    def change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def view(self) -> dict:
        return {
            "id": self.id, "state": self.state, "frames": self.frames, "frames_done": self.frames_done,
            "seconds": round(self.seconds, 3), "error": self.error,
        }  # fmt: skip

    async def progress(self) -> AsyncIterator[dict]:
        """What it looks like now, and again whenever it changes and every `NEWS_SECONDS`, until it has ended.

        Clients and proxies take a connection for dead that nothing comes through.
        """
        while True:
            changed = self._changed
            yield self.view()
            if self.state in ("done", "failed", "cancelled"):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NEWS_SECONDS):
                    await changed.wait()


class Jobs:
    """All jobs of a server; one runs at a time, a few wait, more are refused."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._jobs: dict[str, Job] = {}
        self._turn = asyncio.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="livetalk-jobs-")

    def get(self, name: str) -> Job | None:
        return self._jobs.get(name)

    def check_room(self) -> None:
        """Raises:
        ServingError: not ready, or too many wait.
        """
        if not self._engine.ready:
            self._engine.check_room()
        if sum(job.state in ("queued", "running") for job in self._jobs.values()) >= MAX_WAITING:
            raise ServingError("at_capacity", f"{MAX_WAITING} jobs are waiting already", 30)

    def submit(self, portrait: np.ndarray, speech: np.ndarray, *, prompt: str | None, seed: int, owner: str) -> Job:
        """portrait: uint8 [Y, X, 3] of a model's size; speech: int16 [samples] at 16 kHz, not empty."""
        job = Job(owner, -(-len(speech) // TICK), Path(self._folder.name) / f"{secrets.token_hex(16)}.mp4")
        self._jobs[job.id] = job
        job.task = self._engine.spawn(self._run(job, portrait, speech, prompt, seed))
        return job

    async def remove(self, job: Job) -> None:
        """Cancel it if it still runs, and forget it and its video."""
        if job.task is not None:
            job.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await job.task
            if job.state == "queued":  # it was cancelled before it began
                job.state = "cancelled"
                job.change()
        self._jobs.pop(job.id, None)
        job.path.unlink(missing_ok=True)

    def close(self) -> None:
        self._folder.cleanup()

    async def _run(self, job: Job, portrait: np.ndarray, speech: np.ndarray, prompt: str | None, seed: int) -> None:
        try:
            async with self._turn:
                job.state = "running"
                job.change()
                self._engine.background_users += 1
                try:
                    await self._make(job, portrait, speech, prompt, seed)
                finally:
                    self._engine.background_users -= 1
            job.state = "done"
        except asyncio.CancelledError:
            job.state = "cancelled"
        except Exception as error:
            logger.error("a job failed", extra={"job": job.id}, exc_info=error)
            job.state, job.error = "failed", ServingError("model_failed", "the video could not be made; try again").body()
        self._engine.metrics.jobs.labels(job.state).inc()
        job.change()
        if job.state != "cancelled":  # whoever cancels it forgets it
            self._engine.spawn(self._forget_later(job))

    async def _make(self, job: Job, portrait: np.ndarray, speech: np.ndarray, prompt: str | None, seed: int) -> None:
        engine, model = self._engine, self._engine.model
        assert model is not None
        state = await engine.in_background(model.start, portrait, prompt, seed)
        chunk, began = model.chunk_frames * TICK, time.monotonic()
        height, width = portrait.shape[:2]
        with media.VideoWriter(job.path, height, width, fps=FPS, sample_rate=SAMPLE_RATE) as writer:
            writing: asyncio.Future | None = None
            try:
                for begin in range(0, len(speech), chunk):
                    heard = speech[begin : begin + chunk].astype(np.float32) / 32768
                    padded = np.pad(heard, (0, chunk - len(heard)))
                    frames, state = await engine.in_background(_step, model, state, padded)
                    if writing is not None:
                        await writing
                    new = min(model.chunk_frames, job.frames - job.frames_done)
                    # Fetched and encoded while the next is computed.
                    writing = asyncio.ensure_future(asyncio.to_thread(_write, writer, frames, new, heard))
                    job.frames_done += new
                    job.seconds = time.monotonic() - began
                    job.change()
            finally:
                if writing is not None:
                    await asyncio.wait([writing])  # the file may be closed only then
            assert writing is not None
            writing.result()

    async def _forget_later(self, job: Job) -> None:
        await self._engine.clock.sleep(KEEP_SECONDS)
        self._jobs.pop(job.id, None)
        job.path.unlink(missing_ok=True)


def _step(model: AvatarModel, state: Any, speech: np.ndarray) -> tuple[list[ArrayLike], Any]:
    """A step of which all frames are computed."""
    frames, state = model.step(state, speech)
    return list(frames), state


def _write(writer: media.VideoWriter, frames: Sequence[ArrayLike], new: int, sound: np.ndarray) -> None:
    writer.write_frames(np.concatenate(frames)[:new])
    writer.write_audio(sound)
