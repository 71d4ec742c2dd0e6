"""A command's second start compiles nothing that its first one compiled."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import jax, jax.numpy as jnp
from livetalk_jax.programs import keep_programs
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
keep_programs()
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))
print("/jax/compilation_cache/cache_hits" in seen)
"""


def start(home: Path, **settings: str) -> str:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(home), **settings}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_a_second_start_finds_the_programs(tmp_path):
    assert start(tmp_path) == "False"
    assert list((tmp_path / "livetalk-jax" / "programs").iterdir())
    assert start(tmp_path) == "True"


def test_jax_settings_come_first(tmp_path):
    start(tmp_path / "home", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "elsewhere"))
    assert list((tmp_path / "elsewhere").iterdir()) and not (tmp_path / "home").exists()
    start(tmp_path / "home", JAX_ENABLE_COMPILATION_CACHE="0")
    assert not (tmp_path / "home").exists()
