"""`livetalk quantize`: a checkpoint in, one with the transformer's large matrices in 8 bits out: half its memory.

One chunk is generated from a portrait and speech to see how large the inputs of these layers become; what each is divided by is then
a fixed number, kept beside the weights, which is the fastest (`nn.quantization`).
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from absl import flags as absl_flags

from livetalk_jax import checkpoint, flags, media
from livetalk_jax.config import RunConfig
from livetalk_jax.diffusion.sampler import noise_draws
from livetalk_jax.models.dit import DiT
from livetalk_jax.nn.quantization import DIT_FP8, largest_inputs, quantize
from livetalk_jax.stream.chunk import denoise
from livetalk_jax.stream.networks import Networks, compiled, load_networks
from livetalk_jax.stream.session import Pipeline
from livetalk_jax.tokenizer import Tokenize, load_tokenizer

USAGE = "usage: livetalk quantize --config soulx_14b --checkpoint DIR --image P --audio A --out NEW_DIR"


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("checkpoint", None, "Folder made by `livetalk convert import`, or by training.", flag_values=values)
    absl_flags.DEFINE_string("image", None, "Portrait.", flag_values=values)
    absl_flags.DEFINE_string("audio", None, "Speech; its first chunk is used.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Folder of the new checkpoint.", flag_values=values)


def in_eight_bits(networks: Networks, config: RunConfig, portrait: np.ndarray, speech: np.ndarray, tokenize: Tokenize) -> DiT:
    """The transformer in 8 bits, its inputs divided by what one chunk on the first device shows.

    Args:
        networks: native, on that device.
        portrait: float32 [Y, X, 3] in [−1, 1].
        speech: float [samples].
    """
    runtime = dataclasses.replace(config.runtime, linear="native")
    config = dataclasses.replace(config, runtime=runtime).with_devices(1)
    pipeline = Pipeline(networks, config, portrait.shape[:2], tokenize)
    session = pipeline.start(portrait)
    stream, sampler, geometry = config.stream, config.sampler, pipeline.geometry
    samples = geometry.new_frames * stream.sample_rate // stream.fps
    windows = session.listen([np.pad(speech[:samples], (0, max(0, samples - len(speech))))])
    shape = (noise_draws(sampler.method, sampler.steps), 1, *geometry.latent_grid, networks.dit.config.out_channels)
    noise = jax.random.normal(jax.random.key(0), shape)

    def run(dit: DiT):
        def latents(dit, conditions, windows, noise, motion):
            return denoise(dit, conditions, windows, noise, motion, sampler=sampler, parallel=pipeline.parallel)

        return compiled(latents, dit)(session.conditions, windows, noise, session.motion)

    return quantize(networks.dit, DIT_FP8, largest_inputs(networks.dit, DIT_FP8, run))


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE)
    for name in ("checkpoint", "image", "audio", "out"):
        if not values[name].value:
            raise flags.UsageError(f"--{name} is missing; see {argv[0]} --help")
    if Path(values.out).exists():
        raise flags.UsageError(f"{values.out} exists already; give the name of a new folder")
    image = media.load_image(values.image)
    speech = media.load_audio(values.audio, config.stream.sample_rate)
    portrait = media.prepare_portrait(image, *media.nearest_bucket(image.shape[:2], config.stream.buckets))
    tokenize = load_tokenizer(
        checkpoint.read_manifest(values.checkpoint).tokenizer or config.model.tokenizer, config.model.dit.text_len
    )
    networks = load_networks(config.model, config.runtime.dtype, values.checkpoint)
    dit = in_eight_bits(networks, config, portrait, speech, tokenize)
    origin = f"{checkpoint.read_manifest(values.checkpoint).origin}; the transformer in 8 bits by livetalk quantize"
    checkpoint.save(values.out, {"dit": dit}, {"dit": config.model.dit}, origin=origin, like=values.checkpoint)
    print(f"{values.out}: the transformer holds {sum(x.nbytes for x in jax.tree.leaves(dit)) / 1e9:.2f} GB")
