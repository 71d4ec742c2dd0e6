"""Lists of TalkBench from small data sets in the published layouts."""

import dataclasses

import pytest

from livetalk_jax.data.clips import order
from livetalk_jax.evaluation import command, lists, runs
from livetalk_jax.evaluation.benches import Listed
from livetalk_jax.evaluation.generation import Generated, RealVideos
from livetalk_jax.evaluation.lists import Entry, make_lists, read_list, write_list
from tests.data import sets
from tests.evaluation.pipeline import FakePipeline

SIZES = ((64, 64), (64, 96))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    talkvid, speakervid = (tmp_path_factory.mktemp(name) for name in ("talkvid", "speakervid"))
    return {"talkvid": sets.make_talkvid(talkvid), "speakervid": sets.make_speakervid(speakervid)}


@pytest.fixture(scope="module", autouse=True)
def short_clips():
    """The small sets' clips last a second or two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "SHORTEST", 0.5)
        yield


@pytest.fixture(scope="module")
def made(roots):
    return make_lists(roots, 1.0)


def test_short(made):
    entries, left_out = made[0]["short"], made[1]
    assert len(entries) > 5
    persons = [(entry.source, entry.person) for entry in entries]
    assert len(set(persons)) == len(persons)
    assert persons == sorted(persons, key=lambda who: order(f"talkbench/1/short/{who[0]}/{who[1]}"))
    for entry in entries:
        assert lists.SHORTEST <= entry.seconds <= lists.LONGEST and len(entry.pieces) == 1
        assert not entry.pieces[0].video.startswith(("/", ".."))
    assert left_out["not downloaded"]


def test_nobody_was_trained_on(roots):
    half, left_out = make_lists(roots, 0.5)
    assert left_out["trained on"]
    for entry in half["short"]:
        assert order(f"{entry.source}/{entry.person}") < 0.5 * 2**64
    assert len(half["short"]) < len(make_lists(roots, 1.0)[0]["short"])


def test_long_ones_follow_each_other(roots, monkeypatch):
    monkeypatch.setattr(lists, "LONG", 1.5)
    entries = make_lists(roots, 1.0)[0]["long"]
    assert entries and all(entry.seconds == pytest.approx(1.5, abs=0.01) for entry in entries)


def test_files_are_the_same_every_time(roots, made, tmp_path):
    arguments = ["--talkvid", str(roots["talkvid"]), "--speakervid", str(roots["speakervid"]), "--test_share", "1"]
    for name in ("a", "b"):
        command.main(["livetalk evaluate", "lists", *arguments, "--out", str(tmp_path / name)])
    first, second = ((tmp_path / name / "short.jsonl").read_bytes() for name in ("a", "b"))
    assert first == second
    assert read_list(tmp_path / "a" / "short.jsonl") == made[0]["short"]
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="line 1 is no entry"):
        read_list(tmp_path / "bad.jsonl")


def test_a_list_is_a_bench(roots, made):
    bench = Listed(made[0]["short"], roots, SIZES)
    for name in bench.names[:4]:
        task = bench.task(name)
        entry = made[0]["short"][bench.names.index(name)]
        blocks = list(task.real())
        count = sum(map(len, blocks))
        assert task.portrait.shape[:2] in SIZES and blocks[0].shape[1:] == task.portrait.shape
        assert count == int(entry.seconds * 25 + 1e-6) and len(task.waveform) == 640 * count
        assert abs(task.portrait.astype(int) - blocks[0][0]).max() == 0
        assert task.codec == RealVideos(bench).sample(name).clip.codec == "h264", "decoded frames are not called uncompressed"
    with pytest.raises(ValueError, match="--speakervid"):
        Listed(made[0]["short"], {"talkvid": roots["talkvid"]}, SIZES)


def evaluate(bench: str, entries: list[Entry], roots, folder, *more: str) -> runs.Run:
    """`livetalk evaluate --bench` with a list of these entries."""
    write_list(folder / f"{bench}.jsonl", entries)
    sources = [word for source, root in roots.items() for word in (f"--{source}", str(root))]
    out = folder / "run"
    arguments = ["--bench", bench, "--lists", str(folder), *sources, "--metrics", "flicker,joins", "--out", str(out), *more]
    command.main(["livetalk evaluate", *arguments])
    return runs.Run(out)


@pytest.mark.parametrize("bench", ["short", "long"])
def test_from_a_list_to_a_report(bench, roots, made, tmp_path, monkeypatch):
    """Each bench through the command, by a pipeline that stands in for a model; long samples are of two pieces."""
    monkeypatch.setattr(Generated, "_pipeline", lambda self, size: FakePipeline())
    pieces = 1 if bench == "short" else 2
    entries = [dataclasses.replace(entry, bench=bench, pieces=entry.pieces * pieces) for entry in made[0]["short"][:3]]
    run = evaluate(bench, entries, roots, tmp_path, "--samples", "2")
    results = run.results()
    assert list(results) == [f"{bench}-000", f"{bench}-001"]
    for entry, (name, result) in zip(entries, results.items(), strict=False):
        assert result.frames == sum(int((piece.end - piece.start) * 25 + 1e-6) for piece in entry.pieces)
        assert result.codec is None and "Join jump" in result.numbers
        assert (run.folder / "videos" / f"{name}.mp4").stat().st_size
    page = (run.folder / "report.html").read_text()
    assert f"{bench} bench, 2 of 2 samples" in page and page.count("<video ") == 2


def changed(entry: Entry, **changes) -> Entry:
    return dataclasses.replace(entry, pieces=(dataclasses.replace(entry.pieces[0], **changes),))


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda entries: [], "short.jsonl has no entries"),
        (lambda entries: [entries[0], changed(entries[0], video="no.mp4")], "files of the list are missing, such as "),
        (lambda entries: [changed(entries[0], sound="no.wav")], "1 of the 2 files of the list are missing"),
        (lambda entries: [dataclasses.replace(entries[0], pieces=())], "line 1 is no entry of a list: it has no pieces"),
        (lambda entries: [changed(entries[0], end=0.0)], "line 1 is no entry of a list"),
        (lambda entries: [changed(entries[0], end="soon")], "line 1 is no entry of a list"),
    ],
    ids=["empty", "no video", "no sound", "no pieces", "backwards", "a word"],
)
def test_one_line_for_what_is_wrong_with_a_list(spoil, line, roots, made, tmp_path):
    """Before anything is made."""
    with pytest.raises((ValueError, OSError)) as error:
        evaluate("short", spoil(made[0]["short"]), roots, tmp_path)
    assert line in str(error.value) and "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_data_set_that_is_not_there(made, tmp_path):
    roots = {source: tmp_path / "nowhere" for source in lists.SOURCES}
    with pytest.raises(OSError, match=r"files of the list are missing, such as .*nowhere"):
        evaluate("short", made[0]["short"], roots, tmp_path)
