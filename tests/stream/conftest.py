"""One set of small networks, made once for all tests of the stream."""

import pytest

from livetalk_jax.config import RunConfig
from livetalk_jax.configs import tiny
from livetalk_jax.stream.networks import random_networks
from livetalk_jax.stream.session import Pipeline
from livetalk_jax.tokenizer import load_tokenizer

SIZE = (32, 48)
FRAMES, MOTION = 13, 5  # chunks of 8 new frames: 5,120 samples


@pytest.fixture(scope="session")
def small() -> RunConfig:
    """The tiny configuration with fewer layers, pixels, frames and steps: what is compiled is what costs."""
    config = tiny.get_config()
    config.model.dit.update(dim=64, ffn_dim=96, num_heads=2, num_layers=1)
    config.model.text.num_layers = config.model.clip.num_layers = 1
    config.stream.buckets = (SIZE,)
    config.stream.frames, config.stream.motion_frames = FRAMES, MOTION
    config.sampler.steps = 2
    return RunConfig.from_config_dict(config)


@pytest.fixture(scope="session")
def networks(small):
    return random_networks(small.model, "float32", seed=0)


@pytest.fixture(scope="session")
def tokenize(small):
    return load_tokenizer("bytes", small.model.dit.text_len)


@pytest.fixture(scope="session")
def pipeline(networks, small, tokenize):
    """Compiled by whoever comes first."""
    return Pipeline(networks, small, SIZE, tokenize)
