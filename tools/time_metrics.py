"""What each metric costs: seconds for a minute of video at 720×416 and 25 frames a second, with random weights.

    python tools/time_metrics.py --out docs/measurements/metrics_cpu.json [--seconds 4] [--metrics sync,motion]

Files of random weights in the published form are written to a temporary folder, so that what is timed is what `livetalk evaluate`
runs. A first video compiles and is not counted. `sync` is given the place of the face, which otherwise is looked for once a video.
Q-Align (7 B parameters) is left out, and so are the metrics that need the procedural set's truth.
"""

import datetime
import functools
import importlib
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import torch
from absl import flags as absl_flags
from flax import nnx

from livetalk_jax import flags
from livetalk_jax.conversion.engine import unload
from livetalk_jax.evaluation.metric import SAMPLE_RATE, Clip
from livetalk_jax.evaluation.metrics import background, fid, fvd, motion, subject, sync
from livetalk_jax.evaluation.networks import amt, i3d, inception, s3fd, syncnet, vit
from livetalk_jax.evaluation.registry import METRICS
from livetalk_jax.files import write_whole

USAGE = "usage: python tools/time_metrics.py [--seconds 4] [--metrics sync,motion] [--out FILE.json]"
HEIGHT, WIDTH, FPS = 720, 416, 25
PUBLISHED = {
    sync.WEIGHTS: (syncnet.SyncNet, syncnet.TABLE),
    sync.FACE_WEIGHTS: (s3fd.S3FD, s3fd.TABLE),
    subject.WEIGHTS: (vit.dino_b16, vit.DINO_TABLE),
    background.WEIGHTS: (vit.clip_b32, vit.CLIP_TABLE),
    motion.WEIGHTS: (amt.AMT, amt.TABLE),
    fid.WEIGHTS: (inception.Inception, inception.TABLE),
    fvd.WEIGHTS: (i3d.I3D, i3d.TABLE),
}
LEFT_OUT = ("quality", "drawn")


def define(values: absl_flags.FlagValues) -> None:
    names = [metric.name for metric in METRICS if metric.name not in LEFT_OUT]
    absl_flags.DEFINE_float("seconds", 4.0, "Of the video.", lower_bound=1.0, flag_values=values)
    absl_flags.DEFINE_list("metrics", names, "Names.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Write the results to this JSON file too.", flag_values=values)


def write_weights(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        network, table = PUBLISHED[name]
        tensors = unload(network(rngs=nnx.Rngs(0)), table)
        torch.save({key: torch.tensor(np.array(value)) for key, value in tensors.items()}, folder / name)


def seconds_of(name: str, clip: Clip, frames: np.ndarray, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one video."""
    metric = next(metric for metric in METRICS if metric.name == name)
    begin = importlib.import_module(metric.module).begin
    if name == "sync":
        box = np.array([WIDTH / 4, HEIGHT / 4, 3 * WIDTH / 4, HEIGHT / 4 + WIDTH / 2])
        begin = functools.partial(begin, faces=lambda block: np.tile(box, (len(block), 1)))
    step = 1 if metric.fps is None else max(1, round(FPS / metric.fps))
    wall, cpu = time.perf_counter(), time.process_time()
    meter = begin(clip, folder)
    for first in range(0, len(frames), FPS):
        meter.add(frames[first : first + FPS][::step])
    meter.scores()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(argv: list[str]) -> None:
    values, _ = flags.parse(define, argv, USAGE)
    unknown = set(values.metrics) - {metric.name for metric in METRICS if metric.name not in LEFT_OUT}
    if unknown:
        raise flags.UsageError(f"no metric {', '.join(sorted(unknown))} to be timed here; {USAGE}")
    rng = np.random.default_rng(0)
    count = round(values.seconds * FPS)
    frames = rng.integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)
    sound = rng.normal(0, 0.1, round(values.seconds * SAMPLE_RATE)).astype(np.float32)
    clip = Clip(name="noise", height=HEIGHT, width=WIDTH, fps=FPS, waveform=sound, portrait=frames[0], joins=28)
    device = jax.devices()[0]
    result = {
        "command": " ".join(map(shlex.quote, ["python", *argv])),
        "date": datetime.date.today().isoformat(),
        "device": device.device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "video seconds": values.seconds,
        "seconds a video-minute": {},
        "CPU-seconds a video-minute": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in values.metrics:
            write_weights(Path(folder), next(metric.weights for metric in METRICS if metric.name == name))
            seconds_of(name, clip, frames, Path(folder))
            wall, cpu = seconds_of(name, clip, frames, Path(folder))
            result["seconds a video-minute"][name] = 60 / values.seconds * wall
            result["CPU-seconds a video-minute"][name] = 60 / values.seconds * cpu
            print(f"  {name:12}{60 / values.seconds * wall:10.1f} s, {60 / values.seconds * cpu:10.1f} CPU-seconds", flush=True)
            if values.out:
                write_whole(Path(values.out), json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    flags.run(main, sys.argv)
