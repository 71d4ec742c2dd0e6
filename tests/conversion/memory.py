"""Peak memory of an import, measured in a process of its own.

    python -m tests.conversion.memory FOLDER --blocks 40 --shards 7

writes the DiT of SoulX-FlashTalk-14B at its full width with that many blocks, in files that are holes and take no disk, and imports
it, which takes as much disk as the numbers do. It prints the peak resident set of the import in GiB.
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from livetalk_jax.conversion.engine import nbytes
from livetalk_jax.conversion.writers import FileWriter

NAMES = Path(__file__).parents[1] / "names" / "soulx_flashtalk_14b_dit.json"
BYTES = {"BF16": 2, "F32": 4}
# VmHWM is this program's own; getrusage's maximum begins at that of the process that started it.
MEASURE = """
import re, sys
from livetalk_jax.conversion.__main__ import run
code = run(sys.argv[1:])
print("PEAK", int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
sys.exit(code)
"""


def write_hollow(folder: Path, *, blocks: int, shards: int, dtype: str = "BF16", dim: int = 5120, ffn_dim: int = 13_824) -> int:
    """A DiT of zeros in sparse files, smaller by dim and ffn_dim where wanted; returns its size in bytes."""
    folder.mkdir(parents=True)
    full = {5120: dim, 13_824: ffn_dim, 6 * 5120: 6 * dim, 2 * 5120: 2 * dim}
    shapes = {
        name: [full.get(size, size) for size in shape]
        for name, shape in json.loads(NAMES.read_text()).items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < blocks
    }
    weight_map, total = {}, 0
    for i in range(shards):
        file = f"diffusion_pytorch_model-{i + 1:05d}-of-{shards:05d}.safetensors"
        header, end = {}, 0
        for name, shape in list(shapes.items())[i * len(shapes) // shards : (i + 1) * len(shapes) // shards]:
            size = BYTES[dtype]
            for extent in shape:
                size *= extent
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            end += size
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + end)
        total += end
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = dict(dim=dim, ffn_dim=ffn_dim, num_heads=dim // 128, num_layers=blocks, in_dim=36, out_dim=16, freq_dim=256)
    (folder / "config.json").write_text(json.dumps(config | dict(text_len=512, audio_window=5, eps=1e-6)))
    return total


def write_hollow_others(folder: Path) -> int:
    """The VAE, text encoder and CLIP of Wan2.1 at full size; needs as much address space as the largest, but no memory."""
    total = 0
    for names, file, dtype in (
        ("wan21_vae", "Wan2.1_VAE.pth", np.float32),
        ("umt5_xxl_encoder", "models_t5_umt5-xxl-enc-bf16.pth", ml_dtypes.bfloat16),
        ("clip_xlm_roberta_vit_h_14", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", np.float32),
    ):
        shapes = json.loads((NAMES.parent / f"{names}.json").read_text())
        tensors = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}
        FileWriter(folder / file, tensors)
        total += sum(map(nbytes, tensors.values()))
    return total


def measure(source: Path, to: Path) -> int:
    """Peak resident set, in bytes, of importing `source` into `to`."""
    command = [sys.executable, "-c", MEASURE, "import", "--from", str(source), "--to", str(to)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.split("PEAK")[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--shards", type=int, default=7)
    parser.add_argument("--dtype", choices=BYTES, default="BF16")
    parser.add_argument("--others", action="store_true", help="VAE, text encoder and CLIP, too")
    options = parser.parse_args()
    total = write_hollow(options.folder / "published", blocks=options.blocks, shards=options.shards, dtype=options.dtype)
    if options.others:
        total += write_hollow_others(options.folder / "published")
    start = time.monotonic()
    peak = measure(options.folder / "published", options.folder / "ours")
    print(f"{total / 1e9:.2f} GB imported in {time.monotonic() - start:.0f} s, peak resident set {peak / 2**30:.2f} GiB")
    shutil.rmtree(options.folder)
