"""FSDP: who holds which part of the weights, and weights read from a checkpoint straight to their parts."""

import dataclasses
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from livetalk_jax import checkpoint
from livetalk_jax.config import DiTConfig
from livetalk_jax.models.dit import DiT
from livetalk_jax.parallel.mesh import make_mesh
from livetalk_jax.parallel.placement import SHARED, by_path, global_norm, shardings
from livetalk_jax.parallel.plan import Plan

from .small import DIT


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(Plan(data=2, fsdp=2, ulysses=2, columns=2), jax.devices())


def abstract(config: DiTConfig):
    return nnx.split(nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0))), nnx.Param)


def test_nearly_all_of_the_14b_model_is_shared_out(mesh):
    _, state = abstract(dataclasses.replace(DiTConfig.wan_14b(), num_layers=2))
    total = held = 0
    for x, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings(mesh, state)), strict=True):
        total += math.prod(x.shape)
        held += math.prod(sharding.shard_shape(x.shape))
    assert total > 1e9
    assert held < 1.002 * total / 4


def test_a_state_that_repeats_the_names(mesh):
    """As optimisers keep them; vectors stay whole, and what does not divide."""
    tree = {
        "mu": {"a": {"kernel": jnp.zeros((8, 6)), "bias": jnp.zeros(6)}},
        "odd": {"kernel": jnp.zeros((7, 4))},
        "count": jnp.zeros(()),
    }
    specs = jax.tree.map(lambda s: s.spec, shardings(mesh, tree))
    assert specs["mu"]["a"] == {"kernel": PartitionSpec(SHARED, None), "bias": PartitionSpec()}
    assert specs["odd"]["kernel"] == specs["count"] == PartitionSpec()


def test_the_norm_of_arrays_in_parts(mesh):
    """Parts are counted once each, whole arrays and copies once, by one sum over devices."""
    rng = np.random.default_rng(0)
    tree = {"a": {"kernel": rng.normal(size=(8, 6)), "bias": rng.normal(size=6)}, "odd": {"kernel": rng.normal(size=(7, 4))}}
    tree = jax.tree.map(jnp.float32, tree)
    norm = jax.jit(lambda tree: global_norm(mesh, tree)).lower(jax.device_put(tree, shardings(mesh, tree)))
    expected = np.sqrt(sum(np.sum(np.square(np.float64(x))) for x in jax.tree.leaves(tree)))
    np.testing.assert_allclose(norm.compile()(jax.device_put(tree, shardings(mesh, tree))), expected, rtol=1e-6)
    assert norm.as_text().count("all_reduce") == 1


def test_a_checkpoint_is_read_into_its_parts(mesh, tmp_path):
    config = dataclasses.replace(DIT, dim=48, num_heads=4, ffn_dim=32)
    network = DiT(config, rngs=nnx.Rngs(0))
    checkpoint.save(tmp_path / "saved", {"dit": network}, {"dit": config}, origin="test")
    _, state = abstract(config)
    loaded = checkpoint.load_network(tmp_path / "saved", "dit", state, config=config, sharding=by_path(shardings(mesh, state)))
    kernel = loaded["blocks"]["layers"][0]["ffn"]["fc1"]["kernel"][...]
    assert kernel.sharding.spec == PartitionSpec(SHARED, None)
    assert kernel.addressable_shards[0].data.shape == (12, 32)
    for mine, saved in zip(jax.tree.leaves(loaded), jax.tree.leaves(nnx.state(network, nnx.Param)), strict=True):
        np.testing.assert_array_equal(mine, saved)


def test_a_mesh_is_for_as_many_devices():
    with pytest.raises(ValueError, match="the plan is for 4 devices, not 8"):
        make_mesh(Plan(ulysses=4, columns=4), jax.devices())


def test_ulysses_across_hosts_is_told(caplog):
    @dataclasses.dataclass(frozen=True)
    class Device:
        process_index: int
        id: int

    class Mesh:
        def __init__(self, *args, **kwargs):
            pass

    devices = [Device(i // 2, i) for i in range(4)]
    with caplog.at_level(logging.WARNING), pytest.MonkeyPatch.context() as patch:
        patch.setattr("livetalk_jax.parallel.mesh.Mesh", Mesh)
        make_mesh(Plan(ulysses=2, ring=2, columns=4), devices)
        assert not caplog.records
        make_mesh(Plan(ulysses=4, columns=4), devices)
    assert "1 of 1 Ulysses groups of 4 devices span several hosts" in caplog.text
