"""What makes the system smaller: a checkpoint in 8 bits, and a text encoder that stays on the host."""

import dataclasses

import jax
import numpy as np

from livetalk_jax import checkpoint
from livetalk_jax.nn.quantization import DIT_FP8, is_quantized, quantize
from livetalk_jax.quantize import in_eight_bits
from livetalk_jax.stream.networks import load_network
from livetalk_jax.stream.session import Pipeline

from .conftest import SIZE


def test_a_checkpoint_in_eight_bits(networks, small, tokenize, tmp_path):
    rng = np.random.default_rng(0)
    portrait = rng.uniform(-1, 1, (*SIZE, 3)).astype(np.float32)
    dit = in_eight_bits(networks, small.with_steps(1), portrait, rng.normal(0, 0.1, 6000), tokenize)
    assert is_quantized(dit) and not is_quantized(networks.dit)
    # A random network's inputs are of the order of one: nothing was left at a scale that nobody looked for.
    fc1 = dit.blocks.layers[0].ffn.fc1
    assert 2**-9 <= float(fc1.divisor[...]) <= 2**-2

    checkpoint.save(tmp_path / "short", {"dit": dit}, {"dit": small.model.dit}, origin="a test")
    again = load_network(small.model, "dit", "float32", tmp_path / "short")
    assert jax.tree.structure(again) == jax.tree.structure(dit)
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(dit), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(np.float32(ours), np.float32(theirs))


def test_a_quantized_network_is_not_quantized_again(networks, small, tokenize):
    short = networks._replace(dit=quantize(networks.dit, DIT_FP8))
    config = dataclasses.replace(small, runtime=dataclasses.replace(small.runtime, linear="fp8"))
    given, made = (Pipeline(networks, config, SIZE, tokenize).networks.dit for networks in (short, networks))
    assert jax.tree.structure(given) == jax.tree.structure(made)


def test_a_text_encoder_on_the_host_says_the_same(networks, small, tokenize, pipeline):
    config = dataclasses.replace(small, runtime=dataclasses.replace(small.runtime, text_encoder="host"))
    host = Pipeline(networks, config, SIZE, tokenize)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host.networks.text))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(host.networks.dit))
    ids = tokenize(["A man talks."])
    np.testing.assert_array_equal(host._encode_text(*ids), pipeline._encode_text(*ids))
