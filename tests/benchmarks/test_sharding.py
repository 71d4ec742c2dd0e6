"""The comparison of plans: on two CPU devices from end to end, and its budget."""

import json
import math
import types

import jax
import numpy as np
import pytest

from livetalk_jax import flags
from livetalk_jax.benchmarks import hlo, sharding
from livetalk_jax.benchmarks.cost import chunk
from livetalk_jax.config import DiTConfig, RunConfig
from livetalk_jax.configs import tiny
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.shapes import Geometry

HEADS = DiTConfig.tiny().num_heads
CONFIG = """
from livetalk_jax.configs import tiny

def get_config():
    config = tiny.get_config()
    config.model.dit.num_layers = 1
    config.stream.frames = 13
    config.stream.buckets = ((64, 48),)
    config.sampler.steps = 2
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharding")
    (folder / "small.py").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    arguments = [f"--config={folder}/small.py", "--devices=2", "--repeats=1", f"--out={folder}", "--plans=u2r1-g2x1"]
    sharding.main(["livetalk bench sharding", *arguments])
    return json.loads((folder / "sharding.json").read_text())


def test_every_column_is_filled(results):
    one, two = results["rows"]
    assert [one["plan"], two["plan"]] == ["u1r1-g1x1", "u2r1-g2x1"]
    assert [one["devices"], two["devices"]] == [1, 2]
    for row in (one, two):
        assert not row["predicted"]
        assert set(row["seconds"]) == {"DiT step", "VAE decode", "VAE encode", "chunk"}
        assert all(0 < seconds < 100 for seconds in row["seconds"].values())
        assert row["compile_seconds"] > 0
        assert row["peak_bytes"] > 1e6
    assert one["latents_error"] == 0
    assert one["frames_psnr"] == "infinite"
    assert 0 < two["latents_error"] < 1e-5
    assert two["frames_psnr"] == "infinite" or two["frames_psnr"] > 60
    assert one["traffic"]["chunk"] == {}
    assert two["collective_seconds"] > 0


def test_what_is_sent_is_what_the_formulas_say(results, folder):
    """float32 is twice as wide as the model's bf16."""
    _, config = flags.parse(lambda values: None, ["", f"--config={folder}/small.py"], "")
    geometry = Geometry(64, 48, config.stream.frames, config.stream.motion_frames)
    stages = chunk.stages(config, Plan(ulysses=2, rows=2), geometry, per_host=8)
    traffic = results["rows"][1]["traffic"]
    for stage in ("DiT step", "VAE decode", "VAE encode"):
        sent = {kind: amount for kind, (_, amount) in traffic[stage].items()}
        assert sent == pytest.approx({kind: 2 * amount for kind, (_, amount) in stages[stage].traffic().items()}), stage
    halos = chunk.chunk_traffic(config, Plan(ulysses=2, rows=2), geometry, per_host=8)["collective-permute"]
    assert traffic["chunk"]["collective-permute"][1] == pytest.approx(2 * halos[1])
    assert traffic["DiT step"]["all-to-all"][0] == 4 * config.model.dit.num_layers


def test_text_and_picture(results, folder):
    text = (folder / "sharding.txt").read_text()
    assert "u2r1-g2x1" in text and "measured" in text and "predicted" not in text
    assert (folder / "sharding.svg").read_text().startswith("<svg")
    assert not list(folder.glob(".*partial"))


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """`sharding.compare` with plans that take ten seconds each by a clock of its own; nothing is computed."""
    clock, tried = [0.0], []

    def measure_plan(config, where, *_):
        tried.append(where.plan.name)
        clock[0] += 10.0
        if where.plan.ring == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nwhile trying")
        counts = {hlo.Collective("all-reduce", (("f32", (4,)),), ((0, 1),)): 1}
        one = sharding.Measured(1.0, 1.0, counts, 1.0, 1, np.ones(3))
        return dict.fromkeys(("DiT step", "VAE decode", "VAE encode", "chunk"), one)

    monkeypatch.setattr(sharding, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(sharding, "random_networks", lambda *_, **__: {})
    monkeypatch.setattr(sharding, "random_inputs", lambda *_: None)
    monkeypatch.setattr(sharding, "measure_plan", measure_plan)
    monkeypatch.setattr(sharding.replay, "seconds", lambda *_: 1.0)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)
    config = RunConfig.from_config_dict(tiny.get_config())
    plans = sharding.candidates(2, HEADS, (8, 8))

    def run(budget):
        report = sharding.compare(config, jax.devices()[:2], plans, out=tmp_path, repeats=1, budget=budget, about={})
        return report, tried

    return run


def test_a_budget_is_kept(compare):
    report, tried = compare(35)
    assert tried == ["u1r1-g1x1", "u2r1-g2x1", "u1r2-g2x1"]  # a fourth would end at 40
    assert "no time was left for: u2r1-g1x2" in report.text()
    assert [row.collective_seconds for row in report.rows] == [1.0, 1.0, None]


def test_one_device_is_always_measured(compare):
    assert compare(0)[1] == ["u1r1-g1x1"]


def test_a_plan_that_fails_costs_only_itself(compare, tmp_path):
    report, tried = compare(math.inf)
    assert tried == ["u1r1-g1x1", *(plan.name for plan in sharding.candidates(2, HEADS, (8, 8)))]
    failed = [row for row in report.rows if row.failed]
    assert failed
    assert all("u1r2" in row.plan and row.failed == "RESOURCE_EXHAUSTED: out of memory while trying" for row in failed)
    assert [row["plan"] for row in json.loads((tmp_path / "sharding.json").read_text())["rows"]] == tried


def test_all_plans_of_two_devices():
    plans = sharding.candidates(2, 40, (45, 26))
    names = [plan.name for plan in plans]
    assert names[:5] == ["u2r1-g1x2", "u1r2-g1x2", "u2r1-g2x1", "u2r1-g1x2-h2", "u2r1-g1x2-overlap"]
    assert {name for name in names if "-h" not in name} == {
        f"u{u}r{3 - u}-g{g}{split}" for u in (1, 2) for g in ("1x2", "2x1") for split in ("", "-overlap")
    }
    assert len(set(names)) == len(names)
    assert all(plan.problem(40, (45, 26)) is None for plan in plans)
    assert sharding.chosen(["all"], plans) == plans
    assert sharding.chosen([names[3], names[0], names[3]], plans) == [plans[3], plans[0]]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--devices=2", "--plans=u3r1-g1x3"], "no plan u3r1-g1x3; there are: u2r1"),
        (["--devices=9"], "9 devices were asked for, but there are 8"),
        (["--devices=2", "--model-for=h800x8"], "give one of them"),
        (["--model-for=h900x8"], "no machine 'h900x8'"),
        (["--model-for=h800x8"], "fitted on bfloat16"),
        (["--devices=2", "--out=/nowhere"], "the folder /nowhere does not exist"),
    ],
)
def test_one_line_for_what_is_wrong(arguments, line):
    with pytest.raises(ValueError, match=line):
        sharding.main(["livetalk bench sharding", "--config=tiny", *arguments])


def test_a_prediction_of_one_device(capsys):
    sharding.main(["livetalk bench sharding", "--config=soulx_14b", "--model-for=h200x1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("u")]
    assert len(lines) == 1 and lines[0].startswith("u1r1-g1x1") and "predicted" in lines[0]


def test_a_prediction_from_the_command_line(tmp_path, capsys):
    sharding.main(["livetalk bench sharding", "--config=soulx_14b", "--model-for=h100x2x8", f"--out={tmp_path}"])
    assert "PREDICTED for 2 host(s) of 8 H100 SXM" in capsys.readouterr().out
    rows = json.loads((tmp_path / "predicted_h100x2x8.json").read_text())["rows"]
    assert {row["devices"] for row in rows} == {1, 16}
    assert all(row["predicted"] for row in rows)
