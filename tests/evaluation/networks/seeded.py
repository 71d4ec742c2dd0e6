"""Weights and inputs that need no files: both sides of a comparison draw them from a seed that is the tensor's name."""

import math
import zlib
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from livetalk_jax.conversion.engine import Table, load, parameters, published_shapes, steps

GOLDEN = Path(__file__).parent / "golden"


def weight(name: str, shape: tuple[int, ...], gain: float = 2.0) -> np.ndarray:
    """A tensor of a published file; a gain of 2 keeps activations near one through ReLUs."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    values = random.standard_normal(shape, np.float32)
    if len(shape) < 2:
        return np.float32(0.1) * values + np.float32(name.endswith("weight"))
    if shape[0] == 1:  # tokens and positions
        return np.float32(0.5) * values
    return values * np.float32(math.sqrt(gain / math.prod(shape[1:])))


def picture(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [..., Y, X, 3]: coarse blots with noise, so that neighbouring pixels have to do with each other."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    *lead, height, width, channels = shape
    coarse = random.uniform(0, 255, (*lead, -(-height // 16), -(-width // 16), channels))
    fine = coarse.repeat(16, -3).repeat(16, -2)[..., :height, :width, :]
    return np.clip(fine + random.normal(0, 20, shape), 0, 255).astype(np.uint8)


def waveform(name: str, samples: int) -> np.ndarray:
    """int16 [samples]: a few tones that come and go, with noise."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    seconds = np.arange(samples) / 16_000
    tones = sum(
        np.sin(2 * np.pi * f * seconds) * (1 + np.sin(2 * np.pi * (3 + k) * seconds)) for k, f in enumerate((180, 700, 2400))
    )
    return np.clip(3000 * tones + random.normal(0, 300, samples), -32768, 32767).astype(np.int16)


def network(build, table: Table, gain: float = 2.0) -> nnx.Module:
    """The network that `build` makes, with seeded weights brought in through its table."""
    model = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))
    ours = parameters(model)
    found, problems = steps(table, ours)
    assert not problems
    shapes = {name: shape for step in found for name, shape in published_shapes(step, ours[step.path].shape).items()}
    load(model, {name: weight(name, shape, gain) for name, shape in shapes.items()}, table)
    return model


def apply(model: nnx.Module, *inputs: np.ndarray) -> jax.Array:
    """`model(*inputs)`, compiled with little care: for one small evaluation, compiling is what costs."""
    graph, state = nnx.split(model)

    def call(state, *inputs):
        return nnx.merge(graph, state)(*inputs)

    return jax.jit(call, compiler_options={"xla_backend_optimization_level": 0})(state, *inputs)


def golden(name: str) -> dict[str, np.ndarray]:
    """What `tools/record_evaluation_golden.py` wrote."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def error(ours, reference) -> float:
    """Norm of the difference over norm of the reference."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape, f"{ours.shape} is not {reference.shape}"
    return float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
