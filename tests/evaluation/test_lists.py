"""Lists of TalkBench from small data sets in the published layouts."""

import pytest

from livetalk_jax.data.clips import order
from livetalk_jax.evaluation import command, lists
from livetalk_jax.evaluation.benches import Listed
from livetalk_jax.evaluation.generation import RealVideos
from livetalk_jax.evaluation.lists import make_lists, read_list
from tests.data import sets

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
