"""A run that was killed at any moment and started again ends with the same bits as one that never was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from livetalk_jax import checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Begins train.py in a folder; programs are compiled by the first process of all."""
    cache = tmp_path_factory.mktemp("compiled")
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip

    def begin(stage: str, folder: Path, *overrides: str) -> subprocess.Popen:
        config = f"--config={ROOT / 'tests/training/sizes.py'}:{stage}"
        command = [sys.executable, "train.py", config, f"--workdir={folder}", *overrides]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    return begin


@pytest.fixture(scope="module")
def teacher(start, tmp_path_factory):
    """What all other runs of this file start from."""
    folder = tmp_path_factory.mktemp("teacher")
    finish(start("stage1", folder, "--config.loop.steps=1"))
    return f"--config.checkpoint={folder / 'student'}"


def finish(process: subprocess.Popen) -> str:
    """What it said; it must end well."""
    said = process.stderr.read()
    assert process.wait() == 0, said[-4000:]
    return said


def stop(process: subprocess.Popen, step: int, how: signal.Signals) -> int:
    """Send a signal once the step was reached; the exit status."""
    for line in process.stderr:
        if line.startswith(f"step {step}/"):
            process.send_signal(how)
            process.stderr.read()
            return process.wait()
    raise AssertionError(f"step {step} was never reached")


def student(folder: Path) -> dict[str, np.ndarray]:
    return dict(checkpoint.read(folder / "student", "dit"))


@pytest.mark.parametrize(("stage", "steps"), [("stage1", 300), ("stage2", 40)])
def test_same_bits_after_kill(start, teacher, tmp_path, stage, steps):
    overrides = [teacher, f"--config.loop.steps={steps}", "--config.loop.save_every=7"]
    whole = finish(start(stage, tmp_path / "whole", *overrides))
    assert f"step {steps}/{steps}: " in whole

    killed = tmp_path / "killed"
    assert stop(start(stage, killed, *overrides), steps // 5, signal.SIGKILL) == -signal.SIGKILL
    assert stop(start(stage, killed, *overrides), steps // 2, signal.SIGTERM) == 0
    assert not (killed / "student").exists()
    kept = sorted(int(path.name) for path in (killed / "checkpoints").iterdir())
    assert steps // 2 <= kept[-1] < steps, "SIGTERM must leave a checkpoint of the step it came in"
    last = finish(start(stage, killed, *overrides))
    assert f"step {kept[-1]}/" not in last, "what was done is not done again"

    expected, found = student(tmp_path / "whole"), student(killed)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)


def test_loss_that_is_not_finite(start, teacher, tmp_path):
    """One line that names the last good checkpoint, and exit status 2."""
    overrides = [teacher, "--config.loop.save_every=1", "--config.student.learning_rate=1e30", "--config.student.clip_norm=1e30"]
    process = start("stage1", tmp_path, *overrides)
    said = process.stderr.read()
    assert process.wait() == 2
    line = said.splitlines()[-1]
    assert line.startswith("train.py: training went astray at step ")
    assert f"the last good checkpoint is {tmp_path / 'checkpoints'}" in line


def test_another_configuration_is_refused(start, teacher, tmp_path):
    finish(start("stage1", tmp_path, teacher, "--config.loop.steps=1"))
    process = start("stage1", tmp_path, teacher, "--config.loop.steps=2", "--config.lora.rank=2")
    said = process.stderr.read()
    assert process.wait() == 2
    assert "is a checkpoint of another configuration" in said.splitlines()[-1]
