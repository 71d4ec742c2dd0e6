"""Runs a stack of equal blocks: the only place that knows of loop or scan, of rematerialisation, and of weights in parts.

A block's weights of which a device holds a part (`seams.Part`) are gathered where the block runs, and again in the backward pass:
no device ever needs room for more than a few blocks. What lies around the stacks is gathered once, by `gather_around`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from livetalk_jax.parallel.seams import Part, gather_weights


def _all_but_gathered(primitive, *_, **__) -> bool:
    # A broadcast costs nothing to do again, and one that is kept ends the compiler of JAX 0.11.2 in a segmentation fault (Shardy's
    # ManualComputationUnusedInputsPattern).
    return primitive not in (jax.lax.all_gather_p, jax.lax.broadcast_in_dim_p)


def _products(primitive, *arguments, **parameters) -> bool:
    """Matrix products, and cuDNN's attention with its log-sum-exp, without which the backward pass would compute it again."""
    fused = primitive.name.startswith("dot_product_attention_fwd")
    return fused or jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *arguments, **parameters)


_POLICIES = {"none": _all_but_gathered, "full": jax.checkpoint_policies.nothing_saveable, "save_dots": _products}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How blocks run.

    `scan` compiles one block instead of all, at the price of copying every layer's weights once a call, and in training of filling and
    copying what all layers keep; so inference leaves it off (measured on an H200: 13 ms of a DiT step at 14 B, and 70 of 480 ms of an
    update at 1.3 B, which compiles in half the time with it).

    `remat` recomputes a block's activations in the backward pass: "full" keeps only its input, "save_dots" the results of its matrix
    products and of cuDNN's attention too.
    """

    scan: bool = False
    remat: Literal["none", "full", "save_dots"] = "none"


LOOP = Execution()


def _step(fn: Callable[..., Any], graph: nnx.GraphDef, state: nnx.State, execution: Execution) -> Callable[..., Any]:
    """(state, *args) -> fn(block, *args), for all blocks like the one that `graph` and `state` are of."""

    def step(state, *args):
        return fn(nnx.merge(graph, gather_weights(state)), *args)

    in_parts = any(isinstance(x, Part) for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Part)))
    if execution.remat == "none" and not in_parts:
        return step
    return jax.checkpoint(step, policy=_POLICIES[execution.remat])


class BlockStack(nnx.Module):
    """`num_layers` blocks built by `make_block(rngs)`, kept as one set of arrays a layer."""

    def __init__(self, make_block: Callable[[nnx.Rngs], nnx.Module], num_layers: int, *, rngs: nnx.Rngs):
        self.layers = nnx.List([make_block(rngs) for _ in range(num_layers)])

    def map(self, fn: Callable[[Any], Any]) -> list:
        """fn(block) for every block, in order."""
        splits = [nnx.split(block) for block in self.layers]
        return [_step(fn, graph, state, LOOP)(state) for graph, state in splits]

    def __call__(
        self, fn: Callable[[Any, jax.Array, Any], jax.Array], x: jax.Array, per_layer: Sequence[Any], execution: Execution = LOOP
    ) -> jax.Array:
        """x = fn(block, x, per_layer[i]) for every block i in order."""
        if len(per_layer) != len(self.layers):
            raise ValueError(f"{len(self.layers)} blocks need as many per-layer inputs, not {len(per_layer)}")
        splits = [nnx.split(block) for block in self.layers]
        step = _step(fn, *splits[0], execution)
        states = [state for _, state in splits]
        if execution.scan:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *zip(states, per_layer, strict=True))
            return jax.lax.scan(lambda x, layer: (step(layer[0], x, layer[1]), None), x, stacked)[0]
        for state, extra in zip(states, per_layer, strict=True):
            x = step(state, x, extra)
        return x


def gather_around(network: Any) -> Any:
    """`network` with every weight whole but those of its block stacks, which gather a block's when it runs."""
    stacks = [tuple(path) for path, module in nnx.iter_modules(network) if isinstance(module, BlockStack)]
    graph, *states = nnx.split(network, lambda path, _: any(tuple(path[: len(stack)]) == stack for stack in stacks), ...)
    return nnx.merge(graph, states[0], gather_weights(states[1]))
