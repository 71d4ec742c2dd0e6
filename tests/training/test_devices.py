"""Eight devices compute what one computes, losses and gradients of both stages: weights shared out, and videos too."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_eight_devices_equal_one(teacher):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.training.devices", teacher]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    ran = {"stage1 u1r1-g1x1-f8": 8, "stage1 u2r1-g1x2-d2-f2": 4, "stage2 u2r2-g2x2-f2": 8}
    assert set(report) == set(ran)
    for name, run in report.items():
        assert run["share"] < 1 / ran[name] + 0.05, f"{name}: a device holds {run['share']:.3f} of the weights"
        worst = max(run["differences"], key=run["differences"].get)
        assert run["differences"][worst] < 1e-5, f"{name}: {worst} differs by {run['differences'][worst]:.1e}"
