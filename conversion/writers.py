"""Published files, written one tensor at a time in any order: the file is laid out first, and every tensor goes to its place."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from livetalk_jax.checkpoint import contiguous

from .engine import HasShape, nbytes
from .sources import SAFETENSORS_DTYPES, torch_module


class FileWriter:
    """A weight file laid out for `tensors`: safetensors, or PyTorch where the name ends in .pth or .bin."""

    def __init__(self, path: Path, tensors: Mapping[str, HasShape]):
        path.parent.mkdir(parents=True, exist_ok=True)
        lay_out = _lay_out_safetensors if path.suffix == ".safetensors" else _lay_out_torch
        self._offsets = lay_out(path, tensors)
        self._tensors = tensors
        self._path = path

    def write(self, name: str, array: np.ndarray) -> None:
        expected = self._tensors[name]
        if (array.shape, array.dtype) != (tuple(expected.shape), expected.dtype):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, not {expected.dtype}{list(expected.shape)}")
        with self._path.open("r+b") as file:
            file.seek(self._offsets[name])
            contiguous(array).tofile(file)


def _lay_out_safetensors(path: Path, tensors: Mapping[str, HasShape]) -> dict[str, int]:
    names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": names[np.dtype(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + nbytes(tensor)],
        }
        end += nbytes(tensor)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return {name: 8 + len(text) + header[name]["data_offsets"][0] for name in tensors}


def _lay_out_torch(path: Path, tensors: Mapping[str, HasShape]) -> dict[str, int]:
    torch = torch_module()
    from torch._subclasses.fake_tensor import FakeTensorMode

    # The memory of these is never touched, so it is never used; PyTorch leaves holes for it (`skip_data`) and, loading the file
    # without numbers, says where they are. The zip archive's checksums are then those of nothing: PyTorch does not look at them.
    dtypes = {"bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
    state = {}
    for name, tensor in tensors.items():
        dtype = dtypes.get(np.dtype(tensor.dtype).name)
        state[name] = torch.empty(tensor.shape, dtype=dtype or torch.from_numpy(np.empty(0, tensor.dtype)).dtype)
    with torch.serialization.skip_data():
        torch.save(state, path)
    with FakeTensorMode():
        return {name: tensor.untyped_storage()._checkpoint_offset for name, tensor in torch.load(path, weights_only=True).items()}
