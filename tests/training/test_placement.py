"""How a configuration shares out devices, and what is refused."""

from types import SimpleNamespace

import jax
import pytest

from livetalk_jax.parallel.plan import Plan
from livetalk_jax.training.config import TrainConfig
from livetalk_jax.training.state import Placement, Readers, placement_for
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
    assert where.readers == Readers(1, 0)


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


@pytest.mark.parametrize(
    ("plan", "processes", "shares"),
    [
        (Plan(data=4, fsdp=2), 2, [(2, 0), (2, 1)]),
        (Plan(fsdp=4, ulysses=2, columns=2), 4, [(4, 0), (4, 1), (4, 2), (4, 3)]),
        (Plan(fsdp=2, ulysses=4, rows=2, columns=2), 4, [(2, 0), (2, 0), (2, 1), (2, 1)]),
        (Plan(ulysses=4, ring=2, rows=4, columns=2), 2, [(1, 0), (1, 0)]),
    ],
    ids=["rows apart", "videos inside processes", "two processes a video", "one video"],
)
def test_processes_of_one_video_read_the_same(monkeypatch, plan, processes, shares):
    where = Placement(plan, tuple(SimpleNamespace(process_index=i * processes // 8) for i in range(8)))  # type: ignore[arg-type]
    for process, share in enumerate(shares):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert where.readers == Readers(*share)


def test_videos_and_processes_that_cut_across_each_other():
    where = Placement(Plan(fsdp=2, ring=3, rows=3), tuple(SimpleNamespace(process_index=i // 2) for i in range(6)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one video has 3 devices and a process 2: one must divide the other"):
        _ = where.readers
