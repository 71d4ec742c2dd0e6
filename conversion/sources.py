"""Published files, read one tensor at a time: safetensors, PyTorch `.pth` and `.bin`, and several of them as one.

A source knows names, shapes and dtypes from headers alone. A tensor that has been read is not kept; a mapping of a PyTorch file is
given up and made anew now and then, because the pages it has touched count as memory of this process.
"""

import dataclasses
import json
import math
import re
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import ml_dtypes
import numpy as np

from .engine import nbytes

SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}

# A tensor of safetensors that is larger than this is mapped: the system can take its pages back while it is written.
MAP_BYTES = 1 << 30
# A mapped PyTorch file is mapped anew after this many bytes have been read from it.
REMAP_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What a header says of a tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: Path


class Source(Protocol):
    """Tensors by name."""

    tensors: Mapping[str, Tensor]

    def read(self, name: str) -> np.ndarray:
        """The tensor as it is in the file; the array may be a read-only view."""
        ...


class SafetensorsFile:
    """One `.safetensors` file.

    Raises:
        OSError: the file is not one, or is cut short.
    """

    def __init__(self, path: Path):
        self.path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > size - 8:
                raise OSError(f"{path} is not a safetensors file, or it is cut short")
            try:
                header = json.loads(file.read(length))
                header.pop("__metadata__", None)
                entries = {name: (entry["dtype"], entry["shape"], entry["data_offsets"]) for name, entry in header.items()}
            except (ValueError, AttributeError, TypeError, KeyError):
                raise OSError(f"{path} is not a safetensors file: its header cannot be read") from None
        if strange := {dtype for dtype, *_ in entries.values()} - set(SAFETENSORS_DTYPES):
            raise OSError(f"{path} holds tensors of dtype {', '.join(sorted(strange))}, which this program does not know")
        end = 8 + length + max((offsets[1] for *_, offsets in entries.values()), default=0)
        if end > size:
            raise OSError(f"{path} is cut short: {size:,} bytes of {end:,}; copy it again")
        self.tensors = {name: Tensor(tuple(shape), SAFETENSORS_DTYPES[dtype], path) for name, (dtype, shape, _) in entries.items()}
        self._offsets = {name: 8 + length + offsets[0] for name, (*_, offsets) in entries.items()}

    def read(self, name: str) -> np.ndarray:
        tensor = self.tensors[name]
        if nbytes(tensor) > MAP_BYTES:
            return np.memmap(self.path, tensor.dtype, "r", self._offsets[name], tensor.shape)
        flat = np.fromfile(self.path, tensor.dtype, math.prod(tensor.shape), offset=self._offsets[name])
        return flat.reshape(tensor.shape)


class TorchFile:
    """One PyTorch file of tensors (`.pth`, `.bin`), flat or nested under "state_dict" or "model", or a TorchScript archive.

    Raises:
        OSError: PyTorch cannot read it as tensors, or is not installed.
    """

    def __init__(self, path: Path):
        self.path = path
        self._state = self._load()
        self._touched = 0
        self.tensors = {
            name: Tensor(tuple(t.shape), _view(t[..., :0] if t.ndim else t).dtype, path) for name, t in self._state.items()
        }

    def _load(self) -> dict:
        torch = torch_module()
        try:
            # Files from before PyTorch 1.6 are not zip archives and cannot be mapped.
            if is_torchscript(self.path):
                state = torch.jit.load(self.path, map_location="cpu").state_dict()
            else:
                state = torch.load(self.path, map_location="cpu", mmap=zipfile.is_zipfile(self.path), weights_only=True)
        except Exception as error:  # unpickling a strange file fails in many ways
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise OSError(f"{self.path} is not a PyTorch file of tensors ({reason})") from None
        for key in ("state_dict", "model"):
            if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
                state = state[key]
        if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
            raise OSError(f"{self.path} is not a PyTorch state dict: it must map names to tensors")
        return dict(state)

    def read(self, name: str) -> np.ndarray:
        if self._touched > REMAP_BYTES:
            self._state = self._load()
            self._touched = 0
        self._touched += nbytes(self.tensors[name])
        return _view(self._state[name])


def is_torchscript(path: Path) -> bool:
    """A file that holds a program beside its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def torch_module():
    try:
        import torch
    except ImportError:
        raise OSError("reading and writing .pth and .bin files needs PyTorch: pip install 'livetalk-jax[convert]'") from None
    return torch


def _view(tensor) -> np.ndarray:
    """A PyTorch tensor as NumPy, without a copy where its memory is contiguous."""
    torch = torch_module()
    # NumPy has these only through ml_dtypes, which PyTorch does not know.
    strange = {
        torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
        torch.float8_e4m3fn: (torch.int8, ml_dtypes.float8_e4m3fn),
        torch.float8_e5m2: (torch.int8, ml_dtypes.float8_e5m2),
    }
    tensor = tensor.detach().contiguous()
    if tensor.dtype in strange:
        carrier, dtype = strange[tensor.dtype]
        return tensor.view(carrier).numpy().view(dtype)
    return tensor.numpy()


class Merged:
    """Several sources as one.

    Where two of them hold a name that `later_wins` fits, the later one counts, and the name is in `replaced`. Any other name that
    two hold is in `duplicates`, with the files.
    """

    def __init__(self, sources: Iterable[Source], later_wins: re.Pattern | None = None):
        self._sources: dict[str, Source] = {}
        self.tensors: dict[str, Tensor] = {}
        self.replaced: list[str] = []
        self.duplicates: dict[str, tuple[str, ...]] = {}
        for source in sources:
            self.duplicates |= getattr(source, "duplicates", {})
            for name, tensor in source.tensors.items():
                if name in self.tensors and later_wins and later_wins.fullmatch(name):
                    self.replaced.append(name)
                elif name in self.tensors:
                    files = self.duplicates.get(name, (str(self.tensors[name].file),))
                    self.duplicates[name] = (*files, str(tensor.file))
                self.tensors[name] = tensor
                self._sources[name] = source

    def read(self, name: str) -> np.ndarray:
        return self._sources[name].read(name)


def open_file(path: Path) -> Source:
    """The source for one weight file, told by its ending."""
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)
