"""The arithmetic that a run's utilisation is reckoned by, against the network's own matrix products."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from livetalk_jax.config import DiTConfig
from livetalk_jax.models.dit import DiT
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.shapes import Geometry
from livetalk_jax.training.throughput import forward_flops, peak_flops
from tests.benchmarks.test_cost import count_products


def products(config: DiTConfig, geometry: Geometry) -> int:
    """FLOPs of a prediction's matrix products as they are traced, those of its conditions among them."""

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    def predict(network, x, condition, time, text, image, windows):
        rope = tuple(jnp.asarray(table) for table in rotary_3d(geometry.token_grid, config.head_dim))
        return network(x, condition, time, rope=rope, context=network.context(text, image), audio=network.audio(windows))

    network, grid = nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0))), geometry.latent_grid
    text, image = shape(1, config.text_len, config.text_dim), shape(1, 257, config.clip_dim)
    windows = shape(1, 1, geometry.frames, 5, config.audio_blocks, config.audio_channels)
    traced = jax.make_jaxpr(predict)(network, shape(1, *grid, 16), shape(1, *grid, 20), shape(1), text, image, windows)
    return count_products(traced.jaxpr)


def test_flops_are_those_of_the_network():
    """Two layers of 14B at 720×416. What is left out is embeddings of text, image, sound and time, which do not grow with layers."""
    geometry = Geometry(720, 416, 33, 5)
    one, two = (dataclasses.replace(DiTConfig.wan_14b(), num_layers=layers) for layers in (1, 2))
    told = [forward_flops(config, geometry.token_grid) for config in (one, two)]
    traced = [products(config, geometry) for config in (one, two)]
    assert told[1] - told[0] == pytest.approx(traced[1] - traced[0], rel=1e-3), "of a layer"
    assert told[1] == pytest.approx(traced[1], rel=0.02)


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [("NVIDIA H200", "bfloat16", 989e12), ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12), ("NVIDIA H200", "float32", None),
     ("cpu", "bfloat16", None)],
)  # fmt: skip
def test_peak_of_a_device(device, dtype, peak):
    assert peak_flops(types.SimpleNamespace(device_kind=device), dtype) == peak
