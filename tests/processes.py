"""Two processes of this machine as one run, as LIVETALK_* tells them."""

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_together(command: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Run a command in both to its good end; what each said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"LIVETALK_COORDINATOR": f"127.0.0.1:{free.getsockname()[1]}", "LIVETALK_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, env={**environment, **world, "JAX_PLATFORMS": "cpu", "LIVETALK_PROCESS": str(number)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        with ThreadPoolExecutor() as readers:
            said = list(readers.map(lambda process: process.communicate(timeout=600)[1], processes))
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    return said
