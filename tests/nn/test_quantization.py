"""Networks in 8 bits: which layers change, what they are divided by, and that padded rows of tokens change nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from livetalk_jax.config import DiTConfig
from livetalk_jax.models.dit import DiT
from livetalk_jax.nn.layers import Linear
from livetalk_jax.nn.quantization import DIT_FP8, MARGIN, QuantizedLinear, largest_inputs, quantize
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel

CONFIG = dataclasses.replace(DiTConfig.tiny(), num_layers=2)
GRID = (3, 5, 3)


def velocity(dit, parallel=ONE_DEVICE):
    def normal(seed, *shape):
        return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)

    @jax.jit
    def run(dit):
        context = dit.context(normal(2, 1, 4, CONFIG.text_dim), normal(3, 1, 7, CONFIG.clip_dim))
        audio = dit.audio(normal(4, 1, 1, 9, CONFIG.audio_window, CONFIG.audio_blocks, CONFIG.audio_channels))
        shape = (1, GRID[0], 2 * GRID[1], 2 * GRID[2])
        return dit(
            normal(0, *shape, 16), normal(1, *shape, 20), jnp.full((1,), 700.0), rope=rotary_3d(GRID, CONFIG.head_dim),
            context=context, audio=audio, parallel=parallel,
        )  # fmt: skip

    return np.asarray(run(dit), np.float64)


def error(ours, expected):
    return np.linalg.norm(ours - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def dit():
    return DiT(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def expected(dit):
    return velocity(dit)


@pytest.fixture(scope="module")
def largest(dit):
    return largest_inputs(dit, DIT_FP8, velocity)


def kinds(network):
    return {".".join(map(str, path)): type(module) for path, module in nnx.iter_modules(network)}


def test_the_table_changes_what_it_names_and_nothing_else(dit):
    before, after = kinds(dit), kinds(quantize(dit, DIT_FP8))
    changed = {path for path in before if before[path] is not after[path]}
    names = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.o"]
    names += ["audio_cross_attn.q_linear", "audio_cross_attn.proj", "ffn.fc1", "ffn.fc2"]
    assert changed == {f"blocks.layers.{i}.{name}" for i in range(CONFIG.num_layers) for name in names}
    assert all(before[path] is Linear and after[path] is QuantizedLinear for path in changed)


def test_weights_come_out_as_they_went_in(dit):
    small = quantize(dit, DIT_FP8).blocks.layers[1].ffn.fc1
    back = small.weight[...].astype(jnp.float32).T * small.scale[...]
    kernel = dit.blocks.layers[1].ffn.fc1.kernel[...]
    assert error(np.asarray(back, np.float64), np.asarray(kernel, np.float64)) < 2.0**-4 * 3**-0.5


def test_velocity_in_8_bits(dit, expected, largest):
    assert 1e-3 < error(velocity(quantize(dit, DIT_FP8)), expected) < 0.05
    assert 1e-3 < error(velocity(quantize(dit, DIT_FP8, largest)), expected) < 0.05


def test_largest_inputs(dit, largest):
    """Queries, keys and values have one input; every layer of the table is seen, and nothing is changed by looking."""
    assert len(largest) == 10 * CONFIG.num_layers
    assert largest["blocks.layers.0.self_attn.q"] == largest["blocks.layers.0.self_attn.v"] > 1.0
    assert largest["blocks.layers.0.ffn.fc2"] != largest["blocks.layers.1.ffn.fc2"]
    assert not any(kind is QuantizedLinear for kind in kinds(dit).values())
    divisor = float(quantize(dit, DIT_FP8, largest).blocks.layers[1].ffn.fc2.divisor[...])
    wanted = largest["blocks.layers.1.ffn.fc2"] * MARGIN / 448
    assert wanted <= divisor < 2 * wanted and np.log2(divisor) % 1 == 0


@pytest.mark.parametrize("multiple", [8, 16])
def test_padded_rows_change_nothing(dit, expected, multiple):
    assert np.prod(GRID) % 8 != 0
    assert error(velocity(dit, Parallel(row_multiple=multiple)), expected) < 1e-6


def test_tables_that_cannot_be(dit):
    with pytest.raises(ValueError, match=r"no linear layer of DiT matches blocks\\.z"):
        quantize(dit, {r"blocks\.z": "e4m3"})
    with pytest.raises(ValueError, match="unknown format 'int4'"):
        quantize(dit, {r"head\.head": "int4"})
