"""Checkpoints of a run: learners and data position, written while training goes on; the last few and the best are kept."""

import json
from pathlib import Path
from typing import Any, NamedTuple, Self

from orbax.checkpoint import v1 as ocp

from livetalk_jax.training.config import LoopConfig


class Restored(NamedTuple):
    """Iterations done, learners, `TrainData.get_state`, and the loss that the checkpoint is judged by."""

    step: int
    state: Any
    position: dict[str, Any]
    loss: float


class Checkpoints:
    """A context manager over the folder of a run's checkpoints; it is left when all of them are written.

    Random numbers follow from the configuration's seed and the iteration, so nothing of them is stored.
    """

    def __init__(self, folder: Path, config: LoopConfig):
        policies = ocp.training.preservation_policies
        kept: list[Any] = [policies.LatestN(config.keep_last)]
        if config.keep_best:
            kept.append(policies.BestN(get_metric_fn=lambda metrics: metrics["loss"], reverse=True, n=config.keep_best))
        self.folder = folder.absolute()
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # it is the loop that decides
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> str:
        """The last good checkpoint, for people."""
        self._checkpointer.wait()
        found = self._checkpointer.latest
        return f"the last good checkpoint is {self.folder / str(found.step)}" if found else "there is no checkpoint yet"

    def save(self, step: int, state: Any, position: dict[str, Any], loss: float) -> None:
        """Returns as soon as the numbers are copied. `step`: iterations done."""
        self._checkpointer.save_async(step, state, metrics={"loss": loss}, custom_metadata={"position": json.dumps(position)})

    def restore(self, abstract_state: Any) -> Restored | None:
        """The last checkpoint, or None. Raises ValueError where it is of another kind of run."""
        found = self._checkpointer.latest
        if found is None:
            return None
        try:
            state = self._checkpointer.load(found.step, abstract_state)
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{self.folder / str(found.step)} is a checkpoint of another configuration; give the one it was made with, "
                f"or another --workdir ({reason})"
            ) from error
        metadata: Any = self._checkpointer.metadata(found.step)
        return Restored(found.step, state, json.loads(metadata.custom_metadata["position"]), metadata.metrics["loss"])
