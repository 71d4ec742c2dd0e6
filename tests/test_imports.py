"""Imports go one way: the arrows of the design, read from the syntax tree of every file."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "livetalk_jax"
# Folders whose import names are not where they lie (package-dir in pyproject.toml).
FOLDERS = {"livetalk_jax": PACKAGE, **{name: f"{PACKAGE}.{name}" for name in ("kernels", "configs", "conversion")}}

STREAM = {"stream", "models", "diffusion", "parallel", "config", "shapes", "tokenizer", "checkpoint"}
COMMAND = {*STREAM, "flags", "configs", "files", "media", "programs"}
# What a part may import beside itself. The longest name that fits a module is its part.
ARROWS = {
    "": set(),
    "kernels": set(),
    "config": set(),
    "shapes": set(),
    "media": set(),
    "tokenizer": set(),
    "checkpoint": set(),
    "programs": set(),
    "files": set(),
    "samples": set(),
    "diffusion": set(),
    "configs": {"config"},
    "parallel": {"kernels"},
    "nn": {"kernels", "shapes", "parallel.seams"},
    "models": {"nn", "config", "shapes", "parallel.seams"},
    "stream": STREAM,
    "stream.session": {*STREAM, "kernels", "nn.quantization", "nn.stack"},  # chooses the attention kernel and where weights are
    "stream.networks": {*STREAM, "nn.quantization"},  # networks are read in the form that they were written in
    "stream.chunk": {*STREAM, "nn.stack"},  # training chooses how blocks run
    "stream.conditioning": {*STREAM, "nn.rotary"},  # its tables are a session's data
    # Never stream's host loop.
    "training": {
        "stream.chunk",
        "stream.conditioning",
        "stream.color",
        "stream.networks",
        "nn",
        "kernels",
        "media",
        "files",
        *STREAM,
    }
    - {"stream"},
    "data": {
        "config",
        "files",
        "media",
        "tokenizer",
        "stream.audio",
        "stream.color",
        "stream.networks",
        "models.wav2vec2",
        "training.batch",
    },
    "data.procedural.command": {"data", "flags", "media"},
    "data.procedural.encode": {
        *("data", "config", "flags", "tokenizer", "models.wav2vec2", "stream.audio", "stream.color", "stream.conditioning"),
        "stream.networks",
        "training.config",
    },
    "data.procedural.feeds": {"data", "config", "stream.color", "training.autoencoding", "training.batch", "training.listening"},
    "data.prepare": {"data", "config", "checkpoint", "files", "flags", "tokenizer", "training.config"},
    "conversion": {"models", "config", "shapes", "checkpoint"},
    "conversion.__main__": {"conversion", "config", "checkpoint", "configs", "flags"},
    "evaluation": {*COMMAND, "data", "generate"},
    "evaluation.networks": {"nn", "models", "conversion", "evaluation.metric"},
    "flags": {"config", "configs"},
    "cli": {"flags"},
    # The server is handed a model and knows no network.
    "serving": {"media"},
    "serving.bench": {"serving", "media", "flags"},
    "serving.router": {"serving", "flags"},
    "generate": COMMAND,
    "quantize": {*COMMAND, "nn.quantization"},
    "benchmarks.memory": {*COMMAND, "training"},
    "benchmarks.training": {*COMMAND, "training"},
    "benchmarks": {*COMMAND, "kernels", "nn"},  # each part is timed by itself
}
# Beside JAX, which has Pallas, a backend may be written in another language.
KERNEL_LANGUAGES = {"kernels.norm_rope.triton": ("jax_triton", "triton")}
# A model is one file that reads alone, and so is a network's table.
ALONE = ("models",)
# Published `.pth` files are read and written with torch; its kernels are timed beside ours; Q-Align is its authors' program.
TORCH = {"conversion.sources", "conversion.writers", "benchmarks.kernels", "evaluation.metrics.quality"}


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[str, int]]:
    """Absolute names of all that `module` imports, at its top or inside functions, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            base = ".".join(parents[: len(parents) - node.level + is_package]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            # `from package import name`: the name may be a module of it, so both count.
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def part_of(name: str) -> str | None:
    """The entry of ARROWS that a module below the package belongs to."""
    fitting = [part for part in ARROWS if within(name, part)]
    return max(fitting, key=len) if fitting else None


def breaches(source: str, module: str, is_package: bool = False) -> list[str]:
    """What `module` imports and must not, a line each."""
    name = module.removeprefix(PACKAGE).removeprefix(".")
    part = part_of(name)
    if part is None:
        return [f"{module} belongs to no part that tests/test_imports.py knows"]
    found = []
    for target, line in imports(source, module, is_package):
        if within(target, "torch") or within(target, "safetensors.torch"):
            if name not in TORCH:
                found.append(f"{module}:{line} imports {target}: torch is for tests and for published .pth files")
        elif within(target, PACKAGE) and target != PACKAGE:
            ours = target.removeprefix(PACKAGE + ".")
            own = name if part in ALONE else part.split(".")[0] or name
            if not any(within(ours, allowed) for allowed in (ARROWS[part] | {own})):
                found.append(f"{module}:{line} imports {target}: {part or 'the package'} may import {sorted(ARROWS[part])}")
        elif part == "kernels" and target.split(".")[0] not in {"jax", *sys.stdlib_module_names, *KERNEL_LANGUAGES.get(name, ())}:
            found.append(f"{module}:{line} imports {target}: a kernel needs JAX only")
    return found


def files() -> list[tuple[str, Path]]:
    found = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found.append((".".join([package, *(part for part in parts if part != "__init__")]), path))
    return found


def test_every_file_is_read():
    names = {module for module, _ in files()}
    assert {PACKAGE, f"{PACKAGE}.models.dit", f"{PACKAGE}.kernels.attention.reference", f"{PACKAGE}.configs.tiny"} <= names
    assert len(names) > 40


def test_a_wheel_has_every_folder_of_code():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    data = {f"{PACKAGE}.samples"}
    assert sorted(listed) == sorted({module for module, path in files() if path.name == "__init__.py"} | data)


@pytest.mark.parametrize(("module", "path"), files(), ids=[module for module, _ in files()])
def test_arrows(module, path):
    assert not breaches(path.read_text(), module, path.name == "__init__.py")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.attention.reference", "from livetalk_jax.nn import layers"),
        ("kernels.attention.cudnn", "import numpy"),
        ("kernels.norm_rope.reference", "import triton"),
        ("config", "from livetalk_jax.shapes import PATCH"),
        ("nn.layers", "import livetalk_jax.models.dit"),
        ("nn.layers", "from livetalk_jax.parallel import mesh"),
        ("models.dit", "from livetalk_jax.models.vae import VAE"),
        ("models.dit", "from .vae import VAE"),
        ("models.dit", "from ..stream.chunk import generate_chunk"),
        ("models.dit", "def f():\n    from livetalk_jax.stream import chunk"),
        ("models.dit", "import torch"),
        ("diffusion.sampler", "from livetalk_jax.models.dit import DiT"),
        ("stream.chunk", "from livetalk_jax.generate import main"),
        ("stream.chunk", "from livetalk_jax.kernels import attention"),
        ("stream.chunk", "from livetalk_jax import flags"),
        ("training.loop", "from livetalk_jax.stream.session import Session"),
        ("conversion.dit", "from livetalk_jax.stream.networks import Networks"),
        ("conversion.engine", "from safetensors.torch import load_file"),
        ("conversion.dit", "from torch import nn"),
        ("media", "from livetalk_jax.stream.audio import windows"),
        ("serving.engine", "from livetalk_jax.stream.session import Session"),
        ("serving.engine", "import livetalk_jax.models.dit"),
        ("nowhere.to_be_seen", "import jax"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert len(breaches(source, f"{PACKAGE}.{module}")) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.attention", "from . import cudnn, reference"),
        ("models.dit", "from livetalk_jax.nn.layers import Linear\nimport jax.numpy as jnp\nimport numpy"),
        ("stream.session", "from livetalk_jax.kernels import attention"),
        ("conversion.sources", "import torch"),
        ("conversion.dit", "from livetalk_jax import shapes\nfrom .table import Rule"),
        ("generate", "from livetalk_jax import checkpoint, flags, media"),
    ],
)
def test_a_right_import_is_not(module, source):
    assert not breaches(source, f"{PACKAGE}.{module}", is_package=module == "kernels.attention")
