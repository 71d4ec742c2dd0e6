"""What training changes: weights in float32, the optimiser's memory, and an average of the weights; and networks built from them.

Weights are flat mappings, dotted path → array, as checkpoints have them.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, Sharding

from livetalk_jax import checkpoint
from livetalk_jax.parallel import placement
from livetalk_jax.parallel.layout import ROWS, WHOLE, Layout
from livetalk_jax.parallel.mesh import make_mesh, per_host
from livetalk_jax.parallel.plan import Pair, Plan, make_plan, parse_pair
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.networks import random_network
from livetalk_jax.training import lora
from livetalk_jax.training.config import LoRAConfig, OptimizerConfig, PartConfig, TrainConfig
from livetalk_jax.training.optimizer import Norm, adamw

logger = logging.getLogger(__name__)

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

    def cast(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """The weights in the dtype that the network was made with, `Part`s too."""
        return {
            path: jax.tree.map(lambda x, dtype=like.dtype: x.astype(dtype), weights[path]) for path, like in self.shapes.items()
        }

    def build(self, weights: Mapping[str, Any]) -> Any:
        """The network with these weights; it computes in the dtype that it was made with."""
        return nnx.merge(self._graph, self.state(weights))


def flatten(network: nnx.Module | nnx.State) -> Weights:
    """A network's parameters by their dotted paths."""
    return {_dotted(key): variable.get_value() for key, variable in nnx.to_flat_state(nnx.state(network, nnx.Param))}


def _dotted(key: tuple) -> str:
    return ".".join(map(str, key))


@dataclasses.dataclass(frozen=True)
class Readers:
    """A batch's rows are read in `count` equal shares; this process reads number `index`. Processes of one video read the same."""

    count: int
    index: int


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where arrays of training lie: each row of a batch on the devices of one video, weights as `parallel.placement` says."""

    plan: Plan
    devices: tuple[jax.Device, ...]

    @functools.cached_property
    def mesh(self) -> Mesh:
        return make_mesh(self.plan, self.devices)

    @property
    def rows(self) -> NamedSharding:
        return NamedSharding(self.mesh, ROWS)

    @property
    def whole(self) -> NamedSharding:
        return NamedSharding(self.mesh, WHOLE)

    @property
    def readers(self) -> Readers:
        """Which rows this process has to read.

        Raises:
            ValueError: videos and processes cut the line of devices across each other.
        """
        here = sum(device.process_index == jax.process_index() for device in self.devices)
        few, many = sorted((here, self.plan.model_devices))
        if many % few:
            raise ValueError(f"one video has {self.plan.model_devices} devices and a process {here}: one must divide the other")
        together = many // here
        return Readers(len(self.devices) // here // together, jax.process_index() // together)

    def layout(self, heads: int, token_grid: Pair) -> Layout:
        """For networks of `heads` heads and pictures of (h, w) tokens."""
        return Layout(self.plan, heads, token_grid, self.devices, "cut")

    def weights(self, tree: Any) -> Any:
        """A sharding for every array of a tree of weights, or of what optimisers keep for them."""
        return placement.shardings(self.mesh, tree)

    def norm(self, tree: Any) -> jax.Array:
        """The global norm of such a tree."""
        return placement.global_norm(self.mesh, tree)

    def place(self, tree: Any, sharding: Sharding | None = None) -> Any:
        """A tree of shapes and dtypes with the shardings of `weights`, or all with this one."""
        shardings = jax.tree.map(lambda _: sharding, tree) if sharding else self.weights(tree)
        return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, shardings)


def placement_for(config: TrainConfig | PartConfig, devices: Sequence[jax.Device]) -> Placement:
    """The devices, as the configuration shares out weights, rows and pictures among them; logged in one line.

    Raises:
        ValueError: the configuration does not fit so many devices.
    """
    fsdp, sequence, grid = 1, "1x1", "auto"
    if isinstance(config, TrainConfig):
        fsdp, sequence, grid = config.execution.fsdp, config.execution.sequence, config.execution.grid
    pair = parse_pair(sequence, "config.execution.sequence") or parse_pair(grid, "config.execution.grid")
    if pair is None:
        raise ValueError("config.execution.sequence and grid are both auto: one must say how many devices a video has")
    count, a_video = len(devices), math.prod(pair)
    fsdp = fsdp or max(count // a_video, 1)
    if count % (fsdp * a_video):
        raise ValueError(f"{count} devices are not copies of config.execution.fsdp {fsdp} × {a_video} that share a video")
    at_a_time = count // a_video
    if config.data.batch % at_a_time:
        raise ValueError(f"config.data.batch {config.data.batch} is not a multiple of the {at_a_time} rows computed at a time")
    heads, stream = config.model.dit.num_heads, config.stream
    grids = [Geometry(*size, stream.frames, stream.motion_frames).token_grid[1:] for size in stream.buckets]
    plan = make_plan(
        count, heads, *grids, sequence=sequence, grid=grid, data=at_a_time // fsdp, fsdp=fsdp, per_host=per_host(devices)
    )  # fmt: skip
    logger.info("plan: %s", plan.explain(heads, grids[0]))
    return Placement(plan, tuple(devices))


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


def learn(learner: Learner, gradients: Weights, config: OptimizerConfig, norm: Norm = optax.tree.norm) -> Learner:
    """One update; with `accumulate`, one part of it."""
    updates, optimizer = adamw(config, norm).update(gradients, learner.optimizer, learner.weights)
    weights = optax.apply_updates(learner.weights, updates)
    # Where an update is still being gathered the average must not move.
    moved = optimizer.mini_step == 0 if config.accumulate > 1 else True
    keep = jnp.where(moved, config.ema_decay, 1.0)
    average = jax.tree.map(lambda mean, w: keep * mean + (1.0 - keep) * w, learner.average, weights if learner.average else {})
    return Learner(weights, optimizer, average)


def descend(
    learner: Learner, loss: Callable[[Weights], tuple[jax.Array, dict[str, jax.Array]]], config: OptimizerConfig, norm: Norm
) -> tuple[Learner, dict[str, jax.Array]]:
    """One update down the gradient of loss(weights) -> (loss, metrics), and what there is to watch."""
    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(learner.weights)
    return learn(learner, gradients, config, norm), {"loss": value, "grad_norm": norm(gradients), **metrics}


def in_turn(
    one: Callable[[Learner, Any, Any], tuple[Learner, dict[str, jax.Array]]], learner: Learner, batches: Sequence[Any], numbers: Any
) -> tuple[Learner, dict[str, jax.Array]]:
    """`one(learner, batch, number) -> (learner, metrics)` for every batch, in one loop of the program; metrics are means.

    numbers: a tree of arrays whose first axis goes with the batches.
    """
    if len(batches) == 1:
        return one(learner, batches[0], jax.tree.map(lambda x: x[0], numbers))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    learner, metrics = jax.lax.scan(lambda learner, given: one(learner, *given), learner, (stacked, numbers))
    return learner, jax.tree.map(jnp.mean, metrics)


def at_a_time(updates: int, accumulate: int, device: jax.Device) -> int:
    """How many batches a program takes of an iteration's `updates` · `accumulate`: all where an iteration has several updates, else
    one. On a CPU a convolution in a loop takes fifty times as long as one by itself: there it is one.

    Raises:
        ValueError: an iteration has no updates.
    """
    if updates < 1:
        raise ValueError(f"config.updates is {updates}: an iteration has at least one")
    return 1 if updates == 1 or device.platform == "cpu" else updates * accumulate


def materialize(trained: Weights, base: Weights, config: LoRAConfig) -> Weights:
    """Weights of the network: those that are trained, or the frozen base with LoRA's changes, in the base's dtype."""
    return lora.merge(base, trained, config) if config.rank else trained


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
    # One array at a time: a program that draws all of a 1.3B network takes XLA's GPU compiler minutes.
    made = flatten(random_network(config.model, name, dtype, config.loop.seed))
    return {path: placement.put(made.pop(path), x.sharding) for path, x in abstract.items()}
