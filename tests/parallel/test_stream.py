"""Two streamed chunks on several devices, and on several processes, against one device."""

import dataclasses
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    workers = []
    for process in range(2):
        environment = {
            **os.environ, "JAX_PLATFORMS": "cpu", "LIVETALK_COORDINATOR": address, "LIVETALK_PROCESSES": "2",
            "LIVETALK_PROCESS": str(process),
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.parallel.worker", str(tmp_path / f"{process}.npz")]
        workers.append(
            subprocess.Popen(
                command, env=environment, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        for worker in workers:
            output, _ = worker.communicate(timeout=600)
            assert worker.returncode == 0, output
    finally:
        for worker in workers:
            worker.kill()
    for process in range(2):
        with np.load(tmp_path / f"{process}.npz") as result:
            assert str(result["plan"]) == "u4r2-g4x2"
            assert result["programs"] == 2
            check(result["frames"], result["latents"], on_one_device(UNEVEN, 1))


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match="9 devices were asked for, but there are 8"):
        stream(run_config().with_devices(9), EVEN, 1)
