"""Gradients are summed over devices in float32, whatever is computed in: 16-bit sums lose what is small beside the rest."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from livetalk_jax.benchmarks.memory import abstract_batch
from livetalk_jax.parallel.seams import Part, gather_weights
from livetalk_jax.training.config import TrainConfig
from livetalk_jax.training.stages import make_stage
from livetalk_jax.training.state import placement_for
from tests.training import sizes

# Sums have a region behind their operands, gathers have none.
SUMS = re.compile(r'stablehlo\.(all_reduce|reduce_scatter)".*?\}\) : \(tensor<(?:\d+x)*(\w+)>', re.DOTALL)
GATHERS = re.compile(r'stablehlo\.(all_gather)"[^\n]* : \(tensor<(?:\d+x)*(\w+)>')


@pytest.mark.parametrize(
    ("kind", "name", "fsdp"), [("stage1", "update", 1), ("stage1", "update", 2), ("stage2", "student's update", 2)]
)
def test_what_devices_exchange(kind, name, fsdp):
    """Copies of the weights with rows of their own, and weights in parts: gathered in 16 bits, summed in 32."""
    config = sizes.get_config(kind)
    config.runtime.dtype = "bfloat16"
    config.execution.update(fsdp=fsdp, scan=True, remat="full")
    config.data.batch = 4
    read = TrainConfig.from_config_dict(config)
    stage = make_stage(read, placement_for(read, jax.devices()[:4]), np.zeros((8, 16), np.float32))
    program = stage.programs(stage.abstract_state(), stage.abstract_frozen(), abstract_batch(read, stage))[name]
    text = program.run.lower(*program.arguments).as_text()
    found = {*SUMS.findall(text), *GATHERS.findall(text)}
    parts = {("all_gather", "bf16"), ("reduce_scatter", "f32")}
    assert found == {("all_reduce", "f32")} | (parts if fsdp > 1 else set())


def test_gradients_of_parts_are_summed_in_float32():
    """256 + 1 is 256 in bfloat16, so seven ones after it would be nothing."""
    mesh = Mesh(jax.devices()[:8], ("x",))
    weight = jnp.zeros((8, 1), jnp.bfloat16)
    given = jnp.asarray([256, *[1] * 7], jnp.bfloat16)

    def loss(rows, scale):
        return jnp.sum(gather_weights(Part(rows, ("x",))) * scale)

    specs = PartitionSpec("x", None), PartitionSpec("x")
    spread = jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    gradient = jax.jit(spread)(weight, given)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype(jnp.float32), np.full((8, 1), 264.0))  # 263, rounded once
