"""Means over samples with bootstrap confidence intervals, and the comparison of two runs: `livetalk evaluate compare A B`."""

import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags as absl_flags

from livetalk_jax.evaluation.arguments import parse_plain
from livetalk_jax.evaluation.comparability import unlike
from livetalk_jax.evaluation.metric import Column
from livetalk_jax.evaluation.registry import METRICS
from livetalk_jax.evaluation.runs import Run, write_json
from livetalk_jax.flags import UsageError

USAGE = """usage: livetalk evaluate compare RUN_A RUN_B [--out comparison.json]

Differences B − A over the samples that both runs have, with 95 % intervals of a paired bootstrap over samples; n is how many
samples have the column in both. Runs of different benches, lengths or versions of metrics are refused; other differences that matter
are said.
"""

RESAMPLES = 10_000


class Mean(NamedTuple):
    """A mean over samples and its 95 % interval, percentiles of the bootstrap; NaN ends where there is one sample only."""

    value: float
    low: float
    high: float
    samples: int


def bootstrap(values: np.ndarray) -> Mean:
    """Of values [N], N at least 1. The same values give the same interval."""
    values = np.asarray(values, np.float64)
    if len(values) == 1:
        return Mean(float(values[0]), math.nan, math.nan, 1)
    chosen = np.random.default_rng(len(values)).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[chosen].mean(1), [2.5, 97.5])
    return Mean(float(values.mean()), float(low), float(high), len(values))


def columns() -> list[Column]:
    return [column for metric in METRICS for column in metric.columns]


def _numbers(run: Run) -> dict[str, dict[str, float]]:
    return {name: result.numbers for name, result in run.results().items()}


class Difference(NamedTuple):
    """Of one column: the means of both runs over the samples that both have, and the mean difference."""

    column: Column
    a: float
    b: float
    difference: Mean

    @property
    def verdict(self) -> str:
        """Whether B is better, by the interval; "" where that cannot be told."""
        _, low, high, _ = self.difference
        if self.column.better in ("neither", "zero") or not (low > 0 or high < 0):
            return ""
        return "better" if (low > 0) == (self.column.better == "higher") else "worse"


def differences(a: Run, b: Run) -> list[Difference]:
    """Raises ValueError: the runs have no sample in common."""
    first, second = _numbers(a), _numbers(b)
    both = sorted(set(first) & set(second))
    if not both:
        raise ValueError(f"{a.folder} and {b.folder} have no sample in common")
    found = []
    for column in columns():
        pairs = [
            (first[name][column.name], second[name][column.name])
            for name in both
            if column.name in first[name] and column.name in second[name]
        ]
        if pairs:
            x, y = np.array(pairs).T
            found.append(Difference(column, float(x.mean()), float(y.mean()), bootstrap(y - x)))
    return found


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("out", None, "JSON to write.", flag_values=values)


def main(argv: list[str]) -> None:
    values, folders = parse_plain(define, argv, USAGE)
    if len(folders) != 2:
        raise UsageError(f"two folders of runs are needed, not {len(folders)}; see {argv[0]} --help")
    a, b = (Run(Path(folder)) for folder in folders)
    apart = unlike(a, b)
    if refusals := [difference.says for difference in apart if difference.refuses]:
        raise ValueError(f"{a.folder} and {b.folder} cannot be compared: {'; '.join(refusals)}")
    found = differences(a, b)
    for difference in apart:
        print(f"beware: {difference.says}", file=sys.stderr)
    shared = len(set(_numbers(a)) & set(_numbers(b)))
    print(f"A: {a.about['name']}   B: {b.about['name']}   {shared} samples\n")
    print(f"{'':18}{'A':>10}{'B':>10}{'B − A':>10}{'n':>6}   95 % interval")
    for row in found:
        value, low, high, samples = row.difference
        interval = f"{low:+.4g} to {high:+.4g}" if samples > 1 else "one sample"
        print(f"{row.column.name:18}{row.a:>10.4g}{row.b:>10.4g}{value:>+10.3g}{samples:>6}   {interval}   {row.verdict}".rstrip())
    for name in sorted(set(a.about["sets"]) & set(b.about["sets"])):
        x, y = a.about["sets"][name], b.about["sets"][name]
        print(f"{name:18}{x:>10.4g}{y:>10.4g}{y - x:>+10.3g}{'all':>6}   of all samples: no interval")
    if values.out:
        rows = {row.column.name: {"a": row.a, "b": row.b, **row.difference._asdict(), "verdict": row.verdict} for row in found}
        said = [difference.says for difference in apart]
        write_json(Path(values.out), {"a": str(a.folder), "b": str(b.folder), "unlike": said, "columns": rows})
