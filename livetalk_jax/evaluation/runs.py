"""A run: one model's videos scored, as a folder.

    run.json              what was run, on what, and what the sets gave
    samples/NAME.json     a sample's numbers, what is absent and why, seconds; with the fingerprint of all that they depend on
    samples/NAME.npz      its curves and features
    videos/NAME.mp4       for the eye; scores never come from it
    sheets/NAME.jpg       frames side by side
    report.html, report.json

Files are written whole or not at all, so a run that was killed goes on where it was.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from livetalk_jax.evaluation.metric import Absent, Curve, Metric
from livetalk_jax.evaluation.scoring import Result, module_of
from livetalk_jax.files import write_whole, writing

FORMAT = 1


def fingerprint(about: Any) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def metrics_about(metrics: Sequence[Metric], weights: Path | None) -> dict[str, dict[str, int]]:
    """What the metrics' numbers depend on: their versions, and the sizes in bytes of the weights that are there."""
    files = [weights / name for metric in metrics for name in metric.weights] if weights else []
    return {
        "metric_versions": {metric.name: metric.version for metric in metrics},
        "weights": {path.name: path.stat().st_size for path in files if path.exists()},
    }


class Run:
    """The folder of a run."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, kind: str, name: str, ending: str) -> Path:
        path = self.folder / kind / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    # One sample

    def is_done(self, name: str, mark: str) -> bool:
        try:
            return json.loads((self.folder / "samples" / f"{name}.json").read_text())["fingerprint"] == mark
        except (OSError, ValueError, KeyError):
            return False

    def save(self, name: str, mark: str, result: Result) -> None:
        arrays = {f"curve/{title}": np.stack(curve) for title, curve in result.curves.items()}
        arrays |= {f"features/{metric}": values for metric, values in result.features.items()}
        arrays |= {f"reference/{metric}": values for metric, values in result.reference_features.items()}
        with writing(self.path("samples", name, ".npz")) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        plain = {field.name: getattr(result, field.name) for field in dataclasses.fields(Result)}
        for large in ("curves", "features", "reference_features"):
            del plain[large]
        write_json(self.path("samples", name, ".json"), {"format": FORMAT, "fingerprint": mark, **plain})

    def load(self, name: str) -> Result:
        """Raises ValueError where the sample's files cannot be read."""
        path = self.folder / "samples" / f"{name}.json"
        try:
            stored = json.loads(path.read_text())
            result = Result(**{field.name: stored[field.name] for field in dataclasses.fields(Result) if field.name in stored})
            with np.load(path.with_suffix(".npz")) as arrays:
                for key in arrays.files:
                    kind, _, title = key.partition("/")
                    if kind == "curve":
                        result.curves[title] = Curve(*arrays[key])
                    else:
                        (result.features if kind == "features" else result.reference_features)[title] = arrays[key]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged; delete it, and the sample is scored again ({error})") from error
        return result

    # All of it

    @property
    def about(self) -> dict[str, Any]:
        """Raises ValueError where the folder is no run."""
        try:
            return json.loads((self.folder / "run.json").read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder} is no run of livetalk evaluate: its run.json cannot be read") from error

    def write_about(self, about: dict[str, Any]) -> None:
        write_json(self.folder / "run.json", {"format": FORMAT, **about})

    def results(self) -> dict[str, Result]:
        """The finished samples of the run, by name."""
        return {name: self.load(name) for name in self.about["samples"] if (self.folder / "samples" / f"{name}.json").is_file()}


def compare_sets(metrics: Sequence[Metric], results: Sequence[Result]) -> tuple[dict[str, float], dict[str, str]]:
    """Numbers of the metrics that compare sets, and why others are absent."""
    numbers: dict[str, float] = {}
    absent: dict[str, str] = {}
    for metric in metrics:
        ours = [result.features[metric.name] for result in results if metric.name in result.features]
        references = [result.reference_features[metric.name] for result in results if metric.name in result.reference_features]
        if not metric.sets or not ours:
            continue
        if not references:
            absent[metric.name] = "there are no real videos to compare with"
            continue
        try:
            numbers |= module_of(metric).compare(ours, references)
        except Absent as reason:
            absent[metric.name] = str(reason)
    return numbers, absent
