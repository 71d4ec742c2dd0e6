"""One small stage of each kind, compiled once for all tests of this folder."""

import dataclasses
from typing import NamedTuple

import jax
import pytest

from livetalk_jax.parallel.plan import Plan
from livetalk_jax.shapes import Geometry
from livetalk_jax.training.batch import SyntheticData, TrainBatch
from livetalk_jax.training.config import TrainConfig
from livetalk_jax.training.loop import Feed
from livetalk_jax.training.stages import Adaptation, Distillation, Frozen, Stage, State
from livetalk_jax.training.state import Placement
from tests.training import sizes
from tests.training.teacher import write_teacher


def one_device() -> Placement:
    return Placement(Plan(), tuple(jax.devices()[:1]))


def synthetic(config: TrainConfig, height: int = sizes.HEIGHT, width: int = sizes.WIDTH) -> SyntheticData:
    geometry = Geometry(height, width, config.stream.frames, config.stream.motion_frames)
    return SyntheticData(config.model, [geometry], batch=config.data.batch, chunks=config.data.chunks, seed=0)


class Run(NamedTuple):
    """A stage and what it starts with."""

    stage: Stage
    state: State
    frozen: Frozen
    batch: TrainBatch


def begin(name: str, teacher: str) -> Run:
    config = dataclasses.replace(TrainConfig.from_config_dict(sizes.get_config(name)), checkpoint=teacher)
    data = synthetic(config)
    stage = {"stage1": Adaptation, "stage2": Distillation}[name](config, one_device(), data.negative_text)
    return Run(stage, stage.start(), stage.frozen(), next(Feed(data, stage.placement)))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> str:
    model = TrainConfig.from_config_dict(sizes.get_config("stage1")).model
    return write_teacher(tmp_path_factory.mktemp("teacher") / "networks", model, ("dit", "vae"))


@pytest.fixture(scope="session")
def stage1(teacher) -> Run:
    return begin("stage1", teacher)


@pytest.fixture(scope="session")
def stage2(teacher) -> Run:
    return begin("stage2", teacher)
