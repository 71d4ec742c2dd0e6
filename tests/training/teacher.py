"""A checkpoint that training starts from: small random numbers, for which nothing is compiled."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx

from livetalk_jax import checkpoint
from livetalk_jax.config import ModelConfig
from livetalk_jax.stream.networks import random_network

NETWORKS = ("dit", "vae", "text", "clip", "audio")


def numbers(model: ModelConfig, name: str) -> nnx.State:
    """Gains about one, all else about zero."""
    rng = np.random.default_rng(0)
    shapes = nnx.state(nnx.eval_shape(lambda: random_network(model, name, "float32", 0)), nnx.Param)
    return jax.tree_util.tree_map_with_path(
        lambda path, x: 0.1 * rng.standard_normal(x.shape, np.float32) + ("scale" in jax.tree_util.keystr(path)), shapes
    )


def write_teacher(folder: Path, model: ModelConfig, networks: tuple[str, ...] = NETWORKS) -> str:
    """The networks of a model, in a folder that does not exist yet; its path, as configurations have it."""
    sizes = {name: getattr(model, name) for name in networks}
    checkpoint.save(folder, {name: numbers(model, name) for name in networks}, sizes, origin="a test")
    return str(folder)
