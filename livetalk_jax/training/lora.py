"""Low-rank changes of matrices (LoRA, arXiv 2106.09685): W + alpha / rank · A·B, merged before the network is built.

A network needs no layers of another kind for it, and an export is the merged matrices.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from livetalk_jax.training.config import LoRAConfig


def changed(weights: Mapping[str, jax.Array | jax.ShapeDtypeStruct], config: LoRAConfig) -> list[str]:
    """Paths of the matrices that the pattern finds, in order.

    Raises:
        ValueError: there is none.
    """
    found = [name for name, w in sorted(weights.items()) if w.ndim == 2 and re.search(config.pattern, name)]
    if not found:
        raise ValueError(f"config.lora.pattern {config.pattern!r} finds no matrix; their names look like {min(weights)!r}")
    return found


def factors(key: jax.Array, weights: Mapping[str, jax.Array | jax.ShapeDtypeStruct], config: LoRAConfig) -> dict[str, jax.Array]:
    """A [in, rank] random and B [rank, out] zero for every changed matrix, float32: to begin with nothing changes."""
    result = {}
    for number, name in enumerate(changed(weights, config)):
        rows, columns = weights[name].shape
        bound = rows**-0.5
        shape = (rows, config.rank)
        result[f"{name}.a"] = jax.random.uniform(jax.random.fold_in(key, number), shape, minval=-bound, maxval=bound)
        result[f"{name}.b"] = jnp.zeros((config.rank, columns))
    return result


def merge(base: Mapping[str, jax.Array], factors: Mapping[str, jax.Array], config: LoRAConfig) -> dict[str, jax.Array]:
    """The weights with the changes added, in the base's dtype."""
    merged = dict(base)
    for name in sorted({name.rpartition(".")[0] for name in factors}):  # the same program in all processes
        change = config.alpha / config.rank * (factors[f"{name}.a"] @ factors[f"{name}.b"])
        merged[name] = (base[name].astype(jnp.float32) + change).astype(base[name].dtype)
    return merged
