"""`livetalk bench memory`, on devices that are there."""

import dataclasses
import math

import jax
import pytest

from livetalk_jax import flags
from livetalk_jax.benchmarks import memory
from livetalk_jax.benchmarks.absent import absent_devices
from livetalk_jax.training.config import TrainConfig
from tests.training import sizes


@pytest.fixture(scope="module")
def config():
    config = sizes.get_config("stage1")
    config.student.ema_decay = 0.0
    return TrainConfig.from_config_dict(config)


@pytest.fixture(scope="module")
def needs(config):
    return [memory.need(config, jax.devices()[:count]) for count in (1, 2)]


def test_what_a_device_holds(config, needs):
    one, two = needs
    stage = memory.make_stage(config, memory.placement_for(config, jax.devices()[:1]), jax.numpy.zeros((8, 16)))
    parameters = sum(math.prod(x.shape) for x in stage.dit.shapes.values())
    assert one.learners == pytest.approx(12 * parameters, rel=1e-3), "float32 weights and two moments"
    assert 0.5 * one.learners < two.learners < 0.65 * one.learners, "matrices are shared out, small arrays are not"
    assert one.frozen > two.frozen > 0 and one.batch == pytest.approx(2 * two.batch, rel=0.01)
    assert all(need.peak > need.learners + need.frozen + need.batch for need in needs)


def test_table(needs):
    whole = dataclasses.replace(needs[0], learners=200 << 30)
    lines = memory.table([whole, needs[1]]).splitlines()
    assert lines[0].split()[-4:] == ["1", "GPUs", "2", "GPUs"]
    rows = {line[:28].strip(): line[28:].split() for line in lines[1:]}
    assert rows["weights and optimisers"] == ["200.0", "0.0"] and rows["rows of the batch a GPU"] == ["2", "1"]
    assert rows["fits an H200 (131 GiB)"] == ["no", "yes"] and "+ update" in rows


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--devices", "8,many"], "--devices 8,many must be numbers of GPUs, such as 8,16,32"),
        (["--out", "/nowhere"], "the folder /nowhere does not exist"),
    ],
)
def test_bad_input(arguments, line):
    with pytest.raises(flags.UsageError) as error:
        memory.main(["livetalk bench memory", f"--config={sizes.__file__}:stage1", *arguments])
    assert str(error.value) == line


def test_hosts_are_whole():
    with pytest.raises(flags.UsageError, match="12 GPUs are not a number of hosts of 8"):
        absent_devices(12)
