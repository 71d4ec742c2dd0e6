"""The loop around a stage: what it keeps, where it goes on, and when it stops. The stage is a number that is counted up."""

import json
import math
import os
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from orbax.checkpoint import v1 as ocp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from livetalk_jax.configs import vae_tiny
from livetalk_jax.training import loop
from livetalk_jax.training.config import AutoencoderConfig, training_config
from livetalk_jax.training.progress import DivergedError
from livetalk_jax.training.stages import Work
from tests.training.conftest import one_device


class Counter:
    """A `Stage` of one number. `losses`: by iteration; iterations without one are of another network, as in stage 2."""

    watched = "loss"

    def __init__(self, losses: dict[int, float], size: int = 1, told_at: int | None = None, **options):
        values = vae_tiny.get_config()
        values.loop.update(dict(steps=6, save_every=2, sample_every=0, log_every=1, keep_last=1, keep_best=1) | options)
        self.config: AutoencoderConfig = training_config(values)
        self.placement = one_device()
        self.losses, self.size, self.told_at = losses, size, told_at
        self.ran: list[int] = []

    def frozen(self):
        return None

    def start(self):
        return {"number": jnp.zeros(self.size)}

    def abstract_state(self):
        return self.placement.place(jax.eval_shape(self.start))

    def step(self, state, frozen, step, feed):
        self.ran.append(step + 1)
        if step + 1 == self.told_at:
            os.kill(os.getpid(), signal.SIGTERM)
        metrics = {"other": jnp.ones(())} | ({"loss": jnp.asarray(self.losses[step + 1])} if step + 1 in self.losses else {})
        return {"number": state["number"] + 1}, metrics, Work(1, 0.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a stage in one folder; the folder's checkpoints."""
    monkeypatch.setattr(loop, "export", lambda *args: args[-1].mkdir())
    data = SimpleNamespace(get_state=dict, set_state=lambda state: None)

    def begin(stage: Counter) -> list[int]:
        loop.train(stage, data, tmp_path)
        return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())

    return begin


FALLING = {step: 1.0 / step for step in range(1, 10)}


def test_the_last_and_the_best_are_kept(run):
    assert run(Counter({**FALLING, 4: 0.0})) == [4, 6]


def test_the_loss_is_known_when_a_run_goes_on(run, tmp_path):
    """That of a network whose turn has not come again is what it was before."""
    run(Counter({1: 0.5}, told_at=2))
    run(Counter({}))
    with ocp.training.Checkpointer(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.metadata(6).metrics == {"loss": 0.5}


def test_told_to_end(run, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    assert run(Counter(FALLING, told_at=3)) == [3]
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "student").exists()
    rest = Counter(FALLING)
    run(rest)
    assert rest.ran == [4, 5, 6]
    assert (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("step", "line"), [(5, r"step 5: loss nan; the last good checkpoint is .*checkpoints/4$"), (1, "no checkpoint")]
)
def test_a_loss_that_is_not_finite(run, step, line):
    with pytest.raises(DivergedError, match=line):
        run(Counter({**FALLING, step: math.nan}))


def test_a_run_that_has_ended(run):
    run(Counter(FALLING))
    again = Counter(FALLING)
    run(again)
    assert again.ran == []
    with pytest.raises(ValueError, match="student was made at the end of 6 steps; move it away to go on to 8"):
        run(Counter(FALLING, steps=8))


def test_checkpoints_of_another_configuration(run):
    run(Counter(FALLING, told_at=2))
    with pytest.raises(ValueError, match="checkpoints/2 is a checkpoint of another configuration"):
        run(Counter(FALLING, size=2))


def test_what_has_changed_is_told(run, tmp_path, caplog):
    run(Counter(FALLING, told_at=2))
    run(Counter(FALLING, seed=3))
    assert [record.getMessage() for record in caplog.records if record.name == loop.__name__] == [
        "the run goes on with config.loop.seed 3 (it was 0)"
    ]
    assert json.loads((tmp_path / "config.json").read_text())["loop"]["seed"] == 3


def test_tensorboard_forgets_what_is_done_again(run, tmp_path):
    with pytest.raises(DivergedError):
        run(Counter({**FALLING, 6: math.nan}))
    run(Counter(FALLING))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
