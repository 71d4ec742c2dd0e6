"""Whether the samples of two runs can be set beside each other, by what the runs say of themselves."""

import dataclasses
from collections.abc import Callable
from typing import Any

from livetalk_jax.evaluation.runs import Run
from livetalk_jax.evaluation.scoring import Result

SHARE = 0.1  # of a length by which another may differ and still be of the same speech: some models end with a whole chunk


@dataclasses.dataclass(frozen=True)
class Unlike:
    """A way in which two runs differ.

    Attributes:
        what: differs, in a word.
        says: how, in one line.
        refuses: differences of samples then mean nothing; otherwise they mean less.
    """

    what: str
    says: str
    refuses: bool


def _bench(about: dict[str, Any]) -> str:
    """The bench's name; "" of finished videos, which may be of any."""
    bench, found, _ = about["kind"].partition(" bench")
    return bench if found else ""


# What samples of one name should share; "" where an older run does not tell.
_OF_SAMPLES: dict[str, Callable[[Result], str]] = {
    "length": lambda result: f"{_seconds(result):.2f} s",
    "frame rate": lambda result: f"{result.fps:.4g} a second",
    "size": lambda result: f"{result.height}×{result.width}" if result.height else "",
    "codec": lambda result: result.codec or "none",
}


def _seconds(result: Result) -> float:
    return result.frames / result.fps


def _far(a: Result, b: Result) -> bool:
    return abs(_seconds(a) - _seconds(b)) > SHARE * max(_seconds(a), _seconds(b))


def unlike(a: Run, b: Run) -> list[Unlike]:
    """How two runs differ in what their samples are or how they were scored; nothing about what made them.

    Raises:
        ValueError: a folder is no run.
    """
    abouts, results = (a.about, b.about), (a.results(), b.results())
    names = [about["name"] for about in abouts]
    if names[0] == names[1]:
        names = [str(a.folder), str(b.folder)]
    found = []

    def add(what: str, first: str, second: str, refuses: bool, where: str = "") -> None:
        found.append(Unlike(what, f"{what} differs: {names[0]} has {first}, {names[1]} has {second}{where}", refuses))

    bench, other = map(_bench, abouts)
    if bench != other:
        add("bench", bench or "finished videos", other or "finished videos", bool(bench and other))
    for name, about in zip(names, abouts, strict=True):
        if "metric_versions" not in about:
            says = f"{name} does not tell the versions of its metrics: score it again to be sure"
            found.append(Unlike("versions", says, False))
    for kind, what in (("metric_versions", "version of {}"), ("weights", "size of {}, in bytes")):
        told = [about.get(kind, {}) for about in abouts]
        for key in sorted(set(told[0]) & set(told[1])):
            if told[0][key] != told[1][key]:
                add(what.format(key), str(told[0][key]), str(told[1][key]), True)

    both = sorted(set(results[0]) & set(results[1]))
    for what, of in _OF_SAMPLES.items():
        pairs = [(name, of(results[0][name]), of(results[1][name])) for name in both]
        if apart := [pair for pair in pairs if all(pair) and pair[1] != pair[2]]:
            refuses = what == "length" and any(_far(results[0][name], results[1][name]) for name in both)
            name, first, second = apart[0]
            add(what, first, second, refuses, f" ({name}; {len(apart)} of {len(both)} samples)")
    if set(results[0]) != set(results[1]):
        add("number of samples", str(len(results[0])), str(len(results[1])), False, f", {len(both)} in common")
    return found
