"""What each metric costs: seconds for a minute of video at 720×416 and 25 frames a second, with random weights.

    python tools/time_metrics.py --out docs/measurements/metrics_cpu.json [--seconds 4] [--metrics sync,motion]

Files of random weights in the published form are written to a temporary folder, so that what is timed is what `livetalk evaluate`
runs. A first video compiles and is not counted. `sync` is given the place of the face, which otherwise is looked for once a video.
Q-Align (7 B parameters) is left out, and so are the metrics that need the procedural set's truth.
"""

import json
import os
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
from livetalk_jax.evaluation.metric import SAMPLE_RATE, Clip, Metric, Truth
from livetalk_jax.evaluation.metrics import background, fid, fvd, motion, subject, sync
from livetalk_jax.evaluation.networks import amt, i3d, inception, s3fd, syncnet, vit
from livetalk_jax.evaluation.registry import METRICS
from livetalk_jax.evaluation.scoring import Sample, score
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
TIMED = {metric.name: metric for metric in METRICS if metric.name not in ("quality", "drawn")}


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_float("seconds", 4.0, "Of the video.", lower_bound=1.0, flag_values=values)
    absl_flags.DEFINE_list("metrics", list(TIMED), "Names.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Write the results to this JSON file too.", flag_values=values)


def write_weights(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        network, table = PUBLISHED[name]
        tensors = unload(network(rngs=nnx.Rngs(0)), table)
        torch.save({key: torch.tensor(np.array(value)) for key, value in tensors.items()}, folder / name)


def seconds_of(metric: Metric, sample: Sample, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one video."""
    begun = time.process_time()
    result = score(sample, [metric], folder, lambda frames: None)
    if result.absent:
        raise ValueError(f"{metric.name}: {result.absent[metric.name]}")
    return result.seconds[metric.name], time.process_time() - begun


def noise(seconds: float) -> Sample:
    """A video of noise whose face is said to be in the middle."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (round(seconds * FPS), HEIGHT, WIDTH, 3), np.uint8)
    sound = rng.normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    place = {"mouth_x": WIDTH / 2, "mouth_y": HEIGHT / 2, "unit": WIDTH / 4}
    truth = Truth({name: np.full(len(frames), value) for name, value in place.items()}, person=0, scene=0)
    clip = Clip(
        name="noise", height=HEIGHT, width=WIDTH, fps=FPS, waveform=sound, portrait=frames[0], joins=28, truth=truth
    )  # fmt: skip
    return Sample(clip, lambda: iter(np.split(frames, range(FPS, len(frames), FPS))))


def main(argv: list[str]) -> None:
    values, _ = flags.parse(define, argv, USAGE)
    if unknown := set(values.metrics) - TIMED.keys():
        raise flags.UsageError(f"no metric {', '.join(sorted(unknown))} to be timed here; there are: {', '.join(TIMED)}")
    sample, scale = noise(values.seconds), 60 / values.seconds
    wall: dict[str, float] = {}
    cpu: dict[str, float] = {}
    result = {
        **flags.invocation(["python " + argv[0], *argv[1:]]),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "video seconds": values.seconds,
        "seconds a video-minute": wall,
        "CPU-seconds a video-minute": cpu,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in values.metrics:
            write_weights(Path(folder), TIMED[name].weights)
            seconds_of(TIMED[name], sample, Path(folder))
            wall[name], cpu[name] = (scale * seconds for seconds in seconds_of(TIMED[name], sample, Path(folder)))
            print(f"  {name:12}{wall[name]:10.1f} s, {cpu[name]:10.1f} CPU-seconds", flush=True)
            if values.out:
                write_whole(Path(values.out), json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    flags.run(main, sys.argv)
