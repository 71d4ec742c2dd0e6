"""What training changes: weights in float32, the optimiser's memory, and an average of the weights; and networks built from them.

Weights are flat mappings, dotted path → array, as checkpoints have them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from livetalk_jax import checkpoint
from livetalk_jax.config import LoRAConfig, OptimizerConfig, PartConfig, TrainConfig
from livetalk_jax.parallel import placement
from livetalk_jax.parallel.mesh import BATCH, make_mesh
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.stream.networks import random_network
from livetalk_jax.training import lora
from livetalk_jax.training.optimizer import adamw

Weights = dict[str, jax.Array]


class Template:
    """A network without its weights."""

    def __init__(self, make: Callable[[], nnx.Module]):
        self._graph, state = nnx.split(nnx.eval_shape(make), nnx.Param)
        self._flat = nnx.to_flat_state(state)
        self.shapes = {_dotted(key): variable.get_value() for key, variable in self._flat}

    def abstract(self, dtype: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes with another dtype."""
        return {path: jax.ShapeDtypeStruct(x.shape, dtype) for path, x in self.shapes.items()}

    def state(self, values: Mapping[str, Any]) -> nnx.State:
        return nnx.from_flat_state([(key, variable.replace(values[_dotted(key)])) for key, variable in self._flat])

    def build(self, weights: Mapping[str, jax.Array]) -> Any:
        """The network with these weights; it computes in the dtype that it was made with."""
        return nnx.merge(self._graph, self.state(weights))


def flatten(network: nnx.Module | nnx.State) -> Weights:
    """A network's parameters by their dotted paths."""
    return {_dotted(key): variable.get_value() for key, variable in nnx.to_flat_state(nnx.state(network, nnx.Param))}


def _dotted(key: tuple) -> str:
    return ".".join(map(str, key))


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where arrays of training lie on a mesh: rows of a batch on all of it, weights as `parallel.placement` says."""

    mesh: Mesh

    @property
    def rows(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(BATCH))

    @property
    def whole(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def weights(self, tree: Any) -> Any:
        """A sharding for every array of a tree of weights, or of what optimisers keep for them."""
        return placement.shardings(self.mesh, tree)

    def place(self, tree: Any, sharding: Sharding | None = None) -> Any:
        """A tree of shapes and dtypes with the shardings of `weights`, or all with this one."""
        shardings = jax.tree.map(lambda _: sharding, tree) if sharding else self.weights(tree)
        return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, shardings)


def placement_for(config: TrainConfig | PartConfig, devices: Sequence[jax.Device]) -> Placement:
    """The devices, as the configuration shares out weights and rows among them.

    Raises:
        ValueError: the configuration does not fit so many devices.
    """
    count = len(devices)
    fsdp = (config.execution.fsdp if isinstance(config, TrainConfig) else 1) or count
    if count % fsdp:
        raise ValueError(f"config.execution.fsdp {fsdp} does not divide the {count} devices")
    if config.data.batch % count:
        raise ValueError(f"config.data.batch {config.data.batch} is not a multiple of the {count} devices")
    return Placement(make_mesh(Plan(data=count // fsdp, fsdp=fsdp), devices))


class Learner(NamedTuple):
    """One network in training.

    Attributes:
        weights: float32; all of them, or LoRA's factors.
        optimizer: what `optimizer.adamw` remembers.
        average: of the weights, or empty.
    """

    weights: Weights
    optimizer: Any
    average: Weights

    @property
    def best(self) -> Weights:
        """What samples and exports use."""
        return self.average or self.weights


def new_learner(weights: Weights, config: OptimizerConfig) -> Learner:
    return Learner(weights, adamw(config).init(weights), jax.tree.map(jnp.copy, weights) if config.ema_decay else {})


def learn(learner: Learner, gradients: Weights, config: OptimizerConfig) -> Learner:
    """One update; with `accumulate`, one part of it."""
    updates, optimizer = adamw(config).update(gradients, learner.optimizer, learner.weights)
    weights = optax.apply_updates(learner.weights, updates)
    # Where an update is still being gathered the average must not move.
    moved = optimizer.mini_step == 0 if config.accumulate > 1 else True
    keep = jnp.where(moved, config.ema_decay, 1.0)
    average = jax.tree.map(lambda mean, w: keep * mean + (1.0 - keep) * w, learner.average, weights if learner.average else {})
    return Learner(weights, optimizer, average)


def materialize(trained: Weights, base: Weights, config: LoRAConfig, dtype: str) -> Weights:
    """Weights to compute with: what is trained in the computation's dtype, or the frozen base with LoRA's changes."""
    if config.rank:
        return lora.merge(base, trained, config)
    return {name: weight.astype(dtype) for name, weight in trained.items()}


def starting_weights(
    config: TrainConfig | PartConfig, name: str, template: Template, abstract: Mapping[str, jax.ShapeDtypeStruct]
) -> Weights:
    """A network ("dit", "vae") as training starts with it: of the configuration's checkpoint, or random; straight to its place.

    abstract: shapes, dtypes and shardings by path.
    """
    if config.checkpoint:
        state, size = template.state(abstract), getattr(config.model, name)
        shardings = {path: x.sharding for path, x in abstract.items()}
        return flatten(checkpoint.load_network(config.checkpoint, name, state, config=size, sharding=shardings.__getitem__))
    dtype = next(iter(abstract.values())).dtype
    make = jax.jit(
        lambda: flatten(random_network(config.model, name, dtype, config.loop.seed)),
        out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
    )
    return make()
