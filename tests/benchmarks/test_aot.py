"""What `make sharding-aot` fails on: `aot.problems` of a compiled chunk that is told here, not compiled."""

import types

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from livetalk_jax.benchmarks import aot, hlo, sharding
from livetalk_jax.benchmarks.cost.chunk import chunk_traffic
from livetalk_jax.config import RunConfig
from livetalk_jax.configs import tiny
from livetalk_jax.diffusion.sampler import Motion
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.shapes import Geometry

CONFIG, GEOMETRY, PLAN = RunConfig.from_config_dict(tiny.get_config()), Geometry(128, 128, 33, 5), Plan(ulysses=2, columns=2)


@pytest.fixture
def problems(monkeypatch):
    """Of a chunk that sends what the plan asks for, but for what is given here."""
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
    cut, whole = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((None, None, "x"), ()))

    def found(sent=(), added=(), left=cut):
        asked = chunk_traffic(CONFIG, PLAN, GEOMETRY, per_host=2)
        assert set(asked) == {"all-to-all", "collective-permute", "all-gather", "all-reduce"}
        monkeypatch.setattr(sharding, "text_of", lambda program: "")
        monkeypatch.setattr(hlo, "added", lambda text: list(added))
        monkeypatch.setattr(hlo, "by_kind", lambda counts: asked | dict(sent))
        monkeypatch.setattr(hlo, "collectives", lambda text: {})
        taken = Motion(*(types.SimpleNamespace(sharding=s, shape=shape) for s, shape in ((cut, (1, 2, 8, 8, 16)), (whole, ()))))
        programs = types.SimpleNamespace(
            pipeline=types.SimpleNamespace(geometry=GEOMETRY), calls={"chunk": (None, (None, taken))}
        )  # fmt: skip
        program = types.SimpleNamespace(output_shardings=(whole, Motion(left, whole)))
        return aot.problems(CONFIG, types.SimpleNamespace(plan=PLAN), programs, program)

    found.whole = whole
    return found


def test_a_chunk_as_planned_has_none(problems):
    assert problems() == []


def test_bytes_that_no_plan_asks_for(problems):
    assert problems(sent={"all-gather": (3, 1.0)})[0].startswith("all-gather sends 1 bytes where the plan asks for ")
    assert problems(sent={"reduce-scatter": (1, 64.0)}) == ["reduce-scatter sends 64 bytes where the plan asks for 0"]


def test_a_collective_that_xla_added(problems):
    assert problems(added=["all-gather of f32[4]"]) == ["XLA added all-gather of f32[4]"]


def test_motion_that_leaves_otherwise_than_it_is_taken(problems):
    (line,) = problems(left=problems.whole)
    assert line.startswith("the motion's latents leaves as ")
