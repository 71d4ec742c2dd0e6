"""Eight devices compute what one computes: losses and gradients of both stages, weights shared out."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_eight_devices_equal_one():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.training.devices"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report) == {"stage1 u1r1-g1x1-f8", "stage1 u1r1-g1x1-d2-f4", "stage2 u1r1-g1x1-f8"}
    for name, run in report.items():
        assert run["shared"] > 40, f"{name}: weights are not shared out"
        worst = max(run["differences"], key=run["differences"].get)
        assert run["differences"][worst] < 1e-3, f"{name}: {worst} differs by {run['differences'][worst]:.1e}"
