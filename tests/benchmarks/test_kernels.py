"""What `livetalk bench kernels` writes beside its numbers, and what it says of libraries that are not there."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from livetalk_jax.benchmarks import kernels
from livetalk_jax.config import RunConfig
from livetalk_jax.configs import tiny


@pytest.fixture
def rows():
    return {}


@pytest.fixture
def report(rows):
    return lambda what, **numbers: rows.update({what: numbers})


@pytest.fixture
def clock():
    """Every call takes a millisecond."""
    return types.SimpleNamespace(milliseconds=lambda *args, **options: 1.0, left=lambda: 100.0)


def test_a_file_says_how_and_where_it_was_measured(monkeypatch, tmp_path):
    monkeypatch.setitem(kernels._RUN, "accuracy", lambda config, clock, report: report("a row", ms=1.5))
    monkeypatch.setattr(kernels, "driver", lambda device: "580.159.04")
    kernels._section("accuracy", None, 10.0, 1, tmp_path, {"command": "livetalk bench kernels", "date": "2026-11-27"})
    assert json.loads((tmp_path / "kernels_accuracy.json").read_text()) == {
        "command": "livetalk bench kernels",
        "date": "2026-11-27",
        "device": jax.devices()[0].device_kind,
        "driver": "580.159.04",
        "jax": jax.__version__,
        "section": "accuracy",
        "rows": [{"what": "a row", "ms": 1.5}],
    }


def test_the_command_is_told_to_the_sections(monkeypatch, tmp_path):
    started = []

    class Process:
        exitcode = 0

        def __init__(self, target, args):
            started.append(args)

        def start(self):
            pass

        def join(self, limit):
            pass

    monkeypatch.setattr(kernels.multiprocessing, "get_context", lambda how: types.SimpleNamespace(Process=Process))
    kernels.main(["livetalk bench kernels", "--sections", "check,linear", "--out", str(tmp_path / "new folder")])
    assert [args[0] for args in started] == ["check", "linear"]
    for args in started:
        assert args[-1]["command"] == f"livetalk bench kernels --sections check,linear --out '{tmp_path}/new folder'"
        assert len(args[-1]["date"]) == len("2026-11-27")


@pytest.mark.parametrize("library", ["tokamax", "torch"])
def test_a_peer_that_is_not_installed_is_a_row(monkeypatch, rows, report, library):
    monkeypatch.setitem(sys.modules, library, None)
    x = jnp.zeros((1, 8, 1, 128), jnp.bfloat16)
    with kernels._told(report, "peer"):
        kernels._tokamax(x, x, x) if library == "tokamax" else kernels._torch_attention(x, x, x, 1.0, report)
    assert library in rows["peer"]["absent"]


def test_tokamax_does_not_read_our_command_line(monkeypatch):
    flags, peer = kernels.absl_flags.FlagValues(), types.ModuleType("tokamax")
    peer.dot_product_attention = lambda *args, implementation: flags.is_parsed()
    monkeypatch.setattr(kernels.absl_flags, "FLAGS", flags)
    monkeypatch.setitem(sys.modules, "tokamax", peer)
    assert kernels._tokamax(None, None, None)


def test_why_triton_is_not_timed_is_a_row(monkeypatch, rows, report, clock):
    monkeypatch.setattr(kernels, "without_triton", lambda: "jax-triton 0.4.1 wants triton>=3.7, not triton 3.6.0")
    kernels.norms(RunConfig.from_config_dict(tiny.get_config()), clock, report)
    assert rows["norm and rotary: XLA"]["ms"] == 1.0
    assert rows["norm and rotary: Triton"] == {"absent": "jax-triton 0.4.1 wants triton>=3.7, not triton 3.6.0"}
