"""Rows of the comparison of plans, measured or predicted, and how they are shown: text, JSON and a picture (SVG)."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from livetalk_jax.files import write_whole

STAGES = ("DiT step", "VAE decode", "VAE encode", "chunk")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One plan. What was not measured is None or empty.

    Attributes:
        plan: its name; `explained` is one line for people.
        devices: how many.
        predicted: by the cost model; nothing of it was measured.
        seconds: of `STAGES`, each one call; a chunk goes from noise to frames and the next motion latents.
        compile_seconds: of all programs that were timed.
        traffic: {stage: {kind of collective: (how many, bytes that leave the busiest device)}} of one call.
        collective_seconds: of a chunk's collectives when nothing else runs.
        peak_bytes: of a device, for the chunk's program with its arguments (transformer, VAE, conditions).
        latents_error: norm(difference) / norm of the denoised latents against one device.
        frames_psnr: dB of the first chunk's frames against one device; infinite where they are equal.
        failed: why there are no numbers.
    """

    plan: str
    explained: str
    devices: int
    predicted: bool = False
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    compile_seconds: float | None = None
    traffic: Mapping[str, Mapping[str, tuple[float, float]]] = dataclasses.field(default_factory=dict)
    collective_seconds: float | None = None
    peak_bytes: float | None = None
    latents_error: float | None = None
    frames_psnr: float | None = None
    failed: str | None = None

    def sent(self, stage: str) -> float | None:
        """Bytes that leave the busiest device in one call of a stage."""
        kinds = self.traffic.get(stage)
        return None if kinds is None else sum(sent for _, sent in kinds.values())

    def summary(self) -> str:
        """One line."""
        times = ", ".join(f"{stage} {1e3 * seconds:.1f} ms" for stage, seconds in self.seconds.items())
        return f"{self.plan}: {f'failed: {self.failed}' if self.failed else times}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Rows, the first of which is one device, with what stands above and below them."""

    about: Mapping[str, Any]
    rows: Sequence[Row]
    new_frames: int
    notes: Sequence[str] = ()

    def text(self) -> str:
        head = [f"{key}: {value}" for key, value in self.about.items()]
        return "\n".join([*head, "", _table(self.rows, self.new_frames), *(["", *self.notes] if self.notes else [])]) + "\n"

    def json(self) -> str:
        rows = [{name: value for name, value in dataclasses.asdict(row).items() if value not in (None, {})} for row in self.rows]
        for row in rows:
            if row.get("frames_psnr") == float("inf"):
                row["frames_psnr"] = "infinite"
        return json.dumps({**self.about, "new_frames": self.new_frames, "rows": rows, "notes": list(self.notes)}, indent=2) + "\n"

    def svg(self) -> str:
        return _picture([row for row in self.rows if row.seconds], self.about)

    def write(self, folder: Path, name: str) -> None:
        """`folder/name`.txt, .json and .svg, each whole or not at all."""
        for suffix, content in ((".txt", self.text()), (".json", self.json()), (".svg", self.svg())):
            write_whole(folder / f"{name}{suffix}", content)


def _table(rows: Sequence[Row], new_frames: int) -> str:
    first = rows[0].seconds if rows else {}

    def number(value: float | None, form: str, scale: float = 1.0) -> str:
        return "-" if value is None else format(value * scale, form)

    def stage(row: Row, name: str) -> str:
        seconds = row.seconds.get(name)
        times = f" ({first[name] / seconds:.2f}x)" if seconds and name in first and row is not rows[0] else ""
        return number(seconds, ".1f", 1e3) + times

    def error(row: Row) -> list[str]:
        return [number(row.latents_error, ".1e"), number(row.frames_psnr, ".1f")]

    titles = [
        "plan", "GPUs", "", "DiT step ms", "decode ms", "encode ms", "chunk ms", "frames/s", "step sends MB", "chunk sends MB",
        "collectives", "alone ms", "peak GiB", "latents", "PSNR dB", "compile s",
    ]  # fmt: skip
    lines = [titles]
    for row in rows:
        kind = "predicted" if row.predicted else "failed" if row.failed else "measured" if row.seconds else "compiled"
        chunk = row.seconds.get("chunk")
        count = sum(count for count, _ in row.traffic["chunk"].values()) if "chunk" in row.traffic else None
        cells = [row.plan, str(row.devices), kind, *(stage(row, name) for name in STAGES)]
        cells += [number(new_frames / chunk if chunk else None, ".1f")]
        cells += [number(row.sent("DiT step"), ".0f", 1e-6), number(row.sent("chunk"), ".0f", 1e-6), number(count, ".0f")]
        cells += [number(row.collective_seconds, ".1f", 1e3), number(row.peak_bytes, ".1f", 2**-30), *error(row)]
        lines.append([*cells, number(row.compile_seconds, ".0f")])
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]

    def shown(line: list[str]) -> str:
        padded = (cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        return "  ".join(padded).rstrip()

    return "\n".join([*map(shown, lines), *(f"{row.plan} failed: {row.failed}" for row in rows if row.failed)])


COLOURS = {"DiT step": "#4477aa", "VAE decode": "#66ccee", "VAE encode": "#228833", "rest": "#bbbbbb"}


def _picture(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """A bar for every plan: where a chunk's time goes. The rest of predicted bars is drawn pale, with a dashed edge."""
    left, bar, gap, top, width = 230.0, 22, 12, 74, 620
    height = top + len(rows) * (bar + gap) + 60
    longest = max((row.seconds["chunk"] for row in rows if "chunk" in row.seconds), default=1.0)
    steps = about.get("steps", 1)
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 130}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{left + width + 130}" height="{height}" fill="white"/>',
        f'<text x="16" y="26" font-size="16">Milliseconds of a chunk, {escape(str(about.get("device", "")))}, '
        f"{escape(str(about.get('size', '')))}</text>",
    ]
    x = 16.0
    for name, colour in COLOURS.items():
        label = f"{steps} × DiT step" if name == "DiT step" else name
        svg += [
            f'<rect x="{x:.0f}" y="42" width="14" height="14" fill="{colour}"/>',
            f'<text x="{x + 20:.0f}" y="54">{label}</text>',
        ]
        x += 40 + 8 * len(label)
    for i, row in enumerate(rows):
        y = top + i * (bar + gap)
        parts = {"DiT step": steps * row.seconds.get("DiT step", 0.0)}
        parts |= {name: row.seconds.get(name, 0.0) for name in ("VAE decode", "VAE encode")}
        total = row.seconds.get("chunk", sum(parts.values()))
        parts["rest"] = max(total - sum(parts.values()), 0.0)
        label = f"{row.plan}{' (predicted)' if row.predicted else ''}"
        svg.append(f'<text x="{left - 10}" y="{y + bar - 6}" text-anchor="end">{escape(label)}</text>')
        x = left
        style = ' fill-opacity="0.55" stroke="#555" stroke-dasharray="4 2"' if row.predicted else ""
        for name, seconds in parts.items():
            wide = seconds / longest * width
            svg.append(f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{bar}" fill="{COLOURS[name]}"{style}/>')
            x += wide
        svg.append(f'<text x="{x + 8:.1f}" y="{y + bar - 6}">{1e3 * total:.0f} ms</text>')
    return "\n".join([*svg, "</svg>"]) + "\n"
