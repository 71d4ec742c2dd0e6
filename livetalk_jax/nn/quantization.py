"""Weights in 8 bits: which layers of a network, and how they are changed once after loading."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from livetalk_jax.kernels import linear
from livetalk_jax.nn.layers import Linear

# Dotted paths of linear layers -> format. The first pattern that matches a whole path decides; what none matches stays as it is.
# Of a step's matrix products these are 99 %. Keys and values of text, image and audio are computed once a session or a chunk.
DIT_FP8 = {
    r"blocks\.layers\.\d+\.self_attn\.[qkvo]": "e4m3",
    r"blocks\.layers\.\d+\.cross_attn\.[qo]": "e4m3",
    r"blocks\.layers\.\d+\.audio_cross_attn\.(q_linear|proj)": "e4m3",
    r"blocks\.layers\.\d+\.ffn\.fc[12]": "e4m3",
}
FORMATS = ("e4m3",)
# How much larger than ever seen an input may become before it is clipped. It costs no precision: e4m3 spans 15 binades at full
# precision, and what lies ten below the largest hardly counts in a sum.
MARGIN = 4.0


class Quantized(NamedTuple):
    """values · divisor, e4m3 [rows, in] and float32 [] or [rows, 1]: what was an array of `like`'s shape and dtype."""

    values: jax.Array
    divisor: jax.Array
    like: jax.ShapeDtypeStruct


class QuantizedLinear(nnx.Module):
    """x·weightᵀ·scale + bias; weight e4m3 [out, in], scale float32 []. `divisor` of x float32 [], None: one for each token."""

    def __init__(self, weight: jax.Array, scale: jax.Array, bias: jax.Array | None, divisor: jax.Array | None):
        self.weight, self.scale = nnx.Param(weight), nnx.Param(scale)
        self.bias = None if bias is None else nnx.Param(bias)
        self.divisor = None if divisor is None else nnx.Param(divisor)

    def prepare(self, x: jax.Array) -> Quantized:
        rows = x.reshape(-1, x.shape[-1])
        divisor = linear.scale_of(rows, axis=-1) if self.divisor is None else self.divisor[...]
        return Quantized(linear.to_e4m3(rows, divisor), divisor, jax.ShapeDtypeStruct(x.shape, x.dtype))

    def __call__(self, x: jax.Array | Quantized) -> jax.Array:
        x = x if isinstance(x, Quantized) else self.prepare(x)
        bias = None if self.bias is None else self.bias[...]
        out = linear.linear(x.values, x.divisor, self.weight[...], self.scale[...], bias, x.like.dtype)
        return out.reshape(*x.like.shape[:-1], -1)


class _Observed(nnx.Module):
    """A linear layer that tells `record` its number and the largest magnitude of its input."""

    def __init__(self, layer: Linear, number: int, record: Callable[[Any, Any], None]):
        self.layer, self.record = layer, record
        self.number = nnx.Variable(jnp.int32(number))

    def prepare(self, x: jax.Array) -> jax.Array:
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        jax.debug.callback(self.record, self.number[...], jnp.max(jnp.abs(x)).astype(jnp.float32))
        return self.layer(x)


def largest_inputs(network: Any, table: Mapping[str, str], run: Callable[[Any], Any]) -> dict[str, float]:
    """Largest magnitude that each layer of `table` was given, by dotted path, while `run(network)` computed what it is used for."""
    network = nnx.clone(network)
    found: dict[int, float] = {}

    def record(number, largest):
        found[int(number)] = max(found.get(int(number), 0.0), float(largest))

    layers = _layers(network, table)
    for number, (path, layer) in enumerate(layers.items()):
        _replace(network, path, _Observed(layer, number, record))
    jax.block_until_ready(run(network))
    jax.effects_barrier()
    return {".".join(map(str, path)): found[number] for number, path in enumerate(layers)}


def quantize(network: Any, table: Mapping[str, str], largest: Mapping[str, float] | None = None) -> Any:
    """`network` with the linear layers of `table` in 8 bits; what is not in the table is shared with it.

    Args:
        largest: of `largest_inputs`: every layer's input is then divided by a fixed number, which is the fastest, and MARGIN times
            larger ones still fit. None: by a number for each token, found as it comes.

    Raises:
        ValueError: an unknown format, or a pattern that matches no layer.
    """
    network = nnx.clone(network)
    convert = jax.jit(linear.quantize)
    for path, layer in _layers(network, table).items():
        weight, scale = convert(layer.kernel[...])
        divisor = None
        if largest is not None:
            divisor = linear.power_of_two(jnp.float32(largest[".".join(map(str, path))] * MARGIN / linear.LARGEST))
        _replace(network, path, QuantizedLinear(weight, scale, None if layer.bias is None else layer.bias[...], divisor))
    return network


def is_quantized(network: Any) -> bool:
    """Whether layers of it are in 8 bits."""
    return any(isinstance(module, QuantizedLinear) for _, module in nnx.iter_modules(network))


def _layers(network: Any, table: Mapping[str, str]) -> dict[tuple, Linear]:
    """The linear layers of a table, by path; raises as `quantize`."""
    for pattern, form in table.items():
        if form not in FORMATS:
            raise ValueError(f"unknown format {form!r} of {pattern!r}; there is {', '.join(FORMATS)}")
    layers, missing = {}, set(table)
    for path, module in nnx.iter_modules(network):
        matching = next((p for p in table if re.fullmatch(p, ".".join(map(str, path)))), None)
        if matching is not None and isinstance(module, Linear):
            layers[tuple(path)] = module
            missing.discard(matching)
    if missing:
        raise ValueError(f"no linear layer of {type(network).__name__} matches {', '.join(sorted(missing))}")
    return layers


def _replace(network: Any, path: tuple, module: nnx.Module) -> None:
    for name in path[:-1]:
        network = network[name] if isinstance(name, int) else getattr(network, name)
    setattr(network, path[-1], module)
