"""How a configuration shares out devices, and what is refused."""

import jax
import pytest

from livetalk_jax.config import TrainConfig
from livetalk_jax.training.state import placement_for
from tests.training import sizes


def place(**execution):
    config = sizes.get_config("stage1")
    config.stream.buckets = ((48, 32), (32, 64))
    config.data.batch = execution.pop("batch", 8)
    config.execution.update(execution)
    return placement_for(TrainConfig.from_config_dict(config), jax.devices())


@pytest.mark.parametrize(
    ("execution", "plan"),
    [
        ({}, "u1r1-g1x1-f8"),
        ({"fsdp": 2}, "u1r1-g1x1-d4-f2"),
        ({"sequence": "2x1"}, "u2r1-g1x2-f4"),
        ({"sequence": "2x2", "grid": "2x2", "fsdp": 1}, "u2r2-g2x2-d2"),
        ({"sequence": "auto", "grid": "1x2", "fsdp": 1, "batch": 4}, "u2r1-g1x2-d4"),
    ],
)
def test_plan(execution, plan):
    where = place(**execution)
    assert where.plan.name == plan
    assert where.readers == (1, 0)


@pytest.mark.parametrize(
    ("execution", "line"),
    [
        ({"fsdp": 3}, "8 devices are not copies of config.execution.fsdp 3 × 1 that share a video"),
        ({"sequence": "3x1"}, "8 devices are not copies of config.execution.fsdp 2 × 3 that share a video"),
        ({"sequence": "4x1"}, r"Ulysses 4 does not divide the model's 2 heads; the nearest plan that works: sequence 2x2"),
        ({"batch": 6}, "config.data.batch 6 is not a multiple of the 8 rows computed at a time"),
        ({"sequence": "auto"}, "config.execution.sequence and grid are both auto"),
        ({"sequence": "many"}, "config.execution.sequence must be auto or two numbers such as 4x2, not 'many'"),
    ],
)
def test_refused(execution, line):
    with pytest.raises(ValueError, match=line):
        place(**execution)
