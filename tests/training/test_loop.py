"""The loop around a stage: what it keeps, where it goes on, and when it stops. The stage counts."""

import itertools
import json
import math
import signal
import sys
import types

import numpy as np
import pytest
from flax import nnx
from orbax.checkpoint import v1 as ocp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from livetalk_jax import checkpoint
from livetalk_jax.config import UMT5Config
from livetalk_jax.training import loop
from livetalk_jax.training.progress import DivergedError
from tests.processes import run_together
from tests.training.counter import FALLING, Counter, Nowhere


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a stage in one folder; the folder's checkpoints."""
    monkeypatch.setattr(loop, "export", lambda *args: args[-1].mkdir())

    def begin(stage: Counter) -> list[int]:
        loop.train(stage, Nowhere(), tmp_path)
        return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())

    return begin


def test_the_last_and_the_best_are_kept(run):
    """The best by the mean since the checkpoint before, not by one iteration."""
    assert run(Counter({1: 0.9, 2: 0.1, 3: 0.2, 4: 0.2, 5: 0.5, 6: 0.0})) == [4, 6]


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


@pytest.mark.parametrize(("minutes", "steps"), [(2.5, 3), (0.1, 1)])
def test_a_run_that_ends_by_minutes_knows_its_steps(run, tmp_path, monkeypatch, minutes, steps):
    """Each step takes a minute. The last is kept though it is none of those that are kept on the way."""
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=itertools.count(0, 60).__next__))
    assert run(Counter(FALLING, minutes=minutes)) == [steps]
    assert (tmp_path / "student").exists()
    with pytest.raises(ValueError, match=f"made at the end of {steps} steps"):
        run(Counter(FALLING))


def test_checkpoints_of_another_configuration(run):
    run(Counter(FALLING, told_at=2))
    with pytest.raises(ValueError, match="checkpoints/2 is a checkpoint of another configuration"):
        run(Counter(FALLING, rows=4))


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


def test_two_processes(tmp_path):
    """Each has half. Told to end, one of them tells the other; started again, they write a student together."""
    others = {"text": nnx.State({"matrix": nnx.Param(np.ones((2, 2), np.float32))})}
    checkpoint.save(tmp_path / "others", others, {"text": UMT5Config.tiny()}, origin="a test")

    def together(steps: int) -> None:
        run_together([sys.executable, "-m", "tests.training.counter", str(tmp_path), str(steps)])

    together(1_000_000_000)
    (step,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert step >= 2
    assert not (tmp_path / "student").exists()
    together(step)
    assert checkpoint.read_manifest(tmp_path / "student").configurations.keys() == {"text", "vae"}
    ((_, matrix),) = checkpoint.read(tmp_path / "student", "vae")
    np.testing.assert_array_equal(matrix, np.full((2, 2), step, np.float32))
