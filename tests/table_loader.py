"""A small strict reader of conversion tables, for tests of single networks (the real one is conversion/engine.py)."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file

from livetalk_jax.conversion.table import Rule, Unused

TESTS = Path(__file__).parent


def golden(name: str) -> tuple[dict, dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A golden case as (config, weights, inputs, outputs)."""
    path = TESTS / "golden" / f"{name}.safetensors"
    with safe_open(path, "np") as file:
        config = json.loads(file.metadata()["config"])
    groups: dict[str, dict[str, np.ndarray]] = {"weights": {}, "in": {}, "out": {}}
    for key, value in load_file(path).items():
        group, _, rest = key.partition("/")
        groups[group][rest] = value
    return config, groups["weights"], groups["in"], groups["out"]


def published_zeros(name: str, prefix: str = "") -> dict[str, np.ndarray]:
    """Every tensor of `tests/names/<name>.json`, as zeros that take no memory."""
    shapes = json.loads((TESTS / "names" / f"{name}.json").read_text())
    return {prefix + key: np.broadcast_to(np.int8(0), shape) for key, shape in shapes.items()}


def parameters(model: nnx.Module) -> dict[str, nnx.Variable]:
    """Dotted path -> parameter."""
    return {".".join(map(str, path)): value for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def count(model: nnx.Module) -> int:
    return sum(int(np.prod(value.shape)) for value in parameters(model).values())


def rules_for(table, path: str) -> list[tuple[Rule, list[str]]]:
    """The rules that give the parameter `path`, each with the published names it reads; a right table has one."""
    found = []
    for rule in (entry for entry in table if isinstance(entry, Rule)):
        if match := re.fullmatch(re.escape(rule.path).replace(r"\{i\}", r"(?P<i>\d+)"), path):
            found.append((rule, [name.format(**match.groupdict()) for name in rule.names]))
    return found


def convert(table, tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Published tensors as our parameters; every tensor and every parameter must be accounted for exactly once."""
    problems, ours, read = [], {}, set()
    for path, shape in shapes.items():
        matches = rules_for(table, path)
        if len(matches) != 1:
            problems.append(f"{len(matches)} rules for {path}")
            continue
        rule, names = matches[0]
        if missing := [name for name in names if name not in tensors]:
            problems.append(f"missing {missing}")
            continue
        value = rule.transform.to_ours(*(tensors[name] for name in names))
        if value.shape != tuple(shape):
            problems.append(f"{names} gives {value.shape} for {path} {shape}")
        if read & set(names):
            problems.append(f"{names} read twice")
        ours[path] = value
        read |= set(names)
    unused = [re.escape(entry.published).replace(r"\{name\}", ".+") for entry in table if isinstance(entry, Unused)]
    problems += [
        f"unknown {name}" for name in tensors if name not in read and not any(re.fullmatch(pattern, name) for pattern in unused)
    ]
    assert not problems, "\n".join(problems)
    return ours


def load(table, tensors: dict[str, np.ndarray], model: nnx.Module) -> None:
    """Set all of `model`'s parameters from published tensors, which must come back bit for bit."""
    current = parameters(model)
    for path, value in convert(table, tensors, {path: value.shape for path, value in current.items()}).items():
        [(rule, names)] = rules_for(table, path)
        for name, back in zip(names, rule.transform.to_published(value, len(names)), strict=True):
            np.testing.assert_array_equal(back, tensors[name], err_msg=name, strict=True)
        current[path].set_value(jnp.asarray(value, current[path].dtype))
    nnx.update(model, nnx.from_flat_state([(_key(path), variable) for path, variable in current.items()]))


def _key(path: str) -> tuple:
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))


def in_bfloat16(model: nnx.Module) -> nnx.Module:
    """A copy of the model with rounded parameters."""
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))


def error(ours, reference) -> float:
    """Norm of the difference over norm of the reference."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape, f"{ours.shape} is not {reference.shape}"
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
