"""The measuring client, on the test card: its figures are the card's."""

import json

import pytest

from livetalk_jax.flags import UsageError
from livetalk_jax.serving import bench
from livetalk_jax.serving.engine import Limits
from tests.serving.conftest import running


@pytest.fixture(scope="module")
def server(card):
    with running(card, Limits(sessions=3)) as found:
        yield found


def test_figures_of_the_card(url, tmp_path, capsys):
    out = tmp_path / "serving.json"
    options = {"url": url, "repeats": 1, "visits": 6, "minutes": 0.03, "sessions": 3, "out": out}
    bench.main(["livetalk bench serving", *(f"--{name}={value}" for name, value in options.items())])
    result = json.loads(out.read_text())
    table = capsys.readouterr().out
    for name, times in result["reactions"].items():
        assert name in table and len(times["runs"]) == 1 and times["longest"] >= times["median"] == times["runs"][0], name
    names = ("open to first frame", "speech to its first frame", "interrupt to answer", "interrupt to silence", "interrupt to idle")
    assert set(result["reactions"]) == {*names, "sound after picture"}
    assert abs(result["reactions"]["sound after picture"]["median"]) < 0.04
    assert len(result["talking"]) == 3
    for session in result["talking"]:
        assert abs(session["largest skew of a fragment"]) < 0.04
        assert abs(session["sound after picture, in the end"]) < 0.04
        assert 0 < session["real-time factor"] < 2 and session["seconds"] > 0
    job = result["job"]
    assert job["frames"] > 200 and job["request to video, seconds"] > job["server's clock, seconds"] > 0
    assert result["beyond capacity"]["asked"] == result["beyond capacity"]["refused"] == 3
    assert [row["sessions"] for row in result["visits"]] == [*range(6), 6]
    rows = result["over time"]
    assert len(rows) >= 2 and rows[-1]["late frames"] == sum(session["late frames"] for session in result["talking"])
    assert all(row["server MiB"] > 0 for row in [*rows, *result["visits"]])
    assert table.count("server's memory") == 2
    assert "bench serving" in result["command"]


def test_wrong_options_are_one_line(tmp_path):
    for arguments in (["--repeats", "0"], ["--nothing"], ["--out", str(tmp_path / "no" / "where.json")]):
        with pytest.raises(UsageError):
            bench.main(["livetalk bench serving", *arguments])
