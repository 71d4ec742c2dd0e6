"""Compiled programs kept on disk: the second start of a command finds them instead of compiling for minutes."""

import os
from pathlib import Path

import jax


def keep_programs() -> None:
    """Keep what this process compiles in ~/.cache/livetalk-jax/programs (or below XDG_CACHE_HOME).

    JAX's own settings come first: JAX_COMPILATION_CACHE_DIR is another folder, JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing. Programs
    are found by their text, JAX's version, XLA's options and the kind of device, so a stale one is never run.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "livetalk-jax" / "programs"))
