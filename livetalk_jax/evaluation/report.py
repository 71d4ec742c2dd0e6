"""The report of one run or of several beside each other: one HTML page that needs nothing else, and the same as JSON."""

import base64
import collections
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags as absl_flags

from livetalk_jax.evaluation.arguments import parse_plain
from livetalk_jax.evaluation.comparability import unlike
from livetalk_jax.evaluation.drawing import COLORS, STYLE, mean_curve, plot
from livetalk_jax.evaluation.metric import Column
from livetalk_jax.evaluation.provenance import UNKNOWN
from livetalk_jax.evaluation.registry import METRICS
from livetalk_jax.evaluation.runs import Run, write_json
from livetalk_jax.evaluation.scoring import Result
from livetalk_jax.evaluation.statistics import Mean, bootstrap, columns
from livetalk_jax.files import write_whole
from livetalk_jax.flags import UsageError

USAGE = """usage: livetalk evaluate report RUN… --out DIR

Writes DIR/report.html and DIR/report.json: the runs beside each other, the first as the one that others are compared with.
"""

ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0", "neither": ""}
WIDEST = 9  # columns of a table
SHOWN = 8  # samples with players
EMBEDDED = 8 * 2**20  # bytes of videos inside the page; what is more lies beside it
AWAY = "its video is not here"
# What lies beside the page may not have come with it.
NOT_HERE = f"this.replaceWith('{AWAY}')"
TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/mp4", ".m4v": "video/mp4"}


@dataclasses.dataclass(frozen=True)
class Row:
    """A run as the tables show it.

    Attributes:
        means: by column; of sets a number without an interval.
        absent: metric → why, with how many samples lack it.
        partial: column → why some samples lack it, or all, though they have its metric.
        cost: metric → seconds a minute of video.
        codecs: through which frames of samples came; empty where they were never compressed.
    """

    name: str
    run: Run
    about: dict[str, Any]
    results: dict[str, Result]
    means: dict[str, Mean]
    absent: dict[str, str]
    partial: dict[str, str]
    cost: dict[str, float]
    codecs: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(result.frames / result.fps for result in self.results.values())

    def share(self, column: str) -> str:
        """ "n of N", where a column's mean is of fewer samples than the run has; "" otherwise."""
        samples = self.means[column].samples
        return f"{samples} of {len(self.results)}" if samples < len(self.results) else ""


def _set_means(sets: dict[str, float], results: dict[str, Result]) -> dict[str, Mean]:
    """Numbers of sets by column, with how many samples had features for them."""
    means: dict[str, Mean] = {}
    for metric in METRICS:
        count = sum(metric.name in result.features for result in results.values())
        means |= {c.name: Mean(sets[c.name], math.nan, math.nan, count) for c in metric.columns if c.name in sets}
    return means


def _partial(metrics: Sequence[str], results: dict[str, Result]) -> dict[str, str]:
    """Columns that samples lack though their metric was had, and why."""
    partial = {}
    for metric in METRICS:
        if metric.name not in metrics or metric.sets:
            continue
        having = [result.numbers for result in results.values() if metric.name not in result.absent]
        for column in metric.columns:
            if lacking := sum(column.name not in numbers for numbers in having):
                reason = f"needs {column.needs}" if column.needs else "left out by its metric"
                partial[column.name] = f"{reason} ({lacking} of {len(results)})"
    return partial


def row_of(run: Run) -> Row:
    """Raises ValueError: the folder is no run, or none of its samples is done."""
    about, results = run.about, run.results()
    if not results:
        raise ValueError(f"{run.folder} has no finished sample")
    means = {}
    for column in columns():
        values = [result.numbers[column.name] for result in results.values() if column.name in result.numbers]
        if values:
            means[column.name] = bootstrap(np.array(values))
    means |= _set_means(about["sets"], results)
    absent: dict[str, str] = dict(about["sets_absent"])
    reasons: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for result in results.values():
        for metric, reason in result.absent.items():
            reasons[metric][reason] += 1
    for metric, counted in reasons.items():
        parts = [reason if count == len(results) else f"{reason} ({count} of {len(results)})" for reason, count in counted.items()]
        absent[metric] = "; ".join(parts)
    cost: dict[str, float] = collections.defaultdict(float)
    minutes = sum(result.frames / result.fps for result in results.values()) / 60
    for result in results.values():
        for metric, seconds in result.seconds.items():
            cost[metric] += seconds / minutes
    codecs = tuple(sorted({result.codec for result in results.values() if result.codec}))
    return Row(about["name"], run, about, results, means, absent, _partial(about["metrics"], results), dict(cost), codecs)


def _digits(value: float) -> str:
    """A number as a table shows it: about four significant digits, never an exponent."""
    size = abs(value)
    if value == int(value) and size < 1000:
        return str(int(value))
    return f"{value:.0f}" if size >= 1000 else f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}"


def _says(column: Column) -> str:
    return f"{column.says}; needs {column.needs}" if column.needs else column.says


def _shown_columns(rows: Sequence[Row]) -> list[tuple[str, list[Column]]]:
    """Columns that any run has, by metric."""
    found = [(m.name, [c for c in m.columns if any(c.name in row.means for row in rows)]) for m in METRICS]
    return [(name, kept) for name, kept in found if kept]


def _best(rows: Sequence[Row], column: Column) -> float | None:
    """The best value of a column, where there are several rows and one can be best."""
    values = [row.means[column.name].value for row in rows if column.name in row.means]
    if len(set(values)) < 2 or column.better == "neither":
        return None
    if column.better == "zero":
        return min(values, key=abs)
    return max(values) if column.better == "higher" else min(values)


def _cell(row: Row, column: Column, best: float | None) -> str:
    mean = row.means.get(column.name)
    if mean is None:
        return '<td class="none">absent</td>'
    spread = "" if math.isnan(mean.low) else f"<small>{_digits(mean.low)} – {_digits(mean.high)}</small>"
    share = f"<small>{share}</small>" if (share := row.share(column.name)) else ""
    kind = ' class="best"' if mean.value == best else ""
    return f"<td{kind}>{_digits(mean.value)}{spread}{share}</td>"


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    """Several tables, so that none is wider than a page."""
    groups: list[list[Column]] = [[]]
    for _, kept in _shown_columns(rows):
        for part in np.array_split(np.arange(len(kept)), -(-len(kept) // WIDEST)):
            if groups[-1] and len(groups[-1]) + len(part) > WIDEST:
                groups.append([])
            groups[-1] += [kept[k] for k in part]
    for number, group in enumerate(groups):
        heads = "".join(
            f'<th title="{escape(_says(column))}">{escape(column.name)} {ARROWS[column.better]}</th>' for column in group
        )
        lines = []
        for row, color in zip(rows, COLORS * len(rows), strict=False):
            cells = "".join(_cell(row, column, _best(rows, column)) for column in group)
            fps = row.about.get("fps")
            speed = f"<td>{_digits(fps)}</td>" if fps else '<td class="none">–</td>'
            lines.append(
                f'<tr><th><i style="background:{color}"></i>{escape(row.name)}</th>{cells}{speed if number == 0 else ""}</tr>'
            )
        speed = '<th title="frames a second of the model alone, on the machine below">FPS ↑</th>' if number == 0 else ""
        yield f"<div class=wide><table><tr><th>Model</th>{heads}{speed}</tr>{''.join(lines)}</table></div>"


def _plots(rows: Sequence[Row]) -> Iterator[str]:
    titles = dict.fromkeys(title for row in rows for result in row.results.values() for title in result.curves)
    for title in titles:
        lines = []
        for row in rows:
            found = [result.curves[title] for result in row.results.values() if title in result.curves]
            found = [curve for curve in found if len(curve.seconds) > 1]
            lines.append((row.name, mean_curve(found) if found else None, found))
        if any(mean is not None for _, mean, _ in lines):
            yield f"<figure>{plot(lines)}<figcaption>{escape(title.partition(': ')[2])}</figcaption></figure>"


def _embedded(kind: str, path: Path) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _players(rows: Sequence[Row], folder: Path) -> Iterator[str]:
    names = [name for name in dict.fromkeys(name for row in rows for name in row.results)][:SHOWN]
    left = EMBEDDED
    for name in names:
        cells = []
        for row, color in zip(rows, COLORS * len(rows), strict=False):
            if name not in row.results:
                continue
            video = next((row.run.folder / "videos").glob(f"{name}.*"), None)
            sheet = row.run.folder / "sheets" / f"{name}.jpg"
            parts = [f'<h4><i style="background:{color}"></i>{escape(row.name)}</h4>']
            if video is None:
                parts.append(f"<p>{AWAY}</p>")
            elif video.suffix.lower() not in TYPES:
                parts.append(f"<p>browsers do not play {escape(video.name)}</p>")
            else:
                if (size := video.stat().st_size) <= left:
                    left, source = left - size, _embedded(TYPES[video.suffix.lower()], video)
                else:
                    source = escape(os.path.relpath(video, folder))
                parts.append(f'<video controls preload="metadata" src="{source}" onerror="{NOT_HERE}"></video>')
            if sheet.is_file():
                parts.append(f'<img alt="frames of {escape(name)}" src="{_embedded("image/jpeg", sheet)}">')
            numbers = row.results[name].numbers
            chosen = [c for _, kept in _shown_columns([row]) for c in kept if c.name in numbers]
            facts = "".join(f"<tr><td>{escape(c.name)}</td><td>{_digits(numbers[c.name])}</td></tr>" for c in chosen)
            parts.append(f"<details><summary>its numbers</summary><table>{facts}</table></details>")
            cells.append(f"<div class=player>{''.join(parts)}</div>")
        yield f"<h3>{escape(name)}</h3><div class=players>{''.join(cells)}</div>"


def _missing(rows: Sequence[Row]) -> str:
    lines = []
    for metric in METRICS:
        runs: dict[tuple[str, str], list[str]] = collections.defaultdict(list)  # by columns and reason
        for row in rows:
            if metric.name in row.absent:
                runs[", ".join(column.name for column in metric.columns), row.absent[metric.name]].append(row.name)
            for column in metric.columns:
                if column.name in row.partial:
                    runs[column.name, row.partial[column.name]].append(row.name)
        for (columns_, reason), names in runs.items():
            cells = (columns_, "all" if len(names) == len(rows) else ", ".join(names), reason)
            lines.append(f"<tr><th>{escape(metric.name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    if not lines:
        return "<p>Nothing is missing.</p>"
    head = "<tr><th>Metric</th><th>Columns</th><th>Runs</th><th>Why</th></tr>"
    return f"<div class=wide><table class=text>{head}{''.join(lines)}</table></div>"


def _costs(rows: Sequence[Row]) -> str:
    heads = "".join(f"<th>{escape(row.name)}</th>" for row in rows)
    lines = []
    for metric in METRICS:
        cells = [f"<td>{_digits(row.cost[metric.name])}</td>" if metric.name in row.cost else "<td>–</td>" for row in rows]
        if any(metric.name in row.cost and metric.name not in row.absent for row in rows):
            lines.append(f"<tr><th>{escape(metric.name)}</th>{''.join(cells)}</tr>")
    return f"<div class=wide><table><tr><th>Metric</th>{heads}</tr>{''.join(lines)}</table></div>"


def _legend() -> str:
    lines = [
        f"<tr><th>{escape(column.name)} {ARROWS[column.better]}</th><td>{escape(_says(column))}</td>"
        f"<td>{escape(metric.source)}</td></tr>"
        for metric in METRICS
        for column in metric.columns
    ]
    return f"<table class=text><tr><th>Column</th><th>What it is</th><th>Source</th></tr>{''.join(lines)}</table>"


def _maker(about: dict[str, Any]) -> str:
    """What is known of what made a run's videos."""
    made_by = about.get("made_by")
    if made_by is None:
        return UNKNOWN
    if "checkpoint" not in made_by:
        return made_by.get("model") or f"not known: files of {made_by['videos']}"
    if (held := made_by["checkpoint"]) is None:
        return f"untrained networks, seed {made_by['seed']}"
    return f"{held['folder']} ({held['origin']}), SHA-256 of {held['digest_of']} {held['digest']}, seed {made_by['seed']}"


def _versions(versions: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _runs(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        about = row.about
        codec = f"frames decoded from {', '.join(row.codecs)}" if row.codecs else "uncompressed frames"
        cells = (
            f"{about['kind']}, {len(row.results)} of {len(about['samples'])} samples, {row.seconds / 60:.1f} minutes",
            _maker(about),
            f"{codec}, {', '.join(about.get('sizes', ())) or 'of unknown size'}",
            f"{about['device']}; {about['machine']}",
            f"{_versions(about['versions'])}; commit {about['commit'] or UNKNOWN}",
            _versions(about.get("metric_versions", {})) or UNKNOWN,
        )
        lines.append(f"<tr><th>{escape(row.name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    heads = ("Run", "What", "Made by", "Scored on", "Hardware", "Versions", "Versions of metrics")
    head = f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
    return f"<div class=wide><table class=text>{head}{''.join(lines)}</table></div>"


def page(rows: Sequence[Row], folder: Path) -> str:
    """The report as HTML; `folder` is where it will lie."""
    codecs = sorted({codec for row in rows for codec in row.codecs})
    plain = [row.name for row in rows if not row.codecs]
    warning = ""
    if codecs:
        other = f" Those of {', '.join(plain)} never were: codecs alone move such scores." if plain else ""
        warning = f"<p class=warning>Frames of some videos went through {', '.join(codecs)}.{other}</p>"
    apart = (difference for row in rows[1:] for difference in unlike(rows[0].run, row.run))
    says = dict.fromkeys(escape(difference.says) for difference in apart if difference.what != "codec")  # each once
    warning += "".join(f"<p class=warning>Beware: {line}.</p>" for line in says)
    plots = "".join(_plots(rows))
    parts = [
        f"<h1>{escape(' · '.join(row.name for row in rows))}</h1>",
        "<p>Means over samples; small, their 95 % intervals (bootstrap over samples). ↑ more is better, ↓ less is better; what a "
        "column is stands at the end, and under its name.</p>",
        warning,
        *_tables(rows),
        "<h2>Missing</h2>",
        _missing(rows),
        f"<h2>Over time</h2><p>Thick: mean over samples. Thin: each sample. Seconds to the right.</p><div class=plots>{plots}</div>"
        if plots
        else "",
        "<h2>Videos</h2><p>For the eye, in H.264; what models made was scored before it was compressed.</p>",
        *_players(rows, folder),
        "<h2>What it cost</h2><p>Seconds of computing for a minute of video.</p>",
        _costs(rows),
        "<h2>Runs</h2>",
        _runs(rows),
        f"<h2>Columns</h2><details><summary>What they are, and where they come from</summary>{_legend()}</details>",
    ]
    title = escape(", ".join(row.name for row in rows))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
    return f"<!doctype html>\n<html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    def of(row: Row) -> dict[str, Any]:
        return {
            "about": row.about,
            "means": {name: {k: _number(v) for k, v in mean._asdict().items()} for name, mean in row.means.items()},
            "absent": row.absent,
            "partial": row.partial,
            "seconds_a_video_minute": row.cost,
            "codecs": row.codecs,
            "samples": {name: result.numbers for name, result in row.results.items()},
        }

    return {"columns": {c.name: {"better": c.better, "says": c.says} for c in columns()}, "runs": {r.name: of(r) for r in rows}}


def write(runs: Sequence[Run], folder: Path) -> None:
    """Write report.html and report.json into a folder.

    Raises:
        ValueError: a folder is no run or has no results, or two runs have one name.
    """
    rows = [row_of(run) for run in runs]
    if len({row.name for row in rows}) < len(rows):
        raise ValueError(f"runs must have different names, not {', '.join(row.name for row in rows)}; give them by --name")
    text = page(rows, folder.resolve())
    write_whole(folder / "report.html", text)
    write_json(folder / "report.json", as_json(rows))


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("out", None, "Folder to write.", flag_values=values)


def main(argv: list[str]) -> None:
    values, folders = parse_plain(define, argv, USAGE)
    if not folders or not values.out:
        raise UsageError(f"folders of runs and --out are needed; see {argv[0]} --help")
    write([Run(Path(folder)) for folder in folders], Path(values.out))
    print(Path(values.out) / "report.html")
