"""Checkpoints of this program: one folder that holds the networks of one system, their sizes, and all that an export needs.

    livetalk.json     the manifest: format version; for each network its configuration and the form of names it was published in
    dit/ vae/ …       an Orbax checkpoint for each network: a flat tree, our dotted path → array, in the dtype it was published in
    dit.unused/ …     published tensors that our network does not have, under their published names
    files/            small files of the published checkpoint: tokenizers, config.json

Each Orbax checkpoint is written in groups of tensors (Orbax's partial saving) into a folder of a temporary name that takes its
final name when it is whole: nothing larger than a group, or than the largest tensor, is held in memory. It is an ordinary Orbax
checkpoint for everybody who reads it. Arrays are stored uncompressed, in chunks of `CHUNK_BYTES`, so that every device of a mesh
reads its own part.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

MANIFEST = "livetalk.json"
FORMAT = 1
GROUP_BYTES = 256 << 20
CHUNK_BYTES = 32 << 20
READ_BYTES = 1 << 30


class CheckpointError(ValueError):
    """One line: what is wrong with a checkpoint, and what would be right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        configurations: network ("dit", "vae", "text", "clip", "audio") → its configuration's fields.
        forms: network → form of published names that an export writes again (`livetalk_jax.conversion.layouts`).
        origin: where the numbers come from, for people.
        tokenizer: folder of the prompt's tokenizer, or none; written relative to the checkpoint, whole from `read_manifest`.
    """

    configurations: dict[str, dict[str, Any]]
    forms: dict[str, str]
    origin: str
    tokenizer: str | None


def read_manifest(path: str | os.PathLike) -> Manifest:
    """The manifest of the checkpoint in folder `path`.

    Raises:
        CheckpointError: there is none that this program can read.
    """
    manifest = _stored_manifest(Path(path))
    return dataclasses.replace(manifest, tokenizer=manifest.tokenizer and str(Path(path) / manifest.tokenizer))


def _stored_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest.pop("format") != FORMAT:
            raise CheckpointError(f"{path} was written by another version of this program; it must have format {FORMAT}")
        return Manifest(**manifest)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is not a checkpoint of this program (it has no {MANIFEST}); "
            f"a published one is imported by: python -m livetalk_jax.conversion import --from {path} --to NEW_FOLDER"
        ) from None
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError):
        raise CheckpointError(f"{path / MANIFEST} cannot be read; import the checkpoint again") from None


SHIPPED = Path(__file__).parent / "checkpoints"


def shipped(configurations: Mapping[str, Any]) -> Path | None:
    """The checkpoint that comes with this program for networks of exactly these configurations (name → dataclass), or None."""
    wanted = json.loads(json.dumps({name: dataclasses.asdict(value) for name, value in configurations.items()}))
    for manifest in sorted(SHIPPED.glob(f"*/{MANIFEST}")):
        if _stored_manifest(manifest.parent).configurations == wanted:
            return manifest.parent
    return None


class Writer:
    """Writes a checkpoint tensor by tensor; a context manager. The folder appears under its name when all of it is there.

    In a run of several processes all of them write the same tensors, each its parts of them, into one file system.

    Raises:
        CheckpointError: `path` exists.
        OSError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike, manifest: Manifest):
        self.path = Path(path).absolute()
        if self.path.exists():
            raise CheckpointError(f"{self.path} exists already; give the name of a new folder, or remove it")
        self._manifest = manifest
        self._temporary = self.path.parent / f".{self.path.name}.partial"
        self._first = jax.process_index() == 0
        self._groups: dict[str, set[str]] = {}
        self._waiting: dict[str, Any] = {}
        self._waiting_group = ""

    def __enter__(self) -> Self:
        if self._first:
            shutil.rmtree(self._temporary, ignore_errors=True)  # of one that was killed
            self._temporary.mkdir(parents=True)
        multihost_utils.sync_global_devices(f"{self.path} is begun")
        return self

    def add(self, group: str, name: str, array: np.ndarray | jax.Array) -> None:
        """One tensor of `group`: a network's name for its parameters, or that with ".unused"."""
        if name in self._groups.setdefault(group, set()):
            raise CheckpointError(f"{group} has two tensors {name}")
        if group != self._waiting_group:
            self._flush()
            self._waiting_group = group
        self._groups[group].add(name)
        self._waiting[name] = contiguous(array) if isinstance(array, np.ndarray) else array
        if sum(waiting.nbytes for waiting in self._waiting.values()) >= GROUP_BYTES:
            self._flush()

    def add_file(self, source: Path, name: str) -> None:
        """Copy a small file to `files/name`."""
        if self._first:
            target = self._temporary / "files" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def add_groups(self, other: str | os.PathLike) -> None:
        """Take over all groups and files of another checkpoint that this one does not have; hard links where that works."""
        for folder in sorted(child for child in Path(other).iterdir() if child.is_dir()):
            if self._first and folder.name not in self._groups:
                shutil.copytree(folder, self._temporary / folder.name, copy_function=_link, dirs_exist_ok=True)

    def _flush(self) -> None:
        if self._waiting:
            with _orbax() as ocp:
                ocp.partial.save(self._temporary / self._waiting_group, self._waiting)
            self._waiting = {}

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._flush()
                with _orbax() as ocp:
                    for group in self._groups:
                        ocp.partial.finalize(self._temporary / group)
                if self._first:
                    text = json.dumps({"format": FORMAT, **dataclasses.asdict(self._manifest)}, indent=1)
                    (self._temporary / MANIFEST).write_text(text)
                    self._temporary.rename(self.path)
                multihost_utils.sync_global_devices(f"{self.path} is whole")
        finally:
            if self._first:
                shutil.rmtree(self._temporary, ignore_errors=True)


def contiguous(array: np.ndarray) -> np.ndarray:
    """The same array in C order; transposed matrices by blocks, five times faster than NumPy."""
    if array.ndim != 2 or not array.flags.f_contiguous or array.flags.c_contiguous:
        return np.asarray(array, order="C")
    block = 256
    result = np.empty(array.shape, array.dtype)
    for i in range(0, array.shape[0], block):
        for j in range(0, array.shape[1], block):
            result[i : i + block, j : j + block] = array[i : i + block, j : j + block]
    return result


def save(
    path: str | os.PathLike,
    networks: Mapping[str, nnx.Module | nnx.State],
    configurations: Mapping[str, Any],
    *,
    origin: str,
    like: str | os.PathLike | None = None,
) -> None:
    """Write networks, wherever their arrays live.

    Args:
        path: a folder that does not exist yet.
        networks: name → network or its state; parameters only are written.
        configurations: name → configuration, for the same names.
        origin: where the numbers come from, for people.
        like: a checkpoint that supplies what is not in `networks`: the other networks, tokenizers, and what an export needs.

    Raises:
        CheckpointError: `path` exists, or `like` is not a checkpoint.
    """
    base = _stored_manifest(Path(like)) if like else Manifest(configurations={}, forms={}, origin="", tokenizer=None)
    own = {name: dataclasses.asdict(configurations[name]) for name in networks}
    manifest = dataclasses.replace(base, configurations={**base.configurations, **own}, origin=origin)
    with Writer(path, manifest) as writer:
        for name, network in networks.items():
            for key, variable in nnx.to_flat_state(nnx.state(network, nnx.Param)):
                writer.add(name, _dotted(key), variable.get_value())
        if like:
            writer.add_groups(like)


def load_network(
    path: str | os.PathLike,
    name: str,
    abstract_state: nnx.State,
    *,
    config: Any,
    sharding: jax.sharding.Sharding | Callable[[str], jax.sharding.Sharding] | None = None,
) -> nnx.State:
    """The parameters of one network, read straight to where they belong: no device and no host holds more than its part.

    Args:
        path: folder of a checkpoint.
        name: "dit", "vae", "text", "clip" or "audio".
        abstract_state: shapes and dtypes of the parameters, as of `nnx.state(nnx.eval_shape(...), nnx.Param)`; numbers are cast.
        config: the network's configuration; the checkpoint's must be the same.
        sharding: of all parameters, or a function of the dotted path; the default device without it.

    Raises:
        CheckpointError: not a checkpoint, no such network in it, or one of another configuration; the sizes that differ are listed.
    """
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    held = read_manifest(path).configurations
    if name not in held:
        raise CheckpointError(
            f"{path} has no network {name!r}, only {', '.join(held) or 'none'}; import it again with all of its parts"
        )
    if differing := [f"{key} {held[name].get(key)} (not {size})" for key, size in wanted.items() if held[name].get(key) != size]:
        raise CheckpointError(f"{path} holds a {name} of another configuration: {', '.join(differing)}")

    flat = [(key, variable) for key, variable in nnx.to_flat_state(abstract_state)]
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    place = sharding if callable(sharding) else lambda _: sharding or default
    target = {
        (dotted := _dotted(key)): jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=place(dotted))
        for key, variable in flat
    }
    stored = tensors(path, name)
    if strange := sorted(set(target) ^ set(stored)) or [key for key in target if target[key].shape != tuple(stored[key].shape)]:
        raise CheckpointError(f"{path} holds a {name} with other parameters, such as {strange[0]} ({len(strange)} in all)")
    arrays = _load(path, name, target, stored)
    return nnx.from_flat_state([(key, variable.replace(arrays[_dotted(key)])) for key, variable in flat])


def tensors(path: str | os.PathLike, group: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Name → shape and dtype of a group's tensors; empty where the checkpoint has no such group."""
    folder = Path(path).absolute() / group
    if not folder.is_dir():
        return {}
    with _reading(folder) as ocp:
        return {name: jax.ShapeDtypeStruct(t.shape, t.dtype) for name, t in ocp.metadata(folder).metadata.items()}


def _bytes(tensor: Any) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _load(
    path: str | os.PathLike, group: str, target: Mapping[str, Any], stored: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, Any]:
    folder = Path(path).absolute() / group
    # Orbax refuses an array that is not smaller than all it may read at a time: umT5's embeddings are 2.1 GB.
    largest = max((_bytes(stored[name]) for name in target), default=0)
    with _reading(folder, max(READ_BYTES, largest + 1)) as ocp:
        return ocp.load(folder, target)


def read(path: str | os.PathLike, group: str) -> Iterator[tuple[str, np.ndarray]]:
    """All tensors of a group on the host, one at a time, in the dtype they are stored in."""
    batch: dict[str, _Host] = {}
    stored = tensors(path, group)
    for count, (name, tensor) in enumerate(stored.items(), 1):
        batch[name] = _Host(tensor.shape, tensor.dtype)
        if count == len(stored) or sum(map(_bytes, batch.values())) >= GROUP_BYTES:
            arrays = _load(path, group, batch, stored)
            batch = {}
            while arrays:
                yield arrays.popitem()


@dataclasses.dataclass(frozen=True)
class _Host:
    """Asks Orbax for a NumPy array."""

    shape: tuple[int, ...]
    dtype: np.dtype


@contextlib.contextmanager
def _orbax(read_bytes: int = READ_BYTES):
    """Orbax with our options; imported here because that takes a second. `read_bytes`: what it holds at a time beside its results."""
    from orbax.checkpoint.experimental import v1 as ocp

    context = ocp.Context()
    context.array.saving.use_compression = False
    context.array.saving.storage_options.chunk_byte_size = CHUNK_BYTES
    context.memory.deepcopy_host_arrays = False
    context.memory.read_concurrent_bytes = read_bytes
    context.pytree.loading.partial_load = True
    with context:
        yield ocp


@contextlib.contextmanager
def _reading(folder: Path, read_bytes: int = READ_BYTES):
    try:
        with _orbax(read_bytes) as ocp:
            yield ocp
    except Exception as error:  # damaged files fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder} cannot be read, it is damaged or not whole; import it again ({reason})") from error


def _dotted(key: tuple) -> str:
    return ".".join(map(str, key))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
