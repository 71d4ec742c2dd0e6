"""The loop that all training runs in: batches in, checkpoints, samples and a student out."""

import dataclasses
import json
import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import multihost_utils

from livetalk_jax import checkpoint, media
from livetalk_jax.files import write_whole
from livetalk_jax.parallel import placement
from livetalk_jax.stream.networks import random_network
from livetalk_jax.training.batch import TrainBatch, TrainData
from livetalk_jax.training.checkpoints import Checkpoints
from livetalk_jax.training.progress import DivergedError, Progress
from livetalk_jax.training.single import SingleNetwork
from livetalk_jax.training.stages import Stage, State, compile_together
from livetalk_jax.training.state import Placement
from livetalk_jax.training.throughput import peak_flops

logger = logging.getLogger(__name__)


@jax.jit
def _widened(batch: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float16 else x, batch)


class Feed(Iterator[TrainBatch]):
    """Batches of all processes as global arrays, rows spread over the mesh; float16 becomes float32 there, a host is slow at it."""

    def __init__(self, data: TrainData | Iterator[Any], placement: Placement):
        self._data, self._rows = data, placement.rows

    def __next__(self) -> TrainBatch:
        return _widened(jax.tree.map(lambda x: jax.make_array_from_process_local_data(self._rows, x), next(self._data)))


class Terminated:
    """True once the run was told to end (SIGTERM, as schedulers send it), in all processes at the same iteration."""

    def __init__(self):
        self._told = False
        self._alone = jax.process_count() == 1

    def __enter__(self):
        if self._alone:
            self._before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_told", True))
        return self

    def __exit__(self, *_) -> None:
        if self._alone:
            signal.signal(signal.SIGTERM, self._before)

    def after(self, step: int) -> bool:
        # Processes hear of it at different times. JAX's own service, which then listens for the signal, has them agree on an iteration.
        return self._told if self._alone else multihost_utils.reached_preemption_sync_point(step)


def train(stage: Stage | SingleNetwork, data: TrainData, workdir: Path) -> None:
    """Run a stage to its last step or minute, from its beginning or from the last checkpoint in `workdir`.

        workdir/checkpoints   to go on from
        workdir/samples       videos and contact sheets
        workdir/tensorboard   scalars and pictures
        workdir/config.json   what the run was told, at its last start
        workdir/student       at the end: the checkpoint that `livetalk generate` takes; with it, there is nothing left to do

    Raises:
        DivergedError: a loss is not finite; the last good checkpoint is named.
        ValueError: `minutes` in a run of several processes, whose clocks differ; a run that has ended is to go on; its checkpoints
            are of another configuration.
    """
    config, student = stage.config.loop, workdir / "student"
    if config.minutes and jax.process_count() > 1:
        raise ValueError("config.loop.minutes is for runs of one process: processes would end at different steps; give steps")
    end = time.monotonic() + 60 * config.minutes if config.minutes else math.inf
    feed = Feed(data, stage.placement)
    beginning = data.get_state()
    frozen: Any = stage.frozen()
    peak = peak_flops(jax.devices()[0], stage.config.runtime.dtype)
    with (
        Checkpoints(workdir / "checkpoints", config) as checkpoints,
        Progress(workdir / "tensorboard", config.steps, config.log_every, peak and peak * stage.placement.mesh.size) as progress,
        Terminated() as terminated,
    ):
        restored = checkpoints.restore(stage.abstract_state())
        step, state, position, loss = restored or (0, stage.start(), beginning, math.inf)
        if student.exists():
            if step < config.steps:
                raise ValueError(f"{student} was made at the end of {step} steps; move it away to go on to {config.steps}")
            logger.info("nothing is left to do: %s is there", student)
            return
        first = next(feed)
        compile_together(stage.programs(state, frozen, first).values())
        data.set_state(position)
        record(stage.config, workdir / "config.json")
        progress.begin(step)
        over = step >= config.steps
        while not over:
            try:
                state, metrics, work = stage.step(state, frozen, step, feed)
                step += 1
                progress.record(step, metrics, work)
                ending, over = terminated.after(step), step >= config.steps or time.monotonic() >= end
                saving = ending or over or step % config.save_every == 0
                if saving:
                    progress.settle()
            except DivergedError as error:
                raise DivergedError(f"{error}; {checkpoints.latest}") from None
            if saving:
                loss = progress.mean(stage.watched, loss)
                with progress.pause():
                    checkpoints.save(step, state, data.get_state(), loss)
            if config.sample_every and step % config.sample_every == 0:
                with progress.pause():
                    show(stage, state, frozen, first, workdir / "samples" / f"step_{step:06}", progress, step)
            if ending:
                return
    export(stage, state, frozen, feed, student)


def record(config: Any, path: Path) -> None:
    """Write a configuration; where another one was written before, tell what has changed."""
    told = json.loads(json.dumps(dataclasses.asdict(config)))
    if path.exists():
        before = dict(leaves(json.loads(path.read_text())))
        for key, value in leaves(told):
            if key in before and before[key] != value:
                logger.warning("the run goes on with config.%s %s (it was %s)", key, value, before[key])
    if jax.process_index() == 0:
        write_whole(path, json.dumps(told, indent=1))


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested groups."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def show(stage: Stage | SingleNetwork, state: State, frozen: Any, batch: Any, path: Path, progress: Progress, step: int) -> None:
    """A video and a contact sheet of what the student makes now."""
    video = stage.sample_video(state, frozen, batch)
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        with media.VideoWriter(path.with_suffix(".mp4"), *video.shape[1:3], fps=stage.config.stream.fps) as writer:
            writer.write_frames(video)
        sheet = media.contact_sheet(video)
        sheet.save(path.with_suffix(".png"))
        progress.sample(step, sheet)


def export(stage: Stage | SingleNetwork, state: State, frozen: Any, feed: Feed, path: str | os.PathLike) -> None:
    """Write what was trained beside the networks that training started from, as a checkpoint for `livetalk generate`."""
    config = stage.config
    networks = stage.exported(state, frozen, feed)
    if not config.checkpoint:  # training began from random weights, so the others are random too
        for name in sorted({"dit", "vae", "text", "clip", "audio"} - set(networks)):
            made = random_network(config.model, name, config.runtime.dtype, config.loop.seed)
            networks[name] = placement.put(nnx.state(made, nnx.Param), stage.placement.whole)
    checkpoint.save(
        path, networks, {name: getattr(config.model, name) for name in networks},
        origin=f"{config.stage} from {config.checkpoint or 'random weights'}", like=config.checkpoint or None,
    )  # fmt: skip
