"""Two streamed chunks on several devices, and on several processes, against one device."""

import dataclasses
import functools
import sys

import jax
import numpy as np
import pytest

from tests.processes import run_together

from .small import EVEN, UNEVEN, error, run_config, stream


@pytest.fixture(scope="module")
def on_one_device():
    @functools.cache
    def run(token_grid, persons: int):
        return stream(run_config(), token_grid, persons)[1:]

    return run


def check(frames, latents, expected) -> None:
    """Motion latents to 1e-4; frames up to what falls on the other side of a half when it is rounded to 8 bits."""
    expected_frames, expected_latents = expected
    assert error(latents, expected_latents) < 1e-4
    difference = np.abs(frames.astype(int) - expected_frames)
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


@pytest.mark.parametrize(
    ("plan", "token_grid", "persons"),
    [
        ({"devices": 8}, UNEVEN, 1),
        ({"devices": 4, "sequence": "1x4", "grid": "2x2", "weights": "cut"}, UNEVEN, 1),
        ({"devices": 8, "sequence": "4x2", "grid": "4x2", "head_groups": 2}, EVEN, 2),
    ],
    ids=["u8-uneven", "r4-uneven-cut-weights", "u4r2-even-two-persons-in-head-groups"],
)
def test_two_chunks_equal_one_device(on_one_device, plan, token_grid, persons):
    config = run_config()
    config = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, **plan))
    pipeline, frames, latents = stream(config, token_grid, persons)
    assert pipeline.layout.plan.devices == plan["devices"]
    assert pipeline.chunk_programs == 2, "the second chunk was compiled anew"
    weights = jax.tree.leaves(pipeline.networks.dit)
    share = sum(x.addressable_shards[0].data.size for x in weights) / sum(x.size for x in weights)
    assert share == 1 if config.parallel.weights == "whole" else share < 1.05 / plan["devices"]
    check(frames, latents, on_one_device(token_grid, persons))


def test_two_processes_equal_one_device(on_one_device, tmp_path):
    """Four devices each: Ulysses inside a process and a ring across them, chosen without being asked for."""
    run_together([sys.executable, "-m", "tests.parallel.worker", str(tmp_path)])
    for process in range(2):
        with np.load(tmp_path / f"{process}.npz") as result:
            assert str(result["plan"]) == "u4r2-g4x2"
            assert result["programs"] == 2
            check(result["frames"], result["latents"], on_one_device(UNEVEN, 1))


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match="9 devices were asked for, but there are 8"):
        stream(run_config().with_devices(9), EVEN, 1)
