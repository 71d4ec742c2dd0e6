"""`livetalk bench training` on small stages."""

import json
import logging
import re

import pytest

from livetalk_jax import flags
from livetalk_jax.benchmarks import training
from tests.training import sizes

COMPILED = re.compile(r"Finished XLA compilation of jit\((\w+)\)")
PROGRAMS = {"stage1": {"update"}, "stage2": {"chunk handed on", "last chunk", "student's update", "fake score's update"}}
FUNCTIONS = {"stage1": ["updates"], "stage2": ["advance", "enter", "follow_student", "match_distribution"]}


@pytest.mark.parametrize("stage", PROGRAMS)
def test_a_stage_is_timed(stage, tmp_path, capsys, caplog):
    out = tmp_path / "training.json"
    arguments = [f"--config={sizes.__file__}:{stage}", "--steps=2", "--repeats=1", f"--out={out}"]
    with caplog.at_level(logging.DEBUG, "jax._src.dispatch"):
        training.main(["livetalk bench training", *arguments])
    compiled = [name for name in COMPILED.findall(caplog.text) if name in FUNCTIONS[stage]]
    assert sorted(compiled) == FUNCTIONS[stage], "each once, though they are compiled before they are called"
    record = json.loads(out.read_text())
    assert set(record["seconds of each program"]) == PROGRAMS[stage]
    assert all(seconds > 0 for seconds in record["seconds of each program"].values())
    tokens = 3 * 2 * 2 * record["rows"]  # of a chunk of 9 frames and 32×32 pixels
    # Stage 2 takes one batch for the fake score in each of the two iterations, and one for the student in the first.
    batches = {"stage1": 1.0, "stage2": 1.5}[stage]
    assert record["tokens a second"] * record["seconds a step"] == pytest.approx(batches * tokens)
    assert record["model FLOP utilisation"] is None, "a CPU's peak is not known"
    assert "seconds a step" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["vae_tiny", "audio_tiny"])
def test_a_network_alone_is_timed(name, tmp_path):
    out, size = tmp_path / "training.json", "--config.stream.buckets=((32, 32),)"
    arguments = [
        f"--config={name}",
        size,
        "--config.data.batch=1",
        "--config.updates=1",
        "--steps=1",
        "--repeats=1",
        f"--out={out}",
    ]
    training.main(["livetalk bench training", *arguments])
    record = json.loads(out.read_text())
    assert record["seconds of each program"]["update"] > 0
    assert record["frames a second"] * record["seconds a step"] == pytest.approx(33)
    assert record["parameters"] == {"vae_tiny": 1_889_003, "audio_tiny": 458_384}[name]


def test_bad_input(tmp_path):
    arguments = [f"--config={sizes.__file__}:stage1", f"--out={tmp_path / 'no' / 'file.json'}"]
    with pytest.raises(flags.UsageError, match=r"the folder .* does not exist"):
        training.main(["livetalk bench training", *arguments])
