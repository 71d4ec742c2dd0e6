"""What a run tells while it goes on: a line and TensorBoard scalars, and whether its numbers are still numbers."""

import contextlib
import io
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from livetalk_jax.training.stages import Metrics, Work


class DivergedError(ValueError):
    """A loss or a gradient is not finite."""


class Progress:
    """A context manager; process 0 writes, the others only look at the numbers.

    Args:
        folder: of TensorBoard's files.
        steps: of the whole run.
        log_every: iterations a line.
        peak: floating-point operations a second of all devices together, or None.
    """

    def __init__(self, folder: Path, steps: int, log_every: int, peak: float | None):
        self._steps, self._log_every, self._peak = steps, log_every, peak
        self._writer = EventFileWriter(str(folder)) if jax.process_index() == 0 else None
        self._waiting: tuple[int, Metrics] | None = None
        self._seen: dict[str, list[float]] = {}
        self._since: dict[str, list[float]] = {}
        self._work = Work(0, 0.0)
        self._begun, self._paused = time.perf_counter(), 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._writer is not None:
            self._writer.close()

    def record(self, step: int, metrics: Metrics, work: Work) -> None:
        """Take note of iteration `step` (from 1). Numbers are looked at one iteration late, so that the device never waits.

        Raises:
            DivergedError: one of the iteration before is not finite.
        """
        self.settle()
        self._waiting = (step, metrics)
        self._work = Work(self._work.tokens + work.tokens, self._work.flops + work.flops)
        if step % self._log_every == 0 or step == self._steps:
            self.settle()
            self._report(step)

    def settle(self) -> None:
        """Look at the numbers of the last iteration; raises as `record`."""
        if self._waiting is None:
            return
        step, metrics = self._waiting
        self._waiting = None
        numbers = {name: float(np.asarray(value)) for name, value in metrics.items()}
        if wrong := [f"{name} {value}" for name, value in numbers.items() if not math.isfinite(value)]:
            raise DivergedError(f"training went astray at step {step}: {', '.join(wrong)}")
        for name, value in numbers.items():
            for kept in (self._seen, self._since):
                kept.setdefault(name, []).append(value)

    def begin(self, step: int) -> None:
        """A run goes on behind iteration `step`: TensorBoard forgets what one that was killed wrote of later ones."""
        if self._writer is not None:
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def mean(self, name: str, before: float) -> float:
        """A number's mean since this was last asked; `before` where there is none since."""
        values = self._since.get(name)
        self._since = {}
        return sum(values) / len(values) if values else before

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """What is done inside does not count as time of training."""
        begun = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begun

    def sample(self, step: int, sheet: Image.Image) -> None:
        """Show a picture in TensorBoard."""
        png = io.BytesIO()
        sheet.save(png, "png")
        picture = Summary.Image(height=sheet.height, width=sheet.width, colorspace=3, encoded_image_string=png.getvalue())
        self._write(step, [Summary.Value(tag="sample", image=picture)])

    def _write(self, step: int, values: list[Summary.Value]) -> None:
        if self._writer is not None:
            self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            self._writer.flush()

    def _report(self, step: int) -> None:
        now = time.perf_counter()
        seconds = now - self._begun - self._paused
        means = {name: sum(values) / len(values) for name, values in self._seen.items()}
        rates = {"tokens_per_second": self._work.tokens / seconds}
        if self._peak and self._work.flops:
            rates["model_flop_utilisation"] = self._work.flops / seconds / self._peak
        self._write(step, [Summary.Value(tag=name, simple_value=value) for name, value in {**means, **rates}.items()])
        if self._writer is not None:
            parts = [f"{name} {value:.4g}" for name, value in means.items() if name.rpartition("/")[2] in ("loss", "grad_norm")]
            parts.append(f"{rates['tokens_per_second']:.0f} tokens/s")
            if "model_flop_utilisation" in rates:
                parts.append(f"MFU {100 * rates['model_flop_utilisation']:.1f} %")
            print(f"step {step}/{self._steps}: {', '.join(parts)}", file=sys.stderr, flush=True)
        self._seen, self._work = {}, Work(0, 0.0)
        self._begun, self._paused = now, 0.0
