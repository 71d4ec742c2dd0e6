"""What the tests of this folder share: eight devices, networks of one layer, and the measure of error."""

import dataclasses

import jax
import numpy as np

from livetalk_jax.config import DiTConfig, RunConfig, VAEConfig
from livetalk_jax.configs import tiny
from livetalk_jax.parallel.layout import Layout
from livetalk_jax.parallel.plan import Pair, Plan, valid_plans

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
    """`tiny` with the networks above and chunks of 9 frames in two steps."""
    config = RunConfig.from_config_dict(tiny.get_config())
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dit=DIT, vae=VAE),
        stream=dataclasses.replace(config.stream, frames=9, motion_frames=5, audio_context_seconds=1),
        sampler=dataclasses.replace(config.sampler, steps=2),
    )
