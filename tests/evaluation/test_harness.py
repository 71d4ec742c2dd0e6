"""The harness around metrics: pacing, sets, runs that go on, reports and comparisons, and lines for what is wrong."""

import dataclasses
import importlib.metadata
import json
import shutil
import sys
import types

import numpy as np
import pytest

from livetalk_jax import checkpoint
from livetalk_jax.evaluation import command, generation, provenance, report, runs, scoring, statistics
from livetalk_jax.evaluation.benches import Task
from livetalk_jax.evaluation.metric import Absent, Clip, Column, Curve, Metric, Scores, curve, ends, weight_file
from livetalk_jax.evaluation.registry import METRICS
from livetalk_jax.evaluation.scoring import Sample, score
from livetalk_jax.flags import UsageError
from livetalk_jax.media import VideoWriter
from tests.evaluation.pipeline import FakePipeline

SIZE = 64


def clip(**changes) -> Clip:
    portrait = np.full((SIZE, SIZE, 3), 90, np.uint8)
    known = Clip(name="a", height=SIZE, width=SIZE, fps=25.0, waveform=np.zeros(16_000, np.float32), portrait=portrait)
    return dataclasses.replace(known, **changes)


def numbered(count: int) -> np.ndarray:
    """Frames whose grey is their number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, SIZE, SIZE, 3))


class Seen:
    """A metric that tells which frames it was given."""

    def __init__(self):
        self.greys: list[int] = []

    def add(self, frames):
        self.greys += [int(frame[0, 0, 0]) for frame in frames]

    def scores(self):
        return Scores({"Seen": float(len(self.greys))}, features=np.array(self.greys, np.float32)[:, None])


@pytest.fixture
def fake(monkeypatch):
    """A module of a metric, importable; its meters are kept."""
    module = types.ModuleType("fake_metric")
    module.meters = []

    def begin(clip, weights):
        module.meters.append(Seen())
        return module.meters[-1]

    module.begin = begin
    module.compare = lambda ours, references: {"Apart": float(np.concatenate(ours).mean() - np.concatenate(references).mean())}
    monkeypatch.setitem(sys.modules, "fake_metric", module)
    return module


def metric(**changes) -> Metric:
    return Metric(name="fake", module="fake_metric", columns=(Column("Seen", "higher", ""),), source="", **changes)


@pytest.mark.parametrize(("rate", "expected"), [(25, range(24)), (50, range(1, 48, 2)), (12.5, [k // 2 for k in range(24)])])
def test_a_metric_gets_its_own_frame_rate(fake, rate, expected):
    """At 25 a second, from the frame that is shown in the middle of each 1/25 s."""
    count = round(24 * rate / 25)
    blocks = np.array_split(numbered(count), 5)
    score(Sample(clip(fps=rate), lambda: blocks), [metric(fps=25)], None, lambda _: None)
    assert fake.meters[0].greys == list(expected)


def test_sets_are_compared_with_the_real_videos(fake):
    results = [
        score(Sample(clip(), lambda: [numbered(9)], lambda: [numbered(5)]), [metric(sets=True)], None, lambda _: None)
        for _ in range(2)
    ]
    assert runs.compare_sets([metric(sets=True)], results) == ({"Apart": 2.0}, {})
    alone = score(Sample(clip(), lambda: [numbered(9)]), [metric(sets=True)], None, lambda _: None)
    numbers, absent = runs.compare_sets([metric(sets=True)], [alone])
    assert not numbers and "no real videos" in absent["fake"]


def test_frames_of_another_size_are_refused(fake):
    with pytest.raises(ValueError, match="not uint8 32×64"):
        score(Sample(clip(height=32), lambda: [numbered(2)]), [metric()], None, lambda _: None)


def test_weights(tmp_path):
    with pytest.raises(Absent, match=r"needs net.pth: give its folder by --weights"):
        weight_file(None, "net.pth")
    with pytest.raises(Absent, match=r"needs net.pth, which is not in"):
        weight_file(tmp_path, "net.pth")
    (tmp_path / "net.pth").touch()
    assert weight_file(tmp_path, "net.pth") == tmp_path / "net.pth"


def test_curves():
    values = np.arange(60.0)
    values[25:50] = np.nan
    found = curve(values, 25)
    np.testing.assert_allclose(found.seconds, [0.5, 2.2])
    np.testing.assert_allclose(found.values, [12, 54.5])
    assert [len(part) for part in ends(np.arange(1000))] == [10, 10]
    assert [len(part) for part in ends(np.arange(7))] == [2, 2]
    assert [len(part) for part in ends(np.arange(1))] == [1, 1]


def test_columns_have_one_meaning():
    names = [column.name for metric in METRICS for column in metric.columns]
    assert len(set(names)) == len(names)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


# Bootstrap


def test_bootstrap():
    values = np.random.default_rng(0).normal(5, 2, 100)
    mean = statistics.bootstrap(values)
    assert mean == statistics.bootstrap(values)
    assert mean.value == pytest.approx(values.mean())
    # The normal approximation of the same interval.
    half = 1.96 * values.std() / 10
    assert mean.low == pytest.approx(values.mean() - half, abs=0.08) and mean.high == pytest.approx(values.mean() + half, abs=0.08)
    assert np.isnan(statistics.bootstrap(np.array([1.0])).low)


# Whole runs


def write_video(path, brightness: int) -> None:
    """Two seconds of noise that moves, with a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    still = np.random.default_rng(brightness).integers(0, 60, (SIZE, SIZE, 3))
    frames = np.stack([np.clip(np.roll(still, k, 1) + brightness, 0, 255) for k in range(50)]).astype(np.uint8)
    sound = 0.3 * np.sin(np.arange(32_000) / 5).astype(np.float32)
    with VideoWriter(path, SIZE, SIZE, fps=25, sample_rate=16_000, preset="ultrafast") as writer:
        writer.write_frames(frames)
        writer.write_audio(sound)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three videos of one maker, three of another, and the real ones."""
    root = tmp_path_factory.mktemp("videos")
    for k in range(3):
        write_video(root / "real" / f"clip{k}.mp4", 80 + 10 * k)
        write_video(root / "good" / f"clip{k}.mp4", 82 + 10 * k)
        write_video(root / "bad" / "deeper" / f"clip{k}.mp4", 110 + 13 * k)
    return root


def evaluate(folders, name: str, *more: str) -> runs.Run:
    out = folders / f"run-{name}"
    arguments = ["--videos", str(folders / name), "--references", str(folders / "real"), "--out", str(out), *more]
    command.main(["livetalk evaluate", *arguments])
    return runs.Run(out)


@pytest.fixture(scope="module")
def pair(folders):
    names = ("--metrics", "flicker,appearance,joins,drawn")
    return evaluate(folders, "good", *names), evaluate(folders, "bad", *names, "--joins", "10")


def test_finished_videos_are_scored(pair, folders):
    good, bad = pair
    results = good.results()
    assert sorted(results) == ["clip0", "clip1", "clip2"]
    one = results["clip0"]
    assert one.frames == 50 and one.codec == "h264" and one.numbers["Colour"] < 2 < bad.results()["clip0"].numbers["Colour"]
    assert one.absent == {"joins": "nothing says where the chunks join", "drawn": "needs the procedural set's truth"}
    assert "Join jump" in bad.results()["clip0"].numbers
    assert isinstance(one.curves["appearance: Colour"], Curve)
    assert good.about["versions"]["jax"] and good.about["device"]
    assert (good.folder / "videos" / "clip0.mp4").stat().st_size and (good.folder / "sheets" / "clip0.jpg").is_file()


def test_a_finished_run_is_not_scored_again(pair, folders, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(command, "score", lambda *arguments: calls.append(arguments[0].clip.name) or scoring.score(*arguments))
    names = ("--metrics", "flicker,appearance,joins,drawn")
    evaluate(folders, "good", *names)
    assert calls == [] and "3 of 3 samples are done already" in capsys.readouterr().err
    (folders / "run-good" / "samples" / "clip1.json").unlink()
    evaluate(folders, "good", *names)
    assert calls == ["clip1"]
    # A file that was killed while it was written by another program, or by hand.
    (folders / "run-good" / "samples" / "clip2.json").write_text("{")
    evaluate(folders, "good", *names)
    assert calls == ["clip1", "clip2"]


def test_what_changes_is_scored_again(folders, monkeypatch):
    calls = []
    monkeypatch.setattr(command, "score", lambda *arguments: calls.append(arguments[0].clip.name) or scoring.score(*arguments))
    evaluate(
        folders, "bad", "--metrics", "joins", "--joins", "10", "--samples", "1", "--name", "again", "--out", str(folders / "x")
    )
    evaluate(
        folders, "bad", "--metrics", "joins", "--joins", "12", "--samples", "1", "--name", "again", "--out", str(folders / "x")
    )
    monkeypatch.setattr(command, "METRICS", [dataclasses.replace(metric, version=99) for metric in METRICS])
    evaluate(
        folders, "bad", "--metrics", "joins", "--joins", "12", "--samples", "1", "--name", "again", "--out", str(folders / "x")
    )
    assert calls == ["clip0"] * 3


def test_report_of_two_runs(pair, tmp_path):
    report.main(["livetalk evaluate report", str(pair[0].folder), str(pair[1].folder), "--out", str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    assert "run-good" in page and "run-bad" in page and "nothing says where the chunks join" in page
    assert "went through h264" in page and page.count("<video ") == 6 and page.count("data:image/jpeg;base64") == 6
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["runs"]["run-good"]["means"]["Colour"]["samples"] == 3
    assert "Lip r" not in stored["runs"]["run-good"]["means"]


def test_two_runs_are_compared(pair, capsys, tmp_path):
    a, b = (str(run.folder) for run in pair)
    statistics.main(["livetalk evaluate compare", a, b, "--out", str(tmp_path / "c.json")])
    printed = capsys.readouterr().out
    assert "3 samples" in printed and "worse" in printed
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["unlike"] == []
    stored = written["columns"]
    assert stored["Colour"]["verdict"] == "worse" and stored["Colour"]["low"] > 0
    assert "Join jump" not in stored  # only one of the two has it
    statistics.main(["livetalk evaluate compare", b, a])
    assert "better" in capsys.readouterr().out


def test_a_page_without_its_videos(pair, tmp_path, monkeypatch):
    """No player where there is no video, and none that stays broken where the page came without the videos beside it."""

    def page(folder) -> str:
        report.write([runs.Run(folder)], tmp_path)
        return (tmp_path / "report.html").read_text()

    run = tmp_path / "run"
    shutil.copytree(pair[0].folder, run)
    monkeypatch.setattr(report, "EMBEDDED", 0)
    linked = page(run)
    assert linked.count('src="run/videos/') == linked.count("onerror=\"this.replaceWith('its video is not here')\"") == 3
    (run / "videos" / "clip0.mp4").unlink()
    (run / "videos" / "clip1.mp4").rename(run / "videos" / "clip1.mkv")
    some = page(run)
    assert some.count("<video ") == 1 and "<p>its video is not here</p>" in some and "browsers do not play clip1.mkv" in some
    shutil.rmtree(run / "videos")
    none = page(run)
    assert "<video " not in none and none.count("<p>its video is not here</p>") == 3


# Runs that differ, and samples that lack a column


def kept(folder, numbers: list[dict[str, float]], absent: dict[str, str] | None = None, result=None, **about) -> runs.Run:
    """A run of samples s0, s1, … as `evaluate` leaves it; the last sample has `absent`."""
    run = runs.Run(folder)
    known = {
        "name": folder.name, "kind": "procedural bench", "metrics": ["appearance", "mouth"], "sets": {}, "sets_absent": {},
        "samples": [f"s{k}" for k in range(len(numbers))], "metric_versions": {"appearance": 1, "mouth": 1}, "weights": {},
        "versions": {}, "commit": "unknown", "device": "", "machine": "",
    }  # fmt: skip
    run.write_about(known | about)
    for k, found in enumerate(numbers):
        last = absent if absent and k == len(numbers) - 1 else {}
        fields = {"frames": 250, "fps": 25.0, "height": 64, "width": 64} | (result or {})
        run.save(f"s{k}", "", scoring.Result(found, last, **fields))
    return run


COLUMNS = ("Colour", "Colour drift", "Sharpness", "Sharpness drift", "A/V match", "A/V offset", "Silent mouth")
ALL = dict.fromkeys(COLUMNS, 1.0)


def without(*names: str) -> dict[str, float]:
    return {name: value for name, value in ALL.items() if name not in names}


def test_a_column_that_some_samples_lack(tmp_path, capsys):
    """Its number says of how many samples it is, and why the others have none."""
    numbers = [ALL, without("A/V offset"), ALL, without("Silent mouth", "A/V match", "A/V offset")]
    run = kept(tmp_path / "some", numbers, {"mouth": "there is no sound"})
    row = report.row_of(run)
    assert [row.share(name) for name in ("Colour", "A/V match", "A/V offset")] == ["", "3 of 4", "2 of 4"]
    assert row.absent == {"mouth": "there is no sound (1 of 4)"}
    assert row.partial == {"A/V offset": "needs an A/V match of 2, its peak inside half a second (1 of 4)"}
    report.write([run], tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<small>3 of 4</small>") == 2 and page.count("<small>2 of 4</small>") == 1
    missing = page[page.index("<h2>Missing") : page.index("<h2>Videos")]
    assert "<td>A/V offset</td><td>all</td><td>needs an A/V match of 2, its peak inside half a second (1 of 4)</td>" in missing
    assert json.loads((tmp_path / "report.json").read_text())["runs"]["some"]["partial"] == row.partial
    printed = {line.split("  ")[1]: line for line in command._summary(run)}
    assert printed["A/V offset"].endswith("  2 of 4") and not printed["Colour"].endswith("4")
    assert printed["A/V offset: absent, needs an A/V match of 2, its peak inside half a second (1 of 4)"]

    statistics.main(["livetalk evaluate compare", str(run.folder), str(kept(tmp_path / "whole", [ALL] * 4).folder)])
    counts = {line[:18].strip(): line[48:54].strip() for line in capsys.readouterr().out.splitlines()[2:]}
    assert [counts[name] for name in ("", "Colour", "A/V match", "A/V offset")] == ["n", "4", "3", "2"]


def test_a_column_that_all_samples_lack(tmp_path):
    row = report.row_of(kept(tmp_path / "none", [without("A/V offset")] * 2))
    assert "A/V offset" not in row.means and row.partial["A/V offset"].endswith("(2 of 2)")


def test_sets_say_how_many_samples_they_are_of(tmp_path):
    run = kept(tmp_path / "sets", [ALL, ALL], metrics=["fid"], sets={"FID": 3.0})
    run.save("s0", "", dataclasses.replace(run.load("s0"), features={"fid": np.zeros((4, 2), np.float32)}))
    assert report.row_of(run).share("FID") == "1 of 2"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kind": "short bench"}, "bench differs: a has procedural, b has short"),
        ({"metric_versions": {"appearance": 2, "mouth": 1}}, "version of appearance differs: a has 1, b has 2"),
        ({"weights": {"amt-s.pth": 6}}, "size of amt-s.pth, in bytes differs: a has 5, b has 6"),
        ({"result": {"frames": 500}}, "length differs: a has 10.00 s, b has 20.00 s (s0; 2 of 2 samples)"),
    ],
)
def test_runs_that_cannot_be_compared(changes, line, tmp_path):
    a, b = kept(tmp_path / "a", [ALL] * 2, weights={"amt-s.pth": 5}), kept(tmp_path / "b", [ALL] * 2, **changes)
    with pytest.raises(ValueError, match="cannot be compared") as error:
        statistics.main(["livetalk evaluate compare", str(a.folder), str(b.folder)])
    assert str(error.value).endswith(f"cannot be compared: {line}")
    report.write([a, b], tmp_path)
    assert f"<p class=warning>Beware: {line}.</p>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"kind": "finished videos"}, "bench differs: a has procedural, b has finished videos"),
        ({"result": {"frames": 249}}, "length differs: a has 10.00 s, b has 9.96 s (s0; 2 of 2 samples)"),
        ({"result": {"frames": 300, "fps": 30.0}}, "frame rate differs: a has 25 a second, b has 30 a second (s0; 2 of 2 samples)"),
        ({"result": {"width": 96}}, "size differs: a has 64×64, b has 64×96 (s0; 2 of 2 samples)"),
        ({"result": {"codec": "h264"}}, "codec differs: a has none, b has h264 (s0; 2 of 2 samples)"),
        ({"numbers": [ALL] * 3}, "number of samples differs: a has 2, b has 3, 2 in common"),
        ({}, ""),
    ],
)
def test_runs_that_differ_a_little(changes, line, tmp_path, capsys):
    a, b = kept(tmp_path / "a", [ALL] * 2), kept(tmp_path / "b", **({"numbers": [ALL] * 2} | changes))
    statistics.main(["livetalk evaluate compare", str(a.folder), str(b.folder), "--out", str(tmp_path / "c.json")])
    assert capsys.readouterr().err == (f"beware: {line}\n" if line else "")
    assert json.loads((tmp_path / "c.json").read_text())["unlike"] == ([line] if line else [])


def test_a_run_from_before_versions_were_kept(tmp_path, capsys):
    a, b = kept(tmp_path / "a", [ALL]), kept(tmp_path / "b", [ALL], result={"height": 0, "width": 0})
    about = b.about
    del about["metric_versions"], about["weights"]
    b.write_about(about)
    statistics.main(["livetalk evaluate compare", str(a.folder), str(b.folder)])
    assert capsys.readouterr().err == "beware: b does not tell the versions of its metrics: score it again to be sure\n"


# Where numbers come from


def test_which_checkpoint_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "moved"
    shutil.copytree(checkpoint.SHIPPED / "tiny", folder)
    known = provenance.identify(folder)
    manifest = checkpoint.read_manifest(folder)
    assert known == dataclasses.replace(provenance.identify(checkpoint.SHIPPED / "tiny"), folder=str(folder))
    assert known.origin == manifest.origin and known.digest_of == "all bytes" and len(known.digest) == 16
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    changed = largest.read_bytes()
    largest.write_bytes(changed[:-1] + bytes([changed[-1] ^ 1]))
    assert provenance.identify(folder).digest != known.digest
    # Of a large one the tensors are not read: their sizes tell, and the manifest.
    monkeypatch.setattr(provenance, "WHOLE", 0)
    large = provenance.identify(folder)
    assert large.digest_of == "the manifest, names and sizes" and large.digest != known.digest
    largest.write_bytes(changed + b"0")
    assert provenance.identify(folder).digest != large.digest
    with pytest.raises(checkpoint.CheckpointError, match="is not a checkpoint"):
        provenance.identify(tmp_path)


def test_which_code_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.surroundings()["commit"] == "unknown"
    (tmp_path / ".git").write_text("gitdir: /nowhere")  # a checkout that git cannot read
    assert provenance.surroundings()["commit"] == "unknown"


def test_a_folder_that_was_never_installed_is_measured_all_the_same(monkeypatch):
    known = importlib.metadata.version

    def version(name):
        if name == "livetalk-jax":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(provenance.importlib.metadata, "version", version)
    versions = provenance.surroundings()["versions"]
    assert versions["livetalk-jax"] == "unknown" and versions["jax"] == known("jax")


class FakeBench:
    names = ("one", "two")

    def about(self, name):
        return {"bench": "fake", "seed": 7}

    def task(self, name):
        portrait = np.random.default_rng(len(name)).integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8)
        real = np.broadcast_to(portrait, (45, SIZE, SIZE, 3))
        return Task(name, portrait, np.full(45 * 640, 0.1, np.float32), lambda: iter([real]), None, "vp9")


def test_generated_videos_are_scored_as_they_come(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generation.Generated, "_pipeline", lambda self, size: FakePipeline())
    monkeypatch.setattr(command, "_bench", lambda values, config: FakeBench())
    arguments = [
        "livetalk evaluate",
        "--bench",
        "procedural",
        "--out",
        str(tmp_path),
        "--metrics",
        "flicker,joins",
        "--name",
        "fake",
    ]
    command.main(arguments)
    run = runs.Run(tmp_path)
    found = run.results()["one"]
    assert found.frames == 45 and found.codec is None and found.numbers["Join jump"] > 1
    assert run.about["fps"] > 0 and (tmp_path / "videos" / "two.mp4").stat().st_size
    assert "fake: 2 samples" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    made_by = run.about["made_by"]
    assert made_by["checkpoint"]["digest"] == provenance.identify(checkpoint.SHIPPED / "tiny").digest
    assert made_by["checkpoint"]["digest"] in page and f"uncompressed frames, {SIZE}×{SIZE}" in page
    assert "flicker 1, joins 2" in page and f"commit {run.about['commit']}" in page
    command.main([*arguments, "--real", "--out", str(tmp_path / "real"), "--name", "real"])
    real = runs.Run(tmp_path / "real")
    assert real.results()["one"].numbers["Frozen"] == 100 and real.results()["one"].codec == "vp9"
    page = (tmp_path / "real" / "report.html").read_text()
    assert "frames decoded from vp9" in page and "uncompressed" not in page and "<td>real video</td>" in page


def test_another_maker_is_scored_again(tmp_path):
    """A checkpoint by its content, wherever it lies; the seed of the noise beside the bench's own."""
    for name in ("a", "b", "c"):
        shutil.copytree(checkpoint.SHIPPED / "tiny", tmp_path / name)
    (tmp_path / "c" / "README.md").write_text("another")
    config = command.flags.parse(command.define, ["livetalk evaluate"], "")[1]

    def made(name: str, seed: int):
        return generation.Generated(FakeBench(), config, str(tmp_path / name), seed).about("one")

    assert made("a", 0) == made("b", 0)
    assert made("c", 0) != made("a", 0) != made("a", 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--out is missing"),
        (["--out", "x"], "either --videos and --references, or --bench"),
        (["--out", "x", "--videos", "y"], "--references is missing"),
        (["--out", "x", "--videos", "/nowhere", "--references", "y"], "there is no folder /nowhere"),
        (["--out", "x", "--bench", "short"], "needs --lists"),
        (["--out", "x", "--bench", "short", "--lists", "/nowhere"], "there is no list /nowhere/short.jsonl"),
        (["--out", "x", "--bench", "nonsense"], "nonsense"),
        (["--out", "x", "--bench", "procedural", "--metrics", "beauty"], "there is no metric 'beauty'"),
        (["--out", "x", "--bench", "procedural", "--weights", "/nowhere"], "there is no folder /nowhere"),
        (["compare", "a"], "two folders of runs are needed, not 1"),
        (["compare", "/nowhere", "/nowhere"], "/nowhere is no run of livetalk evaluate"),
        (["report"], "folders of runs and --out are needed"),
        (["lists", "--out", "x"], "one of --talkvid and --speakervid"),
        (["lists", "--nonsense"], "nonsense"),
    ],
)
def test_one_line_for_what_is_wrong(arguments, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, ValueError, OSError)) as error:
        command.main(["livetalk evaluate", *arguments])
    assert line in str(error.value) and "\n" not in str(error.value).strip()


def test_videos_that_do_not_fit_their_references(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="has no videos"):
        command.VideoFolder(tmp_path / "empty", folders / "real")
    write_video(tmp_path / "videos" / "unknown.mp4", 50)
    with pytest.raises(ValueError, match=r"neither a portrait unknown.png nor a real video unknown.mp4"):
        command.VideoFolder(tmp_path / "videos", folders / "real")
    write_video(tmp_path / "videos" / "b" / "unknown.mp4", 50)
    with pytest.raises(ValueError, match="the same name"):
        command.VideoFolder(tmp_path / "videos", folders / "real")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "clip0.mp4").write_text("no video")
    with pytest.raises(ValueError, match="is not sound or video"):
        command.VideoFolder(tmp_path / "text", folders / "real").sample("clip0")
