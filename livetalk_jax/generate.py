"""`livetalk generate`: a portrait and one or two recordings in, an MP4 out."""

import collections
import logging
import os
import sys
import time

import jax
import numpy as np
from absl import flags as absl_flags
from tqdm import tqdm

from livetalk_jax import checkpoint, flags, media
from livetalk_jax.config import ModelConfig, RunConfig
from livetalk_jax.parallel.distributed import initialize
from livetalk_jax.parallel.layout import Layout
from livetalk_jax.programs import keep_programs
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.audio import video_frames
from livetalk_jax.stream.conditioning import default_boxes, person_masks
from livetalk_jax.stream.networks import Networks, load_networks, random_networks
from livetalk_jax.stream.session import Pipeline, Session, layout
from livetalk_jax.tokenizer import load_tokenizer

USAGE = """usage: livetalk generate --image P --audio A --out V.mp4 [--config tiny] [--checkpoint DIR] …

Two persons: --audio A --audio B, and if the halves of the picture do not hold them, --box L,T,R,B --box L,T,R,B.
"""


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("image", None, "Portrait: any picture that Pillow reads.", flag_values=values)
    absl_flags.DEFINE_multi_string("audio", None, "Speech: any file with sound; twice for two persons.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "The MP4 to write.", flag_values=values)
    absl_flags.DEFINE_string("checkpoint", None, "Folder made by `livetalk convert import`, or by training.", flag_values=values)
    absl_flags.DEFINE_string("prompt", None, "What is to be seen; the configuration's prompt if left out.", flag_values=values)
    absl_flags.DEFINE_integer("seed", 0, "Of the noise; the same seed gives the same bits.", flag_values=values)
    absl_flags.DEFINE_integer("steps", None, "Denoising steps, for --config.sampler.steps.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_multi_string("box", None, "left,top,right,bottom of a person in image pixels.", flag_values=values)


def parse_box(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, right, bottom = map(int, text.split(","))
    except ValueError:
        raise flags.UsageError(f"box {text!r} is not left,top,right,bottom in whole pixels, such as 10,20,300,400") from None
    return left, top, right, bottom


def checkpoint_for(model: ModelConfig, folder: str | os.PathLike | None) -> str | os.PathLike | None:
    """`folder`, or the checkpoint that is shipped for networks of these sizes; None where there is none."""
    return folder or checkpoint.shipped({name: part for name, part in vars(model).items() if name != "tokenizer"})


def networks_for(config: RunConfig, folder: str | os.PathLike | None, where: Layout) -> Networks:
    """The checkpoint's networks, or those that are shipped for this configuration, or untrained ones, which is said in one line."""
    folder = checkpoint_for(config.model, folder)
    if folder is not None:
        return load_networks(config.model, config.runtime.dtype, folder, where)
    print("no checkpoint given: the networks are untrained, so the video is noise in the shape of a video", file=sys.stderr)
    return random_networks(config.model, config.runtime.dtype, seed=0, where=where, linear=config.runtime.linear)


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE)
    initialize()
    keep_programs()
    for name in ("image", "audio", "out"):
        if not values[name].value:
            raise flags.UsageError(f"--{name} is missing; see {argv[0]} --help")
    if values.steps is not None:
        config = config.with_steps(values.steps)
    if not 1 <= len(values.audio) <= 2:
        raise flags.UsageError(f"{len(values.audio)} recordings were given: one person or two can speak")
    if values.box and len(values.audio) == 1:
        raise flags.UsageError("--box is for two persons; give --audio twice, or leave --box out")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("livetalk_jax").setLevel(logging.INFO)

    # Everything that the user gave is looked at before anything slow begins.
    image = media.load_image(values.image)
    stream = config.stream
    speech = [media.load_audio(path, stream.sample_rate) for path in values.audio]
    size = media.nearest_bucket(image.shape[:2], stream.buckets)
    geometry = Geometry(*size, stream.frames, stream.motion_frames)
    portrait = media.prepare_portrait(image, *size)
    masks = None
    if len(speech) == 2:
        boxes = [parse_box(box) for box in values.box] if values.box else default_boxes(image.shape[:2])
        masks = person_masks(image.shape[:2], boxes, geometry)
    where = layout(config, size)
    tokenizer = config.model.tokenizer
    if values.checkpoint is not None:
        tokenizer = checkpoint.read_manifest(values.checkpoint).tokenizer or tokenizer

    def begin() -> Session:
        tokenize = load_tokenizer(tokenizer, config.model.dit.text_len)
        pipeline = Pipeline(networks_for(config, values.checkpoint, where), config, size, tokenize)
        session = pipeline.start(portrait, prompt=values.prompt, masks=masks, seed=values.seed)
        pipeline.warm_up(session)
        return session

    if jax.process_index() != 0:  # computes with the others; process 0 writes
        collections.deque(begin().speak(speech), maxlen=0)
        return
    writer = media.VideoWriter(values.out, *size, fps=stream.fps, sample_rate=stream.sample_rate)
    started = time.perf_counter()
    session = begin()
    print(f"networks ready in {time.perf_counter() - started:.1f} s on {jax.devices()[0].device_kind}", file=sys.stderr)

    longest = max(map(len, speech))
    seconds = longest / stream.sample_rate
    mixed = np.sum([np.pad(waveform, (0, longest - len(waveform))) for waveform in speech], axis=0)
    total = video_frames(longest, stream.sample_rate, stream.fps)
    begun = time.perf_counter()
    with writer, tqdm(total=total, unit="frame", desc="generating", file=sys.stderr) as bar:
        spoken = 0
        for frames in session.speak(speech):
            writer.write_frames(frames)
            until = writer.frames_written * stream.sample_rate // stream.fps
            writer.write_audio(mixed[spoken:until])
            spoken = until
            rate = writer.frames_written / (time.perf_counter() - begun)
            bar.set_postfix_str(f"{rate:.1f} frames/s, {rate / stream.fps:.2f}× real time")
            bar.update(len(frames))
    elapsed = time.perf_counter() - begun
    print(
        f"{values.out}: {writer.frames_written} frames of {size[1]}×{size[0]}, {seconds:.2f} s of speech in {elapsed:.1f} s: "
        f"{writer.frames_written / elapsed:.1f} frames/s, real-time factor {seconds / elapsed:.2f}"
    )
    if memory := where.devices[0].memory_stats():  # None on a CPU
        print(f"peak memory of a device: {memory['peak_bytes_in_use'] / 2**30:.1f} GiB")
