"""Tables and pictures of the comparison."""

import json
import math
from xml.etree import ElementTree

from livetalk_jax.benchmarks.report import Report, Row

SECONDS = {"DiT step": 0.5, "VAE decode": 0.2, "VAE encode": 0.02, "chunk": 2.25}
ROWS = [
    Row(plan="u1r1-g1x1", explained="1 device", devices=1, seconds=SECONDS, latents_error=0.0, frames_psnr=math.inf),
    Row(
        plan="u2r1-g1x2",
        explained="2 <devices>",
        devices=2,
        predicted=True,
        seconds={stage: seconds / 2 for stage, seconds in SECONDS.items()},
        traffic={"chunk": {"all-to-all": (640, 17e9), "all-gather": (3, 1e9)}, "DiT step": {"all-to-all": (160, 4e9)}},
    ),
    Row(plan="u1r2-g1x2", explained="2 devices", devices=2, failed="out of memory"),
]
REPORT = Report(about={"steps": 4, "device": "a <GPU>", "size": "416x720"}, rows=ROWS, new_frames=28, notes=["a note"])
SVG = "{http://www.w3.org/2000/svg}"


def test_text():
    lines = REPORT.text().splitlines()
    assert lines[0] == "steps: 4"
    one, two, three = (next(line for line in lines if line.startswith(row.plan)) for row in ROWS)
    assert one.split()[:8] == ["u1r1-g1x1", "1", "measured", "500.0", "200.0", "20.0", "2250.0", "12.4"]
    assert all(part in two for part in ("predicted", "250.0 (2.00x)", "18000", "643", "24.9"))
    assert "failed" in three
    assert "u1r2-g1x2 failed: out of memory" in lines
    assert lines[-1] == "a note"


def test_json():
    rows = json.loads(REPORT.json())["rows"]
    assert rows[0]["frames_psnr"] == "infinite"
    assert [row["predicted"] for row in rows] == [False, True, False]
    assert rows[2]["failed"] == "out of memory"
    assert "seconds" not in rows[2]


def test_picture():
    """Well-formed, a bar for each row with times, and predictions look otherwise."""
    root = ElementTree.fromstring(REPORT.svg())
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"u1r1-g1x1", "u2r1-g1x2 (predicted)"} <= set(texts)
    assert not any("u1r2" in text for text in texts)
    assert sum("stroke-dasharray" in element.attrib for element in root.iter()) == 4
    bars = [float(element.attrib["width"]) for element in root.iter(f"{SVG}rect") if element.attrib["height"] == "22"]
    assert math.isclose(sum(bars[:4]), 620, abs_tol=0.5)
    assert math.isclose(sum(bars[4:]), 310, abs_tol=0.5)


def test_nothing_measured_yet():
    empty = Report(about={}, rows=[], new_frames=28)
    assert "plan" in empty.text()
    ElementTree.fromstring(empty.svg())
