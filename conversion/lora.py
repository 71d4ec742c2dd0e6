"""LoRA files, merged into the weights as they are read: W + scale · alpha / rank · up·down, in float32.

Names may be those of ComfyUI and InfiniteTalk (`diffusion_model.….lora_down.weight`, `.diff`, `.diff_b`), of kohya
(`lora_unet_blocks_0_….lora_down.weight`), and of diffusers and peft (`transformer.….lora_A.weight`, in diffusers' names of the
network). Without an `alpha` tensor, alpha is the rank.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .engine import Problem, Table, steps
from .sources import Source, Tensor, open_file

PREFIXES = ("base_model.model.", "model.", "diffusion_model.", "transformer.")
KOHYA_PREFIX = "lora_unet_"
# Ending of a LoRA tensor's name → (what it is, ending of the target's name)
ROLES = {
    ".lora_down.weight": ("down", ".weight"),
    ".lora_up.weight": ("up", ".weight"),
    ".lora_A.weight": ("down", ".weight"),
    ".lora_B.weight": ("up", ".weight"),
    ".lora_A.default.weight": ("down", ".weight"),
    ".lora_B.default.weight": ("up", ".weight"),
    ".alpha": ("alpha", ".weight"),
    ".diff": ("diff", ".weight"),
    ".diff_b": ("diff", ".bias"),
}


@dataclasses.dataclass(frozen=True)
class _Change:
    """What one file does to one tensor: names of its tensors by role."""

    file: Source
    scale: float
    roles: Mapping[str, str]

    def delta(self, shape: tuple[int, ...]) -> np.ndarray:
        read = {role: self.file.read(name).astype(np.float32) for role, name in self.roles.items()}
        if "diff" in read:
            return self.scale * read["diff"]
        rank = read["down"].shape[0]
        factor = self.scale * float(read["alpha"]) / rank if "alpha" in read else self.scale
        # Of a convolution, `down` has the kernel's shape and `up` is pointwise.
        return (factor * (read["up"].reshape(-1, rank) @ read["down"].reshape(rank, -1))).reshape(shape)


def aliases(table: Table, others: Iterable[Table], paths: Sequence[str]) -> dict[str, str]:
    """Every name that a tensor of `table` goes by in `others` → its name in `table`."""
    own = {step.path: step.names[0] for step in steps(table, paths)[0] if len(step.names) == 1}
    return {
        step.names[0]: own[step.path]
        for other in others
        for step in steps(other, paths)[0]
        if len(step.names) == 1 and step.path in own
    } | {name: name for name in own.values()}


class WithLoRA:
    """A source whose tensors have LoRA files merged into them; dtypes stay as they are.

    Args:
        base: the network's published tensors.
        files: LoRA files with their scales.
        names: a target's name in any form → its name in `base` (`aliases`).
    """

    def __init__(self, base: Source, files: Sequence[tuple[Path, float]], names: Mapping[str, str]):
        self._base = base
        self.tensors: Mapping[str, Tensor] = base.tensors
        self.duplicates = getattr(base, "duplicates", {})
        self.problems: list[Problem] = []
        self._changes: dict[str, list[_Change]] = {}
        # kohya writes underscores for dots
        flat = {KOHYA_PREFIX + name.rpartition(".")[0].replace(".", "_"): name.rpartition(".")[0] for name in names}
        for path, scale in files:
            source = open_file(path)
            targets: dict[str, dict[str, str]] = {}
            for name in source.tensors:
                ending = next((ending for ending in ROLES if name.endswith(ending)), "")
                stem = name.removesuffix(ending)
                for prefix in PREFIXES:
                    stem = stem.removeprefix(prefix)
                role, suffix = ROLES.get(ending, ("", ""))
                target = names.get(flat.get(stem, stem) + suffix)
                if not ending or target not in base.tensors:
                    self.problems.append(Problem("unknown tensor in a LoRA file", name, str(path)))
                else:
                    targets.setdefault(target, {})[role] = name
            for target, roles in targets.items():
                self._add(target, _Change(source, scale, roles), path)

    def _add(self, target: str, change: _Change, path: Path) -> None:
        roles = set(change.roles) - {"alpha"}
        shapes = {role: change.file.tensors[name].shape for role, name in change.roles.items()}
        whole = self.tensors[target].shape
        fits = (
            shapes["diff"] == whole
            if roles == {"diff"}
            else roles == {"up", "down"}
            and shapes["up"][0] == whole[0]
            and shapes["up"][1] == shapes["down"][0]
            and int(np.prod(shapes["down"][1:])) == int(np.prod(whole[1:]))
        )
        if fits:
            self._changes.setdefault(target, []).append(change)
        else:
            detail = ", ".join(f"{role} {list(shape)}" for role, shape in shapes.items())
            self.problems.append(Problem("LoRA does not fit the tensor", target, f"{list(whole)}; {path} has {detail}"))

    def read(self, name: str) -> np.ndarray:
        array = self._base.read(name)
        if name not in self._changes:
            return array
        merged = array.astype(np.float32)
        for change in self._changes[name]:
            merged += change.delta(array.shape)
        return merged.astype(array.dtype)
