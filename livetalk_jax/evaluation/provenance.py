"""Where a run's numbers come from: the checkpoint, the code, the machine."""

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from livetalk_jax import checkpoint

WHOLE = 256 << 20  # bytes of a checkpoint that are all digested: a second at most
ROOT = Path(__file__).parents[2]  # of the checkout, if this program runs from one
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which checkpoint it is.

    Attributes:
        folder: as it was given.
        origin: as the manifest tells.
        digest: the first 16 digits of a SHA-256.
        digest_of: what went into it: of large checkpoints not the tensors.
    """

    folder: str
    origin: str
    digest: str
    digest_of: str


def identify(folder: str | os.PathLike) -> Identity:
    """Raises CheckpointError: the folder is no checkpoint."""
    manifest = checkpoint.read_manifest(folder)
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    whole = sum(path.stat().st_size for path in paths) <= WHOLE
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        if whole or path.name == checkpoint.MANIFEST:
            digest.update(path.read_bytes())
    what = "all bytes" if whole else "the manifest, names and sizes"
    return Identity(str(folder), manifest.origin, digest.hexdigest()[:16], what)


def _commit() -> str:
    """Of the checkout that this program runs from, "-dirty" where files differ from it; "unknown" where it is none."""
    if not (ROOT / ".git").exists():  # else git would look further up, and find somebody else's
        return UNKNOWN
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def _version(name: str) -> str:
    """Of an installed package; "unknown" of one that runs from a folder that was never installed, as this one may."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def surroundings() -> dict[str, Any]:
    """Versions and hardware."""
    names = ("livetalk-jax", "jax", "flax", "numpy", "scipy", "av", "transformers")
    devices = jax.devices()
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in names},
        "commit": _commit(),
        "device": f"{len(devices)} × {devices[0].device_kind}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
    }
