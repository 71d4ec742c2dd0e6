"""Weights in 8 bits: which layers of a network, and how they are changed once after loading."""

import re
from collections.abc import Mapping
from typing import Any

import jax
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


class QuantizedLinear(nnx.Module):
    """x·weightᵀ·scale + bias; weight e4m3 [out, in], scale float32 [1, out]; x is quantised as it comes, a token at a time."""

    def __init__(self, weight: jax.Array, scale: jax.Array, bias: jax.Array | None):
        self.weight, self.scale = nnx.Param(weight), nnx.Param(scale)
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        bias = None if self.bias is None else self.bias[...]
        return linear.linear(x, self.weight[...], self.scale[...], bias)


def quantize(network: Any, table: Mapping[str, str]) -> Any:
    """`network` with the linear layers of `table` in 8 bits; the rest is shared with it. It must not be used any more afterwards
    if its memory is to be freed.

    Raises:
        ValueError: an unknown format, or a pattern that matches no layer.
    """
    for pattern, form in table.items():
        if form not in FORMATS:
            raise ValueError(f"unknown format {form!r} of {pattern!r}; there is {', '.join(FORMATS)}")
    network = nnx.clone(network)
    convert = jax.jit(linear.quantize)
    matched = set()
    for path, module in list(nnx.iter_modules(network)):
        pattern = _first_match(table, ".".join(map(str, path)))
        if pattern is None or not isinstance(module, Linear):
            continue
        matched.add(pattern)
        weight, scale = convert(module.kernel[...])
        parent: Any = network
        for name in path[:-1]:
            parent = parent[name] if isinstance(name, int) else getattr(parent, name)
        setattr(parent, str(path[-1]), QuantizedLinear(weight, scale, None if module.bias is None else module.bias[...]))
    if missing := [pattern for pattern in table if pattern not in matched]:
        raise ValueError(f"no linear layer of {type(network).__name__} matches {', '.join(missing)}")
    return network


def _first_match(table: Mapping[str, str], path: str) -> str | None:
    return next((pattern for pattern in table if re.fullmatch(pattern, path)), None)
