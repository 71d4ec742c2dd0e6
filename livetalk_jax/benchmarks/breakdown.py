"""Where a chunk's time goes, and how it is shown: text, JSON and a picture (SVG)."""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from livetalk_jax.benchmarks.report import COLOURS
from livetalk_jax.files import write_whole

# Of a chunk, in the order in which they run.
PARTS = {
    "audio": "#ccbb44",
    "DiT": COLOURS["DiT step"],
    "VAE decode": COLOURS["VAE decode"],
    "colour match": "#ee6677",
    "VAE encode": COLOURS["VAE encode"],
    "rest": COLOURS["rest"],
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Timed runs of a chunk and of its parts, each in a program of its own.

    Attributes:
        about: what was measured, and on what.
        runs: seconds of every run of "chunk", of `PARTS` but "rest", of "DiT step", and of whatever else was timed.
        steps: of denoising; "DiT" is all of them.
        new_frames: of a chunk.
        peak_bytes: of a device; None where it does not tell.
        weights: bytes of each network.
    """

    about: Mapping[str, Any]
    runs: Mapping[str, Sequence[float]]
    steps: int
    new_frames: int
    peak_bytes: int | None
    weights: Mapping[str, int]

    @property
    def seconds(self) -> dict[str, float]:
        """Medians. "rest" is the chunk less its parts: what has no program of its own, less what these lose; noise is in it too."""
        medians = {name: statistics.median(seconds) for name, seconds in self.runs.items()}
        return medians | {"rest": medians["chunk"] - sum(medians[part] for part in PARTS if part != "rest")}

    def text(self) -> str:
        return "\n".join([*(f"{key}: {value}" for key, value in self.about.items()), "", *self._table()]) + "\n"

    def _table(self) -> Iterator[str]:
        seconds = self.seconds

        def line(title: str, name: str, of_chunk: bool = False) -> str:
            spread = [min(self.runs[name]), max(self.runs[name])] if name in self.runs else []
            times = "".join(f"{1e3 * value:12.1f}" for value in [seconds[name], *spread])
            return f"{title:36}{times:36}" + (f"{seconds[name] / seconds['chunk']:12.1%}" if of_chunk else "")

        yield f"{'':36}{'median ms':>12}{'least':>12}{'largest':>12}{'of a chunk':>12}"
        for part in PARTS:
            yield line(self._label(part), part, of_chunk=True)
            if part == "DiT":
                yield line("  one step", "DiT step")
        yield line(f"chunk of {self.new_frames} new frames", "chunk", of_chunk=True)
        rates = [self.new_frames / value for value in (seconds["chunk"], max(self.runs["chunk"]), min(self.runs["chunk"]))]
        yield f"{'frames a second, sustained':36}" + "".join(f"{rate:12.1f}" for rate in rates)
        yield from (line(name, name) for name in self.runs if name not in (*PARTS, "DiT step", "chunk"))
        yield ""
        memory = {"peak of a device": self.peak_bytes, **{f"weights: {name}": size for name, size in self.weights.items()}}
        yield from (f"{name:36}{size / 2**30:12.3g} GiB" for name, size in memory.items() if size is not None)

    def _label(self, part: str) -> str:
        return f"DiT, {self.steps} steps" if part == "DiT" else part

    def json(self) -> str:
        seconds = self.seconds
        record = {
            **self.about,
            "steps": self.steps,
            "new frames": self.new_frames,
            "seconds": seconds,
            "spread": {name: [min(runs), max(runs)] for name, runs in self.runs.items()},
            "frames_per_second": self.new_frames / seconds["chunk"],
            "peak_bytes": self.peak_bytes,
            "weights": self.weights,
        }
        return json.dumps(record, indent=2) + "\n"

    def svg(self) -> str:
        """A bar for each part, which begins where the part before ends, above one for the chunk."""
        left, width, right, bar, gap, top = 130, 620, 150, 22, 8, 46
        seconds = self.seconds
        title = f"Milliseconds of a chunk of {self.new_frames} new frames, {self.about['device']}, {self.about['size']}"
        whole, height = left + width + right, top + (len(PARTS) + 1) * (bar + gap) + 8
        svg = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{height}" font-family="sans-serif" font-size="13">',
            f'<rect width="{whole}" height="{height}" fill="white"/>',
            f'<text x="16" y="26" font-size="16">{escape(title)}</text>',
        ]
        # Parts that are slower alone than in the chunk end beyond it, and the rest leads back.
        scale = width / max(seconds["chunk"], seconds["chunk"] - seconds["rest"])
        begin = 0.0
        for row, (name, colour) in enumerate([*PARTS.items(), ("chunk", "#777777")]):
            if name == "chunk":
                begin = 0.0
            y, end = top + row * (bar + gap), begin + seconds[name]
            x, wide = left + scale * min(begin, end), scale * abs(end - begin)
            what = f"{1e3 * seconds[name]:.1f} ms, {seconds[name] / seconds['chunk']:.1%}"
            svg += [
                f'<text x="{left - 10}" y="{y + bar - 6}" text-anchor="end">{self._label(name)}</text>',
                f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{bar}" fill="{colour}"/>',
                f'<text x="{x + wide + 8:.1f}" y="{y + bar - 6}">{what}</text>',
            ]
            begin = end
        return "\n".join([*svg, "</svg>"]) + "\n"

    def write(self, path: Path) -> None:
        """`path`, which ends in .json, and beside it .txt and .svg, each whole or not at all."""
        for suffix, content in ((".json", self.json()), (".txt", self.text()), (".svg", self.svg())):
            write_whole(path.with_suffix(suffix), content)
