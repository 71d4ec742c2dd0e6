"""How far faces are from their portraits over time, of runs of `livetalk evaluate` on the procedural bench, as a picture.

python tools/draw_drift.py docs/images/drift.svg 'before=out/before' 'shipped=out/long'
"""

import sys
from html import escape
from pathlib import Path

from livetalk_jax.evaluation.drawing import COLORS, HEIGHT, LEFT, WIDTH, mean_curve, plot
from livetalk_jax.evaluation.runs import Run
from livetalk_jax.files import write_whole

TITLE = "distance from the portrait, % of that of two persons, over seconds"
LINE = 16  # pixels of the legend
STYLE = "<style>text { fill: #777; font: 11px system-ui, sans-serif } .grid { stroke: #8883 }</style>"


def drawing(lines: list[tuple[str, Run]]) -> str:
    """SVG of the mean over each run's samples, named."""
    curves = [(name, mean_curve([result.curves["drawn: Identity"] for result in run.results().values()])) for name, run in lines]
    legend = [f'<text x="{LEFT}" y="{HEIGHT + LINE}">{TITLE}</text>']
    for number, ((name, _), color) in enumerate(zip(curves, COLORS * len(curves), strict=False), 2):
        y = HEIGHT + number * LINE
        legend.append(
            f'<circle cx="{LEFT + 5}" cy="{y - 4}" r="4" fill="{color}"/><text x="{LEFT + 16}" y="{y}">{escape(name)}</text>'
        )
    height = HEIGHT + (len(curves) + 1) * LINE + 8
    inner = plot([(name, curve, [curve]) for name, curve in curves])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}">{STYLE}'
        f'<svg width="{WIDTH}" height="{HEIGHT}">{inner}</svg>{"".join(legend)}</svg>\n'
    )


if __name__ == "__main__":
    if len(sys.argv) < 3 or not all("=" in run for run in sys.argv[2:]):
        sys.exit("usage: python tools/draw_drift.py FILE.svg NAME=RUN…")
    named = [run.partition("=") for run in sys.argv[2:]]
    try:
        write_whole(Path(sys.argv[1]), drawing([(name, Run(Path(folder))) for name, _, folder in named]))
    except ValueError as error:
        sys.exit(str(error))
