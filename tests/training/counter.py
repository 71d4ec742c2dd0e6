"""A stage that counts, for tests of the loop; and one process of several that runs it: `python -m tests.training.counter FOLDER STEPS`.

The last process tells itself to end behind its second iteration.
"""

import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from livetalk_jax.configs import vae_tiny
from livetalk_jax.parallel.distributed import initialize
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.training.config import training_config
from livetalk_jax.training.loop import train
from livetalk_jax.training.stages import Work
from livetalk_jax.training.state import Placement

FALLING = {step: 1.0 / step for step in range(1, 10)}


class Counter:
    """A `Stage` of one matrix, to which every iteration adds 1.

    Args:
        losses: by iteration, from 1; iterations without one are of another network, as in stage 2.
        rows: of the matrix.
        told_at: the iteration in which this process is told to end.
        devices: how many share the matrix.
        checkpoint: folder that supplies the other networks of the student.
        options: of `LoopConfig`.
    """

    watched = "loss"

    def __init__(self, losses: dict[int, float], *, rows=2, told_at=None, devices=1, checkpoint="", **options):
        values = vae_tiny.get_config()
        values.checkpoint = checkpoint
        values.loop.update(dict(steps=6, save_every=2, sample_every=0, log_every=1, keep_last=1, keep_best=1) | options)
        self.config = training_config(values)
        self.placement = Placement(Plan(fsdp=devices), tuple(jax.devices()[:devices]))
        self.losses, self.rows, self.told_at = losses, rows, told_at
        self.ran: list[int] = []

    def frozen(self):
        return None

    def new(self):
        return {"matrix": jnp.zeros((self.rows, 2))}

    def abstract_state(self):
        return self.placement.place(jax.eval_shape(self.new))

    def start(self):
        return jax.jit(self.new, out_shardings=jax.tree.map(lambda x: x.sharding, self.abstract_state()))()

    def programs(self, state, frozen, batch):
        return {}

    def step(self, state, frozen, step, feed):
        self.ran.append(step + 1)
        if step + 1 == self.told_at:
            os.kill(os.getpid(), signal.SIGTERM)
        metrics = {"other": jnp.ones(())} | ({"loss": jnp.asarray(self.losses[step + 1])} if step + 1 in self.losses else {})
        return {"matrix": state["matrix"] + 1}, metrics, Work(1, 0.0)

    def exported(self, state, frozen, feed):
        return {"vae": nnx.State({"matrix": nnx.Param(state["matrix"])})}


class Nowhere:
    """Data that is nowhere: batches without arrays."""

    def __next__(self):
        return {}

    def get_state(self):
        return {}

    def set_state(self, state):
        assert state == {}


def main(folder: str, steps: str) -> None:
    initialize()
    last = jax.process_index() == jax.process_count() - 1
    options = dict(steps=int(steps), save_every=1_000_000, log_every=1_000_000, checkpoint=f"{folder}/others")
    train(Counter({}, told_at=2 if last else None, devices=jax.device_count(), **options), Nowhere(), Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
