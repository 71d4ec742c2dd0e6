"""Every figure that the Grafana dashboard shows is one that the server has."""

import json
import re
from pathlib import Path

from livetalk_jax.serving.metrics import Metrics

DASHBOARD = Path(__file__).parents[2] / "deploy" / "dashboard.json"


def test_the_dashboard_shows_what_there_is():
    shown = set(re.findall(r"(?:livetalk|process)_\w+", DASHBOARD.read_text())) - {"livetalk_ready"}
    there = set(re.findall(r"^# TYPE (\w+)", Metrics().text().decode(), re.MULTILINE))
    for name in shown:
        assert name in there or re.sub(r"_bucket$", "", name) in there, name
    missing = {name for name in there if name.startswith("livetalk_") and not name.endswith("_created")} - {
        re.sub(r"_bucket$", "", name) for name in shown
    }
    assert missing <= {"livetalk_ready", "livetalk_frames_total", "livetalk_interrupts_total"}


def test_panels_lie_apart():
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
