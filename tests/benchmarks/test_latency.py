"""`livetalk bench latency` on a small model."""

import json
import types
from xml.etree import ElementTree

import jax
import pytest

from livetalk_jax import flags
from livetalk_jax.benchmarks import latency
from livetalk_jax.benchmarks.breakdown import PARTS, Breakdown

CONFIG = """
from livetalk_jax.configs import tiny

def get_config():
    config = tiny.get_config()
    config.model.dit.update(dim=32, ffn_dim=48, num_heads=2, num_layers=1, audio_blocks=2, audio_channels=16)
    config.model.vae.update(dim=4, dim_mult=(1, 1, 1, 1))
    config.model.clip.update(num_layers=1)
    config.model.audio.update(hidden_size=16, num_layers=2, intermediate_size=16, conv_dim=16)
    config.stream.update(buckets=((32, 32),), frames=9, audio_context_seconds=1)
    config.sampler.steps = 2
    return config
"""
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the results of one run in 8 bits."""
    folder = tmp_path_factory.mktemp("latency")
    (folder / "small.py").write_text(CONFIG)
    arguments = [f"--config={folder}/small.py", "--config.runtime.linear=fp8", "--repeats=2"]
    latency.main(["livetalk bench latency", *arguments, f"--out={folder}/latency.json", f"--profile={folder}/profile"])
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "latency.json").read_text())


def test_every_part_is_timed(results):
    seconds, spread = results["seconds"], results["spread"]
    assert {*PARTS, "DiT step", "chunk", "first frames on the host"} <= set(seconds) == {*spread, "rest"}
    assert sum(seconds[part] for part in PARTS) == pytest.approx(seconds["chunk"])
    assert seconds["DiT step"] == pytest.approx(seconds["DiT"] / 2)
    assert all(0 < least <= seconds[name] <= largest for name, (least, largest) in spread.items())
    assert results["frames_per_second"] == pytest.approx(results["new frames"] / seconds["chunk"])


def test_what_was_measured_is_told(results):
    expected = {"device": "cpu", "devices": 1, "jax": jax.__version__, "size": "32x32", "latents": "3x4x4", "scales": "fixed"}
    expected |= {"attention": "reference", "norm and rotary positions": "xla"}
    assert {key: results[key] for key in expected} == expected
    assert results["warm-up runs"] == 1 and results["timed runs"].startswith("2, ")
    assert "driver" not in results, "a CPU has none"


def test_text_and_picture(folder):
    text = (folder / "latency.txt").read_text()
    texts = [element.text for element in ElementTree.parse(folder / "latency.svg").iter(f"{SVG}text")]
    for name in (*(part for part in PARTS if part != "DiT"), "DiT, 2 steps"):
        assert f"\n{name} " in text and name in texts
    assert not list(folder.glob(".*partial"))


def test_a_trace_for_perfetto_and_tensorboard(folder):
    assert list(folder.glob("profile/plugins/profile/*/perfetto_trace.json.gz"))
    assert list(folder.glob("profile/plugins/profile/*/*.xplane.pb"))


def test_parts_slower_than_the_chunk_stay_in_the_picture():
    runs = {part: [0.25] for part in PARTS if part != "rest"} | {"DiT step": [0.125], "chunk": [1.0]}
    about = {"device": "<GPU>", "size": "32x32"}
    breakdown = Breakdown(about=about, runs=runs, steps=2, new_frames=4, peak_bytes=None, weights={})
    assert breakdown.seconds["rest"] == pytest.approx(-0.25)
    assert "-250.0" in breakdown.text()
    bars = [rect for rect in ElementTree.fromstring(breakdown.svg()).iter(f"{SVG}rect") if rect.attrib["height"] == "22"]
    spans = [(float(bar.attrib["x"]), float(bar.attrib["x"]) + float(bar.attrib["width"])) for bar in bars]
    assert spans == [(130 + 124 * i, 254 + 124 * i) for i in range(5)] + [(626, 750), (130, 626)]


@pytest.mark.parametrize(("script", "version"), [("echo 580.1; echo 580.1", "580.1"), ("exit 9", None), ("", None), (None, None)])
def test_driver(tmp_path, monkeypatch, script, version):
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert latency.driver(types.SimpleNamespace(platform="gpu")) == version


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--out=/nowhere/latency.json", "cannot write /nowhere/latency.json: the folder /nowhere does not exist"),
        ("--profile=/nowhere/trace", "cannot write /nowhere/trace: the folder /nowhere does not exist"),
        ("--out=latency.svg", "--out latency.svg must end in .json; the table and the picture go beside it"),
        (f"--profile={__file__}", f"--profile {__file__} must be a folder"),
    ],
)
def test_one_line_for_what_is_wrong(argument, line, capsys):
    with pytest.raises(SystemExit) as ended:
        flags.run(latency.main, ["livetalk bench latency", argument])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"livetalk bench latency: {line}\n"
