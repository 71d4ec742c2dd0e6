"""How a report looks: its style sheet, and curves as SVG."""

import collections
from collections.abc import Sequence
from html import escape

import numpy as np

from livetalk_jax.evaluation.metric import Curve

# Told apart also by those who see fewer colours (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

STYLE = """
:root { color-scheme: light dark; --line: #8883; --soft: #8881; --dim: #777; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .4rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } h4 { font-size: .9rem; font-weight: 500; margin: 0 0 .3rem; }
p { margin: .3rem 0 .8rem; color: var(--dim); } .warning { color: inherit; border-left: 4px solid #e69f00; padding-left: .8rem; }
.wide { overflow-x: auto; margin: 0 0 1.1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; white-space: nowrap; }
th { font-weight: 500; } tr:first-child th { color: var(--dim); font-size: .85rem; } th:first-child { text-align: left; }
td small { display: block; color: var(--dim); font-size: .72rem; } td.best { font-weight: 700; } td.none { color: var(--dim); }
table.text td, table.text th, td.source { text-align: left; white-space: normal; } td.source { color: var(--dim); font-size: .85rem; }
i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(360px, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .9rem; text-align: center; } svg { width: 100%; height: auto; }
svg text { fill: var(--dim); font: 11px system-ui, sans-serif; } svg .grid { stroke: var(--line); }
.players { display: flex; flex-wrap: wrap; gap: 1rem; } .player { flex: 1 1 300px; max-width: 560px; }
.player video { display: block; width: 100%; max-height: 320px; background: var(--soft); border-radius: 6px; }
.player img { width: 100%; margin-top: .4rem; border-radius: 4px; }
details { font-size: .85rem; margin-top: .3rem; } summary { cursor: pointer; }
"""

WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 24
POINTS = 400  # of a line; more are not seen


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers between two, about so many."""
    step = 10 ** np.floor(np.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= about + 1)
    return [float(k * step) for k in range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1)]


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean at each time that any of the curves has."""
    gathered: dict[float, list[float]] = collections.defaultdict(list)
    for curve in curves:
        for second, value in zip(curve.seconds, curve.values, strict=True):
            gathered[round(float(second), 2)].append(float(value))
    seconds = np.array(sorted(gathered))
    return Curve(seconds, np.array([np.mean(gathered[second]) for second in seconds]))


def _thinned(curve: Curve) -> Curve:
    if len(curve.seconds) <= POINTS:
        return curve
    parts = np.array_split(np.arange(len(curve.seconds)), POINTS)
    return Curve(*(np.array([values[part].mean() for part in parts]) for values in curve))


def plot(lines: Sequence[tuple[str, Curve | None, Sequence[Curve]]]) -> str:
    """SVG of curves over time.

    Args:
        lines: of each run its name, its mean, and its samples; a run without the curve still takes its colour.
    """
    shown = [curve for _, mean, samples in lines for curve in ([mean, *samples] if mean is not None else [])]
    values = np.concatenate([curve.values for curve in shown])
    end = max(float(curve.seconds[-1]) for curve in shown)
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * (high - low) or 0.05 * max(abs(high), 0.1)
    low, high = (0.0 if 0 <= low < 0.4 * high else low - margin), high + margin

    def x(second) -> np.ndarray:
        return LEFT + np.asarray(second) / end * (WIDTH - LEFT - RIGHT)

    def y(value) -> np.ndarray:
        return HEIGHT - BOTTOM - (np.asarray(value) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in ticks(low, high):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for second in ticks(0, end, 5):
        parts.append(f'<text x="{x(second):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{second:g}</text>')
    for (name, mean, samples), color in zip(lines, COLORS * len(lines), strict=False):
        faint = [(curve, 1, 0.25) for curve in samples[:24]] if len(samples) > 1 else []
        for curve, width, opacity in [*faint, *([(mean, 2, 1)] if mean is not None else [])]:
            thin = _thinned(curve)
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x(thin.seconds), y(thin.values), strict=True))
            look = f'fill="none" stroke="{color}" stroke-width="{width}" opacity="{opacity}" stroke-linejoin="round"'
            parts.append(f'<polyline points="{points}" {look}><title>{escape(name)}</title></polyline>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
