"""Where weights live: whole on every device, or a part on each (FSDP, arXiv 2304.11277) and gathered where they are used.

One table says how. `specs` gives it for `jax.shard_map`, where `parts` then marks what a network has to gather; `shardings` for
`jax.jit`, `jax.device_put` and optimiser states; `by_path` makes of these a function of a parameter's path, for
`checkpoint.load_network(..., sharding=...)`: no host and no device then ever holds more than its part.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from livetalk_jax.parallel.mesh import MODEL
from livetalk_jax.parallel.seams import Part

# The devices that share one copy of the weights: those that share a batch, and those that share a video.
SHARED = ("fsdp", *MODEL)
CUT, WHOLE = PartitionSpec(SHARED, None), PartitionSpec()

# End of a parameter's dotted path and number of dimensions of what is cut; the rest is whole everywhere. Matrices are cut along
# their first axis, so that each device's part is contiguous. Convolutions (the VAE), norms and biases are not worth a gather.
RULES: tuple[tuple[str, int], ...] = (
    (r"\bkernel$", 2),
    (r"\bweight$", 2),  # of a layer in 8 bits
    (r"\btoken_embedding$", 2),
)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The placement of the array at a dotted path; whole where its devices do not divide it evenly."""
    parts = math.prod(mesh.shape[name] for name in SHARED)
    named = any(len(shape) == dimensions and re.search(pattern, path) for pattern, dimensions in RULES)
    return CUT if named and parts > 1 and shape[0] % parts == 0 else WHOLE


def _dotted(path: tuple[Any, ...]) -> str:
    names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return ".".join(name for name in names if name not in ("value", "raw_value"))  # of an nnx.Variable


def specs(mesh: Mesh, abstract: Any) -> Any:
    """A PartitionSpec for every array of a tree: parameters, gradients, or an optimiser's state that repeats their names.

    Args:
        mesh: of `make_mesh`.
        abstract: arrays or `jax.ShapeDtypeStruct`s.
    """
    return jax.tree_util.tree_map_with_path(lambda path, x: spec(_dotted(path), x.shape, mesh), abstract)


def shardings(mesh: Mesh, abstract: Any) -> Any:
    """`specs` as NamedShardings."""
    return jax.tree.map(lambda one: NamedSharding(mesh, one), specs(mesh, abstract))


def by_path(shardings: Any) -> Callable[[str], Sharding]:
    """A tree of shardings as a function of the dotted path; unknown paths raise KeyError."""
    leaves = jax.tree_util.tree_leaves_with_path(shardings)
    return {_dotted(path): sharding for path, sharding in leaves}.__getitem__


def parts(tree: Any, specs: Any) -> Any:
    """What a device holds of a tree of weights inside `jax.shard_map`, with a `Part` in the place of what is cut."""
    return jax.tree.map(lambda x, one: Part(x, SHARED) if one == CUT else x, tree, specs)


def global_norm(mesh: Mesh, tree: Any) -> jax.Array:
    """√Σx² over a tree of weights or gradients that lie as `specs` has them, as `optax.tree.norm`, with one sum over devices for all.

    A sum for each array is joined by XLA into one, by a kernel of as many operands: of a thousand it takes minutes to compile.
    """
    where = specs(mesh, tree)

    def on_each(tree):
        squares = {CUT: jnp.float32(0.0), WHOLE: jnp.float32(0.0)}
        for x, one in zip(jax.tree.leaves(tree), jax.tree.leaves(where), strict=True):
            squares[one] += jnp.sum(jnp.square(x))
        return jnp.sqrt(jax.lax.psum(squares[CUT], SHARED) + squares[WHOLE])

    return jax.shard_map(on_each, mesh=mesh, in_specs=(where,), out_specs=WHOLE)(tree)


def put(tree: Any, sharding: Sharding | Any) -> Any:
    """The arrays of a tree on the devices of `sharding`, one for all or a tree of them; other processes must put the same numbers.

    Shapes (`jax.ShapeDtypeStruct`) stay shapes.
    """

    def one(x, sharding):
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            # The same buffers under this mesh's name: one program takes arrays of one mesh only.
            return jax.make_array_from_single_device_arrays(x.shape, sharding, [part.data for part in x.addressable_shards])
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        # jax.device_put would send everything around to see that it is the same.
        held = [jax.device_put(x[index], device) for device, index in sharding.addressable_devices_indices_map(x.shape).items()]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, held)

    return jax.tree.map(one, tree, jax.tree.map(lambda _: sharding, tree) if isinstance(sharding, Sharding) else sharding)
