"""Measure the small model's parts, and the whole, on persons, voices and sentences of the test split.

    python tools/check_small_model.py --out results.json --checkpoint DIR --what vae,audio,talk [--clips 16] [--seconds 10]
    python tools/check_small_model.py … --what talk --name teacher --config stage1_tiny    (40 guided steps)
    python tools/check_small_model.py … --what talk --name student_4 --config.sampler.steps=4

Adds to the JSON file, name by name:

    vae      the truth's own pictures through the VAE, chunk by chunk: PSNR, of the mouth too, and measured openness against truth
    audio    openness and width told from the speech encoder's features by ridge regression, fitted to the train split
    talk     pictures made from portrait and speech: openness and width against truth at lag zero and at the best, lips closed where
             an /m/, /b/ or /p/ closes them, and in silence; seconds a chunk
"""

import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags
from ml_collections import ConfigDict

from livetalk_jax import flags
from livetalk_jax.config import RunConfig, StreamConfig
from livetalk_jax.data.procedural import measure
from livetalk_jax.data.procedural.dataset import ProceduralSet, Recording
from livetalk_jax.models.wav2vec2 import normalize_waveform
from livetalk_jax.stream.audio import SpeechBuffer, normalize_loudness
from livetalk_jax.stream.chunk import to_uint8
from livetalk_jax.stream.networks import Networks, compiled, load_networks
from livetalk_jax.stream.session import Pipeline
from livetalk_jax.tokenizer import load_tokenizer
from livetalk_jax.training.config import TrainConfig, training_config

USAGE = "usage: python tools/check_small_model.py --out FILE.json --checkpoint DIR --what vae,audio,talk"
RIDGE = 1.0

Tracks = dict[str, Any]  # openness, width, closed as `measure.Faces` has them


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("out", None, "JSON file to add to.", flag_values=values)
    absl_flags.DEFINE_string("checkpoint", None, "Folder of the networks.", flag_values=values)
    absl_flags.DEFINE_list("what", ["vae", "audio", "talk"], "What to measure.", flag_values=values)
    absl_flags.DEFINE_string("name", "student_4", "For the results of talk.", flag_values=values)
    absl_flags.DEFINE_integer("clips", 16, "Recordings.", 1, flag_values=values)
    absl_flags.DEFINE_float("seconds", 10.0, "Of each.", 2.0, flag_values=values)


def run_config(config: ConfigDict) -> RunConfig:
    if "stage" not in config:
        return RunConfig.from_config_dict(config)
    training = training_config(config)
    if not isinstance(training, TrainConfig):
        raise flags.UsageError("give a configuration that says how videos are sampled: tiny, stage1_tiny or stage2_tiny")
    return training.run


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean(np.square(a.astype(np.float64) - b)), 1e-9)))


def tracks(task: tuple[int, int, float, np.ndarray]) -> Tracks:
    """What is measured of frames of test recording `number`, in a process of its own."""
    number, clips, seconds, frames = task
    recording = ProceduralSet(0, "test", clips, seconds).recording(number)
    found = measure.FaceMeasure(recording.who, recording.scene)(frames)
    return {"openness": found.openness, "width": found.width, "closed": found.closed}


def measured(videos: list[np.ndarray], clips: int, seconds: float) -> list[Tracks]:
    with ProcessPoolExecutor(min(len(videos), os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(tracks, [(number, clips, seconds, video) for number, video in enumerate(videos)]))


def against_truth(found: list[Tracks], recordings: list[Recording]) -> dict[str, float]:
    """Means over recordings; shares over all of their frames."""
    result: dict[str, float] = {}
    truths = [recording.truth(0, len(track["openness"])) for recording, track in zip(recordings, found, strict=True)]
    for name in ("openness", "width"):
        syncs = [measure.synchrony(track[name], truth[name]) for track, truth in zip(found, truths, strict=True)]
        result |= {
            f"{name}_correlation": float(np.mean([sync.correlation for sync in syncs])),
            f"{name}_error": float(np.mean([sync.error for sync in syncs])),
            f"{name}_best_lag": float(np.median([sync.lag for sync in syncs])),
            f"{name}_correlation_at_best_lag": float(np.mean([sync.best for sync in syncs])),
        }
    closed = np.concatenate([track["closed"] for track in found])
    for name, truth_name in (("closed_on_mbp", "closed"), ("closed_in_silence", "silent")):
        result[name] = float(closed[np.concatenate([truth[truth_name] for truth in truths])].mean())
    return result


def check_vae(
    networks: Networks, recordings: list[Recording], stream: StreamConfig, clips: int, seconds: float
) -> dict[str, float]:
    @jax.jit
    def through(vae, frames):
        return to_uint8(vae.decode(vae.encode(frames.astype(jnp.float32)[None] / 127.5 - 1))[0])

    step, videos, whole, mouths = stream.frames - stream.motion_frames, [], [], []
    for recording in recordings:
        frames, truth, parts = recording.frames(), recording.truth(), []
        for begin in range(0, len(frames) - stream.frames + 1, step):
            again = np.asarray(through(networks.vae, frames[begin : begin + stream.frames]))
            parts.append(again if begin == 0 else again[stream.motion_frames :])
        video = np.concatenate(parts)
        whole.append(psnr(video, frames[: len(video)]))
        for f in range(0, len(video), 5):
            x, y, reach = (round(float(value)) for value in (truth["mouth_x"][f], truth["mouth_y"][f], 0.6 * truth["unit"][f]))
            window = slice(max(y - reach, 0), y + reach), slice(max(x - reach, 0), x + reach)
            mouths.append(psnr(video[f][window], frames[f][window]))
        videos.append(video)
    result = {"psnr": float(np.mean(whole)), "psnr_mouth": float(np.mean(mouths))}
    return result | against_truth(measured(videos, clips, seconds), recordings)


def speech_features(networks: Networks, recordings: list[Recording], stream: StreamConfig) -> list[np.ndarray]:
    """Of every recording as a live stream has them, chunk by chunk: [F, C] of the last layer."""
    context = stream.audio_context_seconds * stream.fps
    encode = compiled(lambda audio, wave: audio(normalize_waveform(wave)[None], context)[0, :, -1], networks.audio)
    step = stream.frames - stream.motion_frames
    result = []
    for recording in recordings:
        buffer, parts = SpeechBuffer(stream.audio_context_seconds, stream.sample_rate), []
        for begin in range(0, len(recording) - step + 1, step):
            buffer.push(recording.waveform(begin, begin + step))
            parts.append(np.asarray(encode(normalize_loudness(buffer.waveform, stream.sample_rate)))[-step:])
        result.append(np.concatenate(parts))
    return result


def check_audio(
    networks: Networks, recordings: list[Recording], stream: StreamConfig, clips: int, seconds: float
) -> dict[str, float]:
    known = [ProceduralSet(1, "train", 4 * clips, seconds).recording(number) for number in range(4 * clips)]
    features = [speech_features(networks, part, stream) for part in (known, recordings)]
    result = {}
    for name in ("openness", "width", "rounding"):
        x = np.concatenate(features[0]).astype(np.float64)
        y = np.concatenate([recording.truth()[name][: len(f)] for recording, f in zip(known, features[0], strict=True)])
        mean = x.mean(0)
        weights = np.linalg.solve((x - mean).T @ (x - mean) + RIDGE * np.eye(x.shape[1]), (x - mean).T @ (y - y.mean()))
        told = [(f - mean) @ weights for f in features[1]]
        pairs = zip(told, recordings, strict=True)
        result[f"{name}_correlation"] = float(np.mean([measure.correlation(t, r.truth()[name][: len(t)]) for t, r in pairs]))
    return result


def check_talk(networks: Networks, config: RunConfig, recordings: list[Recording], clips: int, seconds: float) -> dict[str, float]:
    size = config.stream.buckets[0]
    pipeline = Pipeline(networks, config, size, load_tokenizer(config.model.tokenizer, config.model.dit.text_len))
    videos, chunks, elapsed = [], 0, 0.0
    for number, recording in enumerate(recordings):
        session = pipeline.start(recording.portrait().astype(np.float32) / 127.5 - 1, seed=number)
        if number == 0:
            pipeline.warm_up(session)
        begun = time.perf_counter()
        parts = list(session.speak([recording.waveform()]))
        elapsed, video = elapsed + time.perf_counter() - begun, np.concatenate(parts)
        chunks += -(-len(video) // pipeline.geometry.new_frames)
        videos.append(video[: len(recording)])
    rest = {"seconds_a_chunk": elapsed / chunks, "steps": config.sampler.steps}
    return against_truth(measured(videos, clips, seconds), recordings) | rest


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE, run_config)
    if not values.out or not values.checkpoint:
        raise flags.UsageError(f"--out or --checkpoint is missing; {USAGE}")
    networks = load_networks(config.model, config.runtime.dtype, values.checkpoint)
    recordings = [ProceduralSet(0, "test", values.clips, values.seconds).recording(number) for number in range(values.clips)]
    given = (values.clips, values.seconds)
    out = Path(values.out)
    results = json.loads(out.read_text()) if out.exists() else {}
    for what in values.what:
        if what == "vae":
            results["vae"] = check_vae(networks, recordings, config.stream, *given)
        elif what == "audio":
            results["audio"] = check_audio(networks, recordings, config.stream, *given)
        elif what == "talk":
            results[values.name] = check_talk(networks, config, recordings, *given) | {"device": jax.devices()[0].device_kind}
        else:
            raise flags.UsageError(f"--what {what!r} is none of vae, audio, talk")
        out.write_text(json.dumps(results, indent=1))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    flags.run(main, sys.argv)
