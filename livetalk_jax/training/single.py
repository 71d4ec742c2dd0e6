"""Training of one network alone, in the loop of the stages: the VAE and the speech encoder, where none is published."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.stream.networks import GPU_OPTIONS, network_dtype, random_network
from livetalk_jax.training.config import PartConfig
from livetalk_jax.training.stages import Metrics, Program, State, Work
from livetalk_jax.training.state import (
    Learner,
    Placement,
    Template,
    Weights,
    at_a_time,
    descend,
    in_turn,
    new_learner,
    starting_weights,
)

Loss = Callable[[Weights], tuple[jax.Array, Metrics]]


class SingleNetwork:
    """A network, its optimiser, and a loss that a subclass has.

    Args:
        config: of the run.
        where: arrays lie.
        name: of the network among `ModelConfig`'s.

    Raises:
        ValueError: an iteration has no updates.
    """

    watched = "loss"

    def __init__(self, config: PartConfig, where: Placement, name: str):
        self.config, self.placement, self.name = config, where, name
        self.template = Template(lambda: random_network(config.model, name, network_dtype(name, config.runtime.dtype), 0))
        device = where.devices[0]
        self.options = GPU_OPTIONS if device.platform == "gpu" else {}
        self.batches = config.updates * config.optimizer.accumulate  # of an iteration
        self.together = at_a_time(config.updates, config.optimizer.accumulate, device)
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state()[name])
        self._update = jax.jit(self.update, donate_argnums=0, out_shardings=(shardings, None), compiler_options=self.options)

    def loss(self, weights: Weights, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        """Of float32 weights, with what is worth watching."""
        raise NotImplementedError

    def frames_of(self, batch: Any) -> int:
        """How many frames a batch has, for the rate that is told."""
        raise NotImplementedError

    def synthetic_batch(self) -> Any:
        """Random numbers in the shape of a batch, for benchmarks."""
        raise NotImplementedError

    def sample_video(self, state: State, frozen: Any, batch: Any) -> np.ndarray:
        """What the network makes of a batch, as a video: uint8 [F, Y, X, 3]."""
        raise NotImplementedError

    def exported(self, state: State, frozen: Any, feed: Iterator[Any]) -> dict[str, nnx.State]:
        """The network for a checkpoint."""
        return {self.name: self.template.state(state[self.name].best)}

    def additional(self) -> Weights:
        """Weights that only the loss has."""
        return {}

    def start(self) -> State:
        """The learner at the beginning of training."""
        abstract = self.placement.place(self.template.abstract(jnp.float32))
        weights = starting_weights(self.config, self.name, self.template, abstract) | self.additional()
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state())
        return jax.jit(self._new_learners, out_shardings=shardings)(weights)

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of `start`."""
        shapes = self.template.abstract(jnp.float32) | jax.eval_shape(self.additional)
        return self.placement.place(jax.eval_shape(self._new_learners, shapes))

    def _new_learners(self, weights: Weights) -> State:
        return {self.name: new_learner(jax.tree.map(jnp.copy, weights), self.config.optimizer)}

    def frozen(self) -> Any:
        """What training does not change: nothing."""
        return None

    def build(self, weights: Weights, dtype: Any) -> Any:
        """The network with these weights, cast to the dtype to compute in."""
        return self.template.build({name: weights[name].astype(dtype) for name in self.template.shapes})

    def update(self, learner: Learner, batches: Sequence[Any], first: Any) -> tuple[Learner, Metrics]:
        """An update for each batch, or a part of one; `first` counts the batches before these."""

        def one(learner: Learner, batch: Any, number: jax.Array) -> tuple[Learner, Metrics]:
            key = jax.random.fold_in(jax.random.key(self.config.loop.seed), number)
            return descend(learner, lambda weights: self.loss(weights, batch, key), self.config.optimizer, self.placement.norm)

        return in_turn(one, learner, batches, first + jnp.arange(len(batches), dtype=jnp.uint32))

    def programs(self, state: State, frozen: Any, batch: Any) -> dict[str, Program]:
        """What `step` runs, by name."""
        return {"update": Program(self._update, (state[self.name], (batch,) * self.together, np.uint32(0)), self.name)}

    def step(self, state: State, frozen: Any, step: int, feed: Iterator[Any]) -> tuple[State, Metrics, Work]:
        learner, frames, every = state[self.name], 0, []
        for first in range(step * self.batches, (step + 1) * self.batches, self.together):
            batches = tuple(next(feed) for _ in range(self.together))
            learner, metrics = self._update(learner, batches, np.uint32(first))
            every.append(metrics)
            frames += sum(map(self.frames_of, batches))
        return {self.name: learner}, jax.tree.map(lambda *x: sum(x) / len(x), *every), Work(frames, 0.0)
