"""What the tests of single networks share: published names and shapes, weights in through the conversion engine, errors."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.conversion.engine import Plan, Table, load, make_plan, parameters, unload

NAMES = Path(__file__).parents[1] / "names"


def published_shapes(name: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Every tensor of `tests/names/<name>.json`."""
    shapes = json.loads((NAMES / f"{name}.json").read_text())
    return {key: jax.ShapeDtypeStruct(tuple(shape), jnp.float32) for key, shape in shapes.items()}


def plan(model: nnx.Module, table: Table, tensors) -> Plan:
    """How `tensors` fill `model`; an error where any tensor or parameter is not accounted for."""
    return make_plan(table, parameters(model), tensors)


def count(model: nnx.Module) -> int:
    """Numbers in the parameters."""
    return sum(math.prod(value.shape) for value in parameters(model).values())


def fill(model: nnx.Module, table: Table, tensors: dict[str, np.ndarray]) -> None:
    """Load published tensors; those that the network has come back bit for bit."""
    load(model, tensors, table)
    back = unload(model, table)
    assert back.keys() == tensors.keys() - set(plan(model, table, tensors).unused)
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name, strict=True)


def in_bfloat16(model: nnx.Module) -> nnx.Module:
    """A copy of the model with rounded parameters."""
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))


def error(ours, reference) -> float:
    """Norm of the difference over norm of the reference."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape, f"{ours.shape} is not {reference.shape}"
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
