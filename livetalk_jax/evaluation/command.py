"""`livetalk evaluate`: videos in, or a model to make them; numbers and a report out."""

import contextlib
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags as absl_flags
from PIL import Image
from tqdm import tqdm

from livetalk_jax import flags, media
from livetalk_jax.config import RunConfig
from livetalk_jax.data.procedural.speech import Synthesiser
from livetalk_jax.evaluation import report, statistics
from livetalk_jax.evaluation.benches import Bench, Listed, Procedural
from livetalk_jax.evaluation.generation import Generated, RealVideos, Work
from livetalk_jax.evaluation.lists import main as make_lists
from livetalk_jax.evaluation.lists import read_list
from livetalk_jax.evaluation.metric import SAMPLE_RATE, Clip, Metric
from livetalk_jax.evaluation.provenance import surroundings
from livetalk_jax.evaluation.registry import METRICS
from livetalk_jax.evaluation.runs import Run, compare_sets, fingerprint, metrics_about
from livetalk_jax.evaluation.scoring import score
from livetalk_jax.evaluation.videos import VideoFolder
from livetalk_jax.files import writing
from livetalk_jax.flags import UsageError

USAGE = """usage: livetalk evaluate --videos DIR --references DIR --out DIR [--weights DIR] …
       livetalk evaluate --bench procedural|procedural-long|short|long --out DIR [--config tiny] [--checkpoint DIR] …
       livetalk evaluate lists --talkvid ROOT --speakervid ROOT --out DIR
       livetalk evaluate compare RUN_A RUN_B
       livetalk evaluate report RUN… --out DIR

Scores talking persons; docs/evaluation.md says by what. The same command again goes on where it was stopped.
"""

WORDS = {"lists": make_lists, "compare": statistics.main, "report": report.main}
BENCHES = ("procedural", "procedural-long", "short", "long")
# Samples and seconds of the procedural benches.
PROCEDURAL = {"procedural": (32, 10.0), "procedural-long": (4, 1000.0)}
SHEET = 10  # frames of a contact sheet


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("videos", None, "Folder of finished videos.", flag_values=values)
    absl_flags.DEFINE_string("references", None, "Folder of what they were made from, by the same names.", flag_values=values)
    absl_flags.DEFINE_integer("joins", None, "Of finished videos: frames after which a chunk begins.", 2, flag_values=values)
    absl_flags.DEFINE_enum("bench", None, BENCHES, "Generate these and score them.", flag_values=values)
    absl_flags.DEFINE_bool("real", False, "Score the bench's real videos in place of a model's.", flag_values=values)
    absl_flags.DEFINE_string("checkpoint", None, "Folder made by `livetalk convert import`, or by training.", flag_values=values)
    absl_flags.DEFINE_integer("seed", 0, "Of the noise.", flag_values=values)
    absl_flags.DEFINE_string("lists", None, "Folder of short.jsonl and long.jsonl.", flag_values=values)
    absl_flags.DEFINE_string("talkvid", None, "Folder of TalkVid, for --bench short|long.", flag_values=values)
    absl_flags.DEFINE_string("speakervid", None, "Folder of SpeakerVid-5M, for --bench short|long.", flag_values=values)
    absl_flags.DEFINE_integer("samples", None, "Only so many samples, the first.", 1, flag_values=values)
    absl_flags.DEFINE_float("seconds", None, "Of each sample of a procedural bench.", 1.0, flag_values=values)
    absl_flags.DEFINE_list("metrics", [], "Only these; all if left out.", flag_values=values)
    absl_flags.DEFINE_string("weights", None, "Folder of published weights, by the names in the docs.", flag_values=values)
    absl_flags.DEFINE_string("name", None, "What the report calls this run; the folder's name if left out.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Folder of the run, new or begun by the same command.", flag_values=values)
    absl_flags.DEFINE_string("espeak_library", "", "Path of libespeak-ng, for the procedural benches.", flag_values=values)
    absl_flags.DEFINE_string("espeak_data", "", "Path of espeak-ng-data.", flag_values=values)


def choose_metrics(names: Sequence[str]) -> list[Metric]:
    known = {metric.name: metric for metric in METRICS}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no metric {name!r}; there are {', '.join(known)}")
    return [metric for metric in METRICS if not names or metric.name in names]


def _bench(values: absl_flags.FlagValues, config: RunConfig) -> Bench:
    if values.bench in PROCEDURAL:
        count, seconds = PROCEDURAL[values.bench]
        synthesiser = Synthesiser(values.espeak_library, values.espeak_data)
        return Procedural(values.samples or count, values.seconds or seconds, config.stream.buckets[0], synthesiser)
    if not values.lists:
        raise UsageError(f"--bench {values.bench} needs --lists; make them with: livetalk evaluate lists --out DIR")
    entries = read_list(Path(values.lists) / f"{values.bench}.jsonl")[: values.samples]
    roots = {source: Path(root) for source in ("talkvid", "speakervid") if (root := values[source].value)}
    return Listed(entries, roots, config.stream.buckets)


def _work(values: absl_flags.FlagValues, config: RunConfig) -> Work:
    if bool(values.videos) == bool(values.bench):
        raise UsageError("give either --videos and --references, or --bench")
    if values.videos:
        if not values.references:
            raise UsageError("--references is missing: the folder of portraits or real videos, by the videos' names")
        return VideoFolder(Path(values.videos), Path(values.references), values.joins)
    bench = _bench(values, config)
    return RealVideos(bench) if values.real else Generated(bench, config, values.checkpoint, values.seed)


class Keeper:
    """Keeps a video for the eye, and its contact sheet, as frames go by.

    Args:
        known: of the video.
        path: of the MP4; None keeps only the sheet.
    """

    def __init__(self, known: Clip, path: Path | None, sheet: Path):
        self.clip, self._sheet = known, sheet
        self._length = max(int(len(known.waveform) * known.fps / SAMPLE_RATE), 1)
        self._wanted = np.unique(np.linspace(0, self._length - 1, SHEET).round().astype(int))
        self._frames: list[np.ndarray] = []
        self.count = 0
        self._writer: Any = contextlib.nullcontext()
        if path is not None:
            self._writer = media.VideoWriter(
                path, known.height, known.width, fps=round(known.fps), sample_rate=SAMPLE_RATE, preset="veryfast"
            )

    def __enter__(self) -> "Keeper":
        self._open = self._writer.__enter__()
        return self

    def __call__(self, frames: np.ndarray) -> None:
        here = self._wanted[(self._wanted >= self.count) & (self._wanted < self.count + len(frames))] - self.count
        self._frames += [frames[place].copy() for place in here]
        if self._open is not None:
            self._open.write_frames(frames)
            begin, end = (int(count * SAMPLE_RATE / self.clip.fps) for count in (self.count, self.count + len(frames)))
            self._open.write_audio(self.clip.waveform[begin:end])
        self.count += len(frames)

    def __exit__(self, kind, error, traceback) -> None:
        self._writer.__exit__(kind, error, traceback)
        if kind is None and self._frames:
            height, width = self._frames[0].shape[:2]
            size = (round(128 * width / height), 128)
            strip = np.concatenate([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in self._frames], 1)
            with writing(self._sheet) as partial:
                Image.fromarray(strip).save(partial, "JPEG", quality=85)


def evaluate(
    work: Work, run: Run, metrics: Sequence[Metric], weights: Path | None, about: dict[str, Any], limit: int | None
) -> None:
    """Score all samples that are not done, then write the run's report.

    Args:
        about: of the run, for run.json.
        limit: only so many samples.
    """
    names = list(work.names[:limit])
    depends = metrics_about(metrics, weights)
    about = {
        **about,
        **surroundings(),
        **depends,
        "made_by": work.made_by,
        "metrics": [metric.name for metric in metrics],
        "samples": names,
        "sets": {},
        "sets_absent": {},
    }
    with contextlib.suppress(ValueError):
        about["fps"] = run.about.get("fps")
    run.write_about(about)
    marks = {name: fingerprint([work.about(name), depends]) for name in names}
    waiting = [name for name in names if not run.is_done(name, marks[name])]
    if len(waiting) < len(names):
        print(f"{len(names) - len(waiting)} of {len(names)} samples are done already", file=sys.stderr)
    with tqdm(total=len(names), initial=len(names) - len(waiting), unit="sample", desc="scoring", file=sys.stderr) as bar:
        for name in waiting:
            sample = work.sample(name)
            kept = None if isinstance(work, VideoFolder) else run.path("videos", name, ".mp4")
            with Keeper(sample.clip, kept, run.path("sheets", name, ".jpg")) as keeper:

                def watch(frames: np.ndarray, keeper: Keeper = keeper) -> None:
                    keeper(frames)
                    bar.set_postfix_str(f"{keeper.clip.name}: {keeper.count / keeper.clip.fps:.0f} s")

                result = score(sample, metrics, weights, watch)
            if isinstance(work, VideoFolder):
                shutil.copy(work.video(name), run.path("videos", name, work.video(name).suffix))
            run.save(name, marks[name], result)
            bar.update()
    if isinstance(work, Generated) and work.fps is not None:
        about["fps"] = work.fps
    results = [run.load(name) for name in names]
    about["sets"], about["sets_absent"] = compare_sets(metrics, results)
    about["sizes"] = sorted({f"{result.height}×{result.width}" for result in results})
    run.write_about(about)


def _summary(run: Run) -> Iterator[str]:
    row = report.row_of(run)
    for column in statistics.columns():
        if (mean := row.means.get(column.name)) is not None:
            interval = f"  ({mean.low:.4g} to {mean.high:.4g})" if not math.isnan(mean.low) else ""
            part = f"  {share}" if (share := row.share(column.name)) else ""
            yield f"  {column.name:18}{mean.value:10.4g}{interval}{part}"
    for name, reason in [*sorted(row.absent.items()), *sorted(row.partial.items())]:
        yield f"  {name}: absent, {reason}"


def main(argv: list[str]) -> None:
    if len(argv) > 1 and argv[1] in WORDS:
        WORDS[argv[1]]([f"{argv[0]} {argv[1]}", *argv[2:]])
        return
    values, config = flags.parse(define, argv, USAGE)
    if not values.out:
        raise UsageError(f"--out is missing; see {argv[0]} --help")
    weights = Path(values.weights) if values.weights else None
    if weights is not None and not weights.is_dir():
        raise UsageError(f"there is no folder {weights}, which --weights names")
    metrics = choose_metrics(values.metrics)
    work = _work(values, config)
    out = Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out)
    kind = "finished videos" if values.videos else f"{values.bench} bench" + (", real videos" if values.real else "")
    evaluate(work, run, metrics, weights, {"name": values.name or out.name, "kind": kind, "command": argv[1:]}, values.samples)
    report.write([run], out)
    print(
        "\n".join([f"{run.about['name']}: {len(run.about['samples'])} samples, {kind}", *_summary(run), f"{out / 'report.html'}"])
    )
