"""`livetalk data procedural`: drawn people who talk, as videos to look at and to prepare, or as arrays to train on."""

import json
import multiprocessing
import os
import sys
import wave
from pathlib import Path

import numpy as np
from absl import flags as absl_flags
from tqdm import tqdm

from livetalk_jax.data.procedural.dataset import CAPTION, FPS, ProceduralClips, ProceduralSet
from livetalk_jax.data.procedural.speech import SAMPLE_RATE, Synthesiser
from livetalk_jax.data.procedural.store import write_clips
from livetalk_jax.flags import UsageError, parse
from livetalk_jax.media import VideoWriter

USAGE = """usage: livetalk data procedural --out DIR --clips N [--split test] [--seconds 10] [--size 128x128] …

Writes DIR/person-NNNN/SPLIT-NNNNNN.mp4 with .wav, .json (truth of each frame) and .txt (caption): a root for
`livetalk data prepare --source folder --test_share 0`. With --chunks K it writes arrays of clips of K chunks instead.
"""


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)
    absl_flags.DEFINE_integer("clips", 8, "How many.", 1, flag_values=values)
    absl_flags.DEFINE_integer("first", 0, "Number of the first video: a later call goes on with more.", 0, flag_values=values)
    absl_flags.DEFINE_enum("split", "train", ["train", "test"], "Whose persons, voices and lines.", flag_values=values)
    absl_flags.DEFINE_float("seconds", 10.0, "Of each video.", 1.0, flag_values=values)
    absl_flags.DEFINE_string("size", "128x128", "Height x width in pixels, even.", flag_values=values)
    absl_flags.DEFINE_integer("chunks", None, "Arrays of clips of so many chunks, in place of videos.", 1, flag_values=values)
    absl_flags.DEFINE_integer("seed", 0, "Of everything drawn.", 0, flag_values=values)
    absl_flags.DEFINE_integer("crf", 14, "Quality of the videos, 0 (lossless) to 51.", 0, 51, flag_values=values)
    absl_flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes.", 1, flag_values=values)
    absl_flags.DEFINE_string("espeak_library", "", "Path of libespeak-ng; $ESPEAK_NG_LIBRARY, or the system's.", flag_values=values)
    absl_flags.DEFINE_string("espeak_data", "", "Path of espeak-ng-data; $ESPEAK_NG_DATA, or the library's.", flag_values=values)


def parse_size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.lower().replace("×", "x").split("x"))
    except ValueError:
        raise UsageError(f"size {text!r} is not height x width, such as 128x128") from None
    if min(height, width) < 64 or height % 2 or width % 2:
        raise UsageError(f"size {text!r}: both must be even and at least 64")
    return height, width


def write_video(task: tuple[ProceduralSet, int, str, int]) -> tuple[str, int]:
    """One recording as MP4, WAV, JSON and TXT; returns the name and how many frames."""
    data, number, out, crf = task
    sample = data[number]
    folder = Path(out) / f"person-{sample.about['person']:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{data.split}-{number:06d}.mp4"
    with wave.open(str(path.with_suffix(".wav")), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((sample.waveform * 32767).round().astype("<i2").tobytes())
    truth = {name: (np.round(values, 5) if values.dtype.kind == "f" else values).tolist() for name, values in sample.truth.items()}
    path.with_suffix(".json").write_text(json.dumps(sample.about | {"truth": truth}, ensure_ascii=False))
    path.with_suffix(".txt").write_text(CAPTION)
    with VideoWriter(path, data.height, data.width, fps=FPS, sample_rate=SAMPLE_RATE, crf=crf) as writer:
        writer.write_frames(sample.frames)
        writer.write_audio(sample.waveform)
    return path.name, len(sample.frames)


def main(argv: list[str]) -> None:
    values, config = parse(define, argv, USAGE)
    if not values.out:
        raise UsageError(f"--out is missing; see {argv[0]} --help")
    height, width = parse_size(values.size)
    synthesiser = Synthesiser(values.espeak_library, values.espeak_data)
    out = Path(values.out)
    if values.chunks:
        clips = ProceduralClips(
            values.seed, values.split, values.clips, config.stream, values.chunks, height, width, synthesiser=synthesiser
        )
        for _ in tqdm(write_clips(out, clips, values.workers), total=len(clips), unit="clip", file=sys.stderr):
            pass
        print(f"{out}: {len(clips)} clips of {values.chunks} chunks")
        return
    total = values.first + values.clips
    data = ProceduralSet(values.seed, values.split, total, values.seconds, height, width, synthesiser)
    tasks = [(data, number, str(out), values.crf) for number in range(values.first, total)]
    frames = 0
    with multiprocessing.get_context("spawn").Pool(min(values.workers, len(tasks))) as pool:
        for _, count in tqdm(pool.imap_unordered(write_video, tasks), total=len(tasks), unit="video", file=sys.stderr):
            frames += count
    print(f"{out}: {len(tasks)} videos, {frames / FPS / 3600:.2f} hours")
