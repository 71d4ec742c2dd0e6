"""What the tests of this folder share: eight devices, networks of one layer, and the measure of error."""

import dataclasses

import jax
import numpy as np

from livetalk_jax.config import DiTConfig, RunConfig, VAEConfig
from livetalk_jax.configs import tiny
from livetalk_jax.parallel.layout import WHOLE, Layout
from livetalk_jax.parallel.plan import Pair, Plan, valid_plans
from livetalk_jax.stream.networks import random_networks
from livetalk_jax.stream.session import Pipeline, layout
from livetalk_jax.tokenizer import load_tokenizer

# 40 heads, so that the degrees are those of the 14B model; a width of 12 is the least that rotary tables divide evenly.
HEADS = 40
DIT = dataclasses.replace(
    DiTConfig.tiny(), dim=12 * HEADS, ffn_dim=64, num_heads=HEADS, num_layers=1, text_len=8, audio_context_tokens=4
)
VAE = VAEConfig.wan21(dim=4, num_res_blocks=1)

# No degree but 1 divides the rows; with 7 rows four devices hold 2, 2, 2 and 1.
UNEVEN, EVEN = (7, 3), (4, 2)


def plans(devices: int, token_grid: Pair) -> list[Plan]:
    return list(valid_plans(devices, HEADS, token_grid))


def lay(plan: Plan, token_grid: Pair) -> Layout:
    return Layout(plan, HEADS, token_grid, tuple(jax.devices()[: plan.devices]))


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error(ours, reference) -> float:
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))


def run_config() -> RunConfig:
    """`tiny` with the networks above and chunks of 13 frames in two steps: the last 4 are decoded when the others are there."""
    config = RunConfig.from_config_dict(tiny.get_config())
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dit=DIT, vae=VAE),
        stream=dataclasses.replace(config.stream, frames=13, motion_frames=5, audio_context_seconds=1),
        sampler=dataclasses.replace(config.sampler, steps=2),
    )


def stream(config: RunConfig, token_grid: Pair, persons: int) -> tuple[Pipeline, np.ndarray, np.ndarray]:
    """Two chunks of untrained networks: the pipeline, frames uint8 [F, Y, X, 3], and the last motion latents [B, M, H, W, C]."""
    h, w = token_grid
    size = (16 * h, 16 * w)
    where = layout(config, size)
    networks = random_networks(config.model, "float32", 0, where)
    pipeline = Pipeline(networks, config, size, load_tokenizer("bytes", config.model.dit.text_len))
    masks = None
    if persons == 2:
        masks = np.zeros((3, h, w), np.float32)
        masks[0, :, : w // 2], masks[1, :, w // 2 :] = 1, 1
        masks = masks.reshape(3, -1)
    session = pipeline.start(np.tanh(random(5, *size, 3)), masks=masks, seed=3)
    stream = config.stream
    speech = 0.1 * random(6, 2, persons, (stream.frames - stream.motion_frames) * stream.sample_rate // stream.fps)
    frames = [np.concatenate(session.generate(session.listen(piece))) for piece in speech]
    # The whole latents lie on devices of other processes too: gathered in a program, as frames are.
    gather = pipeline.spread(
        lambda latents: pipeline.parallel.gather_spatial(latents[0])[None], in_specs=(pipeline.specs[1].latents,), out_specs=WHOLE
    )
    return pipeline, np.concatenate(frames), np.asarray(gather(session.motion.latents))
