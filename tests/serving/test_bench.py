"""The measuring client, on the test card: its figures are the card's."""

import json

import pytest

from livetalk_jax.flags import UsageError
from livetalk_jax.serving import bench


def test_figures_of_the_card(url, tmp_path, capsys):
    out = tmp_path / "serving.json"
    bench.main(
        ["livetalk bench serving", "--url", url, "--repeats", "1", "--minutes", "0.08", "--sessions", "2", "--out", str(out)]
    )
    result = json.loads(out.read_text())
    table = capsys.readouterr().out
    for name, times in result["reactions"].items():
        assert name in table and times["longest"] >= times["median"], name
    names = ("open to first frame", "speech to its first frame", "interrupt to answer", "interrupt to silence", "interrupt to idle")
    assert set(result["reactions"]) == {*names, "sound after picture"}
    assert abs(result["reactions"]["sound after picture"]["median"]) < 0.04
    assert len(result["talking"]) == 2
    for session in result["talking"]:
        assert abs(session["largest skew of a fragment"]) < 0.04
        assert 0 < session["real-time factor"] < 2 and session["seconds"] > 0
    assert result["job"]["frames"] > 200
    assert result["server MiB"]["after"] > 0
    assert "bench serving" in result["command"]


def test_wrong_options_are_one_line(tmp_path):
    for arguments in (["--repeats", "0"], ["--nothing"], ["--out", str(tmp_path / "no" / "where.json")]):
        with pytest.raises(UsageError):
            bench.main(["livetalk bench serving", *arguments])
