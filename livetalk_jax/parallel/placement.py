"""Where weights live: whole on every device, or a part on each (FSDP, arXiv 2304.11277) and gathered where they are used.

One table says how. `shardings` gives a tree for `jax.jit`, `jax.device_put` and optimiser states; `rule` a function of a
parameter's path, for `checkpoint.load_network(..., sharding=...)`: no host and no device then ever holds more than its part.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from livetalk_jax.parallel.mesh import MODEL

# The devices that share one copy of the weights: those that share a batch, and those that share a video.
SHARED = ("fsdp", *MODEL)

# End of a parameter's dotted path, number of dimensions, placement; what no line names is whole everywhere. Matrices are cut along
# their inputs, so that each device's part is contiguous. Convolutions (the VAE), norms and biases are not worth a gather.
RULES: tuple[tuple[str, int, PartitionSpec], ...] = (
    (r"\bkernel$", 2, PartitionSpec(SHARED, None)),
    (r"\btoken_embedding$", 2, PartitionSpec(SHARED, None)),
)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The placement of the array at a dotted path; whole where its devices do not divide it evenly."""
    for pattern, dimensions, partition in RULES:
        if len(shape) == dimensions and re.search(pattern, path):
            parts = (math.prod(mesh.shape[name] for name in names or ()) for names in partition)
            if all(size % part == 0 for size, part in zip(shape, parts, strict=True)):
                return partition
    return PartitionSpec()


def _dotted(path: tuple[Any, ...]) -> str:
    names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return ".".join(name for name in names if name not in ("value", "raw_value"))  # of an nnx.Variable


def shardings(mesh: Mesh, abstract: Any) -> Any:
    """A NamedSharding for every array of a tree: parameters, gradients, or an optimiser's state that repeats their names.

    Args:
        mesh: of `make_mesh`.
        abstract: arrays or `jax.ShapeDtypeStruct`s.
    """
    return jax.tree_util.tree_map_with_path(lambda path, x: NamedSharding(mesh, spec(_dotted(path), x.shape, mesh)), abstract)


def rule(mesh: Mesh, abstract: Any) -> Callable[[str], NamedSharding]:
    """`shardings` as a function of the dotted path; unknown paths raise KeyError."""
    leaves = jax.tree_util.tree_flatten_with_path(shardings(mesh, abstract))[0]
    return {_dotted(path): sharding for path, sharding in leaves}.__getitem__


def put(tree: Any, sharding: Sharding) -> Any:
    """The arrays of a tree whole on every device of `sharding`; those of other processes must put the same numbers there.

    Shapes (`jax.ShapeDtypeStruct`) stay shapes.
    """

    def one(x):
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            # The same buffers under this mesh's name: one program takes arrays of one mesh only.
            return jax.make_array_from_single_device_arrays(x.shape, sharding, [part.data for part in x.addressable_shards])
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        # jax.device_put would send everything around to see that it is the same.
        parts = [jax.device_put(x, device) for device in sharding.addressable_devices_indices_map(x.shape)]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)

    return jax.tree.map(one, tree)
