"""Published layouts: what is found in them, and what is said of the rest."""

import io
import json
import random
import tarfile
from collections import Counter

import pytest

from livetalk_jax.data import filters, folder, speakervid, talkvid
from livetalk_jax.data.record import FALLBACK_CAPTION, LeftOut, Record
from livetalk_jax.files import write_whole
from tests.data import sets


def divide(found):
    found = list(found)
    records = [item for item in found if isinstance(item, Record)]
    assert len({record.key for record in records}) == len(records)
    return records, Counter(item.reason for item in found if isinstance(item, LeftOut))


# TalkVid


@pytest.mark.parametrize(
    ("stem", "parts"),
    [
        ("Tr6MMsoWAog_000_0.100_5.142", ("Tr6MMsoWAog", 0.1, 5.142)),
        ("_a_b__c-d_e_012_10.000_15.042", ("_a_b__c-d_e", 10.0, 15.042)),
        ("holiday", None),
        ("some_holiday_in_spain", None),
    ],
)
def test_talkvid_file_names(stem, parts):
    assert talkvid.parse_name(stem) == parts


@pytest.mark.parametrize(
    ("entry", "video"),
    [
        ({"id": "videovideoTr6MMsoWAog-scene1-scene1"}, "Tr6MMsoWAog"),
        ({"id": "videovideo-scene_-1-x-scene12-scene3"}, "-scene_-1-x"),
        ({"id": "x", "info": {"Video Link": "https://www.youtube.com/watch?v=a_b-c_d_e_f&t=3"}}, "a_b-c_d_e_f"),
        ({"id": "x", "info": {"Video Link": "https://youtu.be/a_b-c_d_e_f?t=3"}}, "a_b-c_d_e_f"),
        ({"id": "nothing like it"}, None),
        ({}, None),
    ],
)
def test_talkvid_video_ids(entry, video):
    assert talkvid.video_id(entry) == video


def test_talkvid(talkvid_root):
    records, left_out = divide(talkvid.scan(talkvid_root))
    # What only decoding can tell (truncated, silent, too short, no video) is found later.
    assert len(records) == sets.TALKVID_GOOD + 4
    assert left_out == {"not downloaded": 1, "annotation unreadable": 3}
    by_person = {record.person: record for record in records}
    second = by_person["2"]
    assert second.video.endswith("a_b-c_d_e_f/a_b-c_d_e_f_003_12.500_14.500.mp4"), "found although its start is off by 0.04 s"
    assert (second.start, second.end, second.crop) == (0.0, None, None), "the file is the clip"
    assert second.caption == "Person 2 talks."
    assert second.measures["dover"] == 8.9
    assert second.measures["orientation"] == 80.3
    assert second.key == "talkvid/a_b-c_d_e_f/a_b-c_d_e_f_003_12.500_14.500"


def test_talkvid_files_are_not_taken_for_others(tmp_path):
    for start in ("0.000_5.000", "5.000_10.000"):
        (tmp_path / f"x_000_{start}.mp4").touch()
    entries = [sets.talkvid_entry("x", 5.05, 9.98, "1"), sets.talkvid_entry("x", 5.3, 10.0, "2")]
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(entries))
    records, left_out = divide(talkvid.scan(tmp_path, mine))
    assert [(record.person, record.video) for record in records] == [("1", str(tmp_path / "x_000_5.000_10.000.mp4"))]
    assert left_out == {"not downloaded": 1}


def test_talkvid_without_annotations(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has a filtered_video_clips\*\.json"):
        list(talkvid.scan(tmp_path))


# SpeakerVid-5M


@pytest.mark.parametrize(
    ("stem", "video", "role", "person"),
    [
        ("abcdefghijk_1920x1080_full_video_003_A_01", "abcdefghijk", "A", "01"),
        ("_b_c-1x2_fg_1280x720_full_video_103_B_None_00", "_b_c-1x2_fg", "B_None", "00"),
        ("a_None_full_1280x720_full_video_003_None_00", "a_None_full", "None", "00"),
    ],
)
def test_speakervid_names(stem, video, role, person):
    parts = speakervid.parse_name(stem)
    assert (parts["video"], parts["role"], parts["person"]) == (video, role, person)


@pytest.mark.parametrize("stem", ["abc", "abc_full_video_003_A_01", "abc_1x1_full_video_003_C_01", "abc_1x1_full_video_003_A"])
def test_other_names(stem):
    assert speakervid.parse_name(stem) is None


def test_speakervid(speakervid_root):
    records, left_out = divide(speakervid.scan(speakervid_root))
    by_name = {record.key.removeprefix("speakervid/").replace("_96x96_full_video", ""): record for record in records}
    # The truncated, the silent and those that filters are for are found later.
    assert set(by_name) == {
        "ab_cd-ef_gh_001_A_00", "ab_cd-ef_gh_002_B_None_00", "bbbbbbbbbbb_001_B_00", "wholevideo1_004_None_00",
        "truncated_1_001_None_00", "silent_0001_001_None_00", "listening_1_001_None_00", "outofsync_1_001_None_00",
    }  # fmt: skip
    assert left_out == {"not downloaded": 1, "annotation unreadable": 2, "in the published test set": 1, "not annotated": 1}

    first = by_name["ab_cd-ef_gh_001_A_00"]
    assert [path.rpartition(".")[2] for path in first.sound] == ["wav", "mp4"], "other speakers are silenced in the .wav"
    assert (first.start, first.end, first.crop) == (0.0, None, None)
    assert first.person == by_name["ab_cd-ef_gh_002_B_None_00"].person == "ab_cd-ef_gh", "one video is one side of the split"
    assert first.caption == "The person nods. The person smiles."
    assert first.measures == {"dover": 0.7, "blur": 0.9, "talking": 1.0, "speakers": 1.0, "sync": pytest.approx(5.1)}

    whole = by_name["wholevideo1_004_None_00"]
    assert (whole.start, whole.end, whole.crop) == (2.5, 5.5, (0.25, 0.0, 0.75, 1.0))


def test_speakervid_speech_interval(speakervid_root):
    records, _ = divide(speakervid.scan(speakervid_root, interval="speech"))
    by_video = {record.person: record for record in records}
    assert by_video["bbbbbbbbbbb"].start == pytest.approx(0.5), "101.0 where the clip begins at 100.5"
    assert by_video["bbbbbbbbbbb"].end == pytest.approx(2.0)
    assert (by_video["wholevideo1"].start, by_video["wholevideo1"].end) == (3.0, 5.0)


def test_speakervid_chosen_by_a_list(speakervid_root, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(["notchosen_1_96x96_full_video_001_None_00.json"]))
    records, left_out = divide(speakervid.scan(speakervid_root, mine))
    assert [record.person for record in records] == ["notchosen_1"]
    assert left_out == {"annotation unreadable": 1}, "the damaged tar, which might have held it"


CLIP = "bbbbbbbbbbb_96x96_full_video_001_B_00"
OTHER = "ccccccccccc_96x96_full_video_001_None_00"
LABELS = {
    "asr": {"text": "Yes.", "avg_logprob": "-0.4", "no_speech_prob": 0.1, "segments": [{"avg_logprob": -9}]},
    "anno": {"anno": {"movement_caption": "The person waves.", "number_of_people": 1}},
    "l_score": {"luminance": 90, "face_blur": 0.8, "hand_blur": 0.6, "frames": [[0.1, 0.2]] * 99},
}


def pack(path, members):
    """A tar, compressed if its name says so; contents are bytes or to be written as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members.items():
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def make_published(root, labels, clips=(CLIP,)):
    """Clips as they are published, their annotations and `labels` in tars whose numbers mean nothing."""
    annotations = {f"tar_batch_1/{name}.json": sets.speakervid_annotation(name, 2.0, anno={}) for name in clips}
    pack(root / "merged_anno" / "tar_batch_1.tar.gz", annotations)
    for number, (label, content) in enumerate(labels.items(), 5):
        pack(root / "raw_labels" / label / f"tar_batch_{number}.tar.gz", {f"{name}.json": content for name in clips})
    for name in clips:
        (root / f"{name}.mp4").touch()


@pytest.mark.parametrize("packed", [True, False])
def test_speakervid_raw_labels(tmp_path, packed):
    make_published(tmp_path, LABELS)
    if not packed:
        for path in (tmp_path / "raw_labels").glob("*/*.tar.gz"):
            with tarfile.open(path) as tar:
                tar.extractall(path.parent / "tar_batch_7", filter="data")
            path.unlink()
    assert list(speakervid.scan(tmp_path)) == [
        Record(
            key=f"speakervid/{CLIP}",
            video=str(tmp_path / f"{CLIP}.mp4"),
            sound=(str(tmp_path / f"{CLIP}.mp4"),),
            start=0.0,
            end=None,
            person="bbbbbbbbbbb",
            caption="The person waves.",
            source="speakervid",
            measures={
                "dover": 0.7, "luminance": 90.0, "blur": 0.9, "face_blur": 0.8, "hand": 0.6, "asr_confidence": -0.4, "no_speech": 0.1,
                "talking": 1.0, "speakers": 1.0, "sync": pytest.approx(5.1),
            },
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "score", "refused"),
    [
        ("l_score", {"luminance": 5}, "luminance"),
        ("asr", {"avg_logprob": -2}, "asr_confidence"),
        ("asr", {"no_speech_prob": 0.9}, "no_speech"),
        ("asr", {"asr": {"compression_ratio": 3}}, "compression"),
        ("anno", {"number_of_people": 2}, None),
    ],
)
def test_speakervid_filters_apply_to_packed_labels(tmp_path, label, score, refused):
    make_published(tmp_path, {label: score})
    (found,) = speakervid.scan(tmp_path)
    left_out = filters.apply(filters.TIERS["base"], found)
    assert (left_out and left_out.reason) == (refused and f"filter {refused}"), "merged_anno counts the speakers, and goes first"


def test_speakervid_labels_only_of_clips_that_are_used(tmp_path):
    make_published(tmp_path, LABELS, clips=(CLIP, OTHER))
    pack(tmp_path / "raw_labels" / "asr" / "tar_batch_9.tar.gz", {f"{OTHER}.json": b"{'single': quotes}"})
    (tmp_path / "raw_labels" / "asr" / "tar_batch_5.tar.gz").unlink()
    (tmp_path / f"{OTHER}.mp4").unlink()
    records, left_out = divide(speakervid.scan(tmp_path))
    assert [record.key for record in records] == [f"speakervid/{CLIP}"]
    assert left_out == {"not downloaded": 1}, "its label was not looked at"
    (tmp_path / f"{OTHER}.mp4").touch()
    assert divide(speakervid.scan(tmp_path))[1] == {"annotation unreadable": 1}


def test_speakervid_damaged_labels(tmp_path):
    make_published(tmp_path, LABELS)
    whole = (tmp_path / "raw_labels" / "asr" / "tar_batch_5.tar.gz").read_bytes()
    (tmp_path / "raw_labels" / "anno" / "tar_batch_6.tar.gz").write_bytes(whole[:60])
    torn = tmp_path / "raw_labels" / "l_score" / "tar_batch_0.tar.gz"
    pack(torn, {f"{CLIP}.json": {"frames": random.Random(0).randbytes(50_000).hex()}})
    content = torn.read_bytes()
    torn.write_bytes(content[:20_000] + bytes(10_000) + content[30_000:])
    found = list(speakervid.scan(tmp_path))
    assert [item.key for item in found] == [
        "speakervid/anno/tar_batch_6.tar.gz", "speakervid/l_score/tar_batch_0.tar.gz", f"speakervid/{CLIP}",
    ]  # fmt: skip
    assert [item.reason for item in found[:2]] == ["annotation unreadable"] * 2
    assert (found[2].caption, found[2].measures["luminance"]) == (FALLBACK_CAPTION, 90.0), "the other tar of l_score is whole"


def test_speakervid_tars_of_clips(tmp_path, monkeypatch):
    make_published(tmp_path, {}, clips=(CLIP, OTHER))
    (tmp_path / "SFT_set.json").write_text(json.dumps([CLIP]))
    for name in (CLIP, OTHER):
        (tmp_path / f"{name}.mp4").unlink()
        pack(tmp_path / "tars" / f"{name}.tar", {f"a/{name}.mp4": b"pictures", f"a/{name}.wav": b"sound", f"a/{name}.json": {}})
    unpacked = tmp_path / "tars" / "unpacked"

    def killed_after_one(path, content):
        if unpacked.exists():
            raise KeyboardInterrupt
        write_whole(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(speakervid, "write_whole", killed_after_one)
        list(speakervid.scan(tmp_path))
    (record,) = speakervid.scan(tmp_path)
    assert (record.video, record.sound) == (
        str(unpacked / f"{CLIP}.mp4"),
        (str(unpacked / f"{CLIP}.wav"), str(unpacked / f"{CLIP}.mp4")),
    )
    assert {path.name: path.read_bytes() for path in unpacked.iterdir()} == {f"{CLIP}.mp4": b"pictures", f"{CLIP}.wav": b"sound"}
    assert (record.start, record.end, record.measures["dover"]) == (0.0, None, 0.7), "annotated as ever"

    (tmp_path / "tars" / f"{CLIP}.tar").unlink()
    assert list(speakervid.scan(tmp_path)) == [record], "the tar is not needed any more"


def test_speakervid_damaged_tars_of_clips(tmp_path):
    make_published(tmp_path, {}, clips=(CLIP, OTHER))
    for name in (CLIP, OTHER):
        (tmp_path / f"{name}.mp4").unlink()
    pack(tmp_path / f"{CLIP}.tar", {f"{CLIP}.wav": b"sound", f"{CLIP}.mp4": bytes(100_000)})
    sets.truncate(tmp_path / f"{CLIP}.tar")
    pack(tmp_path / f"{OTHER}.tar", {f"{OTHER}.wav": b"sound"})
    assert divide(speakervid.scan(tmp_path)) == ([], {"damaged": 2})
    assert not list(tmp_path.rglob("*.mp4"))


def test_speakervid_without_annotations(tmp_path):
    with pytest.raises(FileNotFoundError, match="merged_anno"):
        list(speakervid.scan(tmp_path))


# Folder


def test_folder(tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("anna/1.mp4", "anna/2.MOV", "bert.webm", "carl.mp4", ".hidden/x.mp4", "notes.pdf"):
        (tmp_path / name).touch()
    (tmp_path / "anna" / "1.txt").write_text("Anna tells a story.\n")
    (tmp_path / "carl.txt").write_bytes(b"\xff\xfe\xff")
    records, left_out = divide(folder.scan(tmp_path))
    assert [(record.key, record.person) for record in records] == [
        ("folder/anna/1.mp4", "anna"),
        ("folder/anna/2.MOV", "anna"),
        ("folder/bert.webm", "bert.webm"),
    ]
    assert [record.caption for record in records] == ["Anna tells a story.", FALLBACK_CAPTION, FALLBACK_CAPTION]
    assert left_out == {"annotation unreadable": 1}


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no videos"):
        list(folder.scan(tmp_path))


# Filters


def record(**measures):
    options = dict(key="k", video="v", sound=("v",), start=0.0, end=None, person="p", caption="c", source="folder")
    return Record(**options, measures=measures)


GOOD = dict(
    talking=1, speakers=1, sync=6, dover=0.7, luminance=100, blur=0.5, asr_confidence=-0.5, no_speech=0.1, compression=1.5,
    face_blur=0.8, hand=0.6, motion=3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("tier", "measure", "least", "most"),
    [
        ("base", "dover", 0.25, None),
        ("base", "luminance", 10, 210),
        ("base", "blur", 0.1, None),
        ("base", "asr_confidence", -1.5, None),
        ("base", "no_speech", None, 0.8),
        ("base", "compression", None, 2.5),
        ("base", "talking", 1, None),
        ("base", "speakers", None, 1),
        ("base", "sync", 3, None),
        ("high", "dover", 0.6, None),
        ("high", "face_blur", 0.7, None),
        ("high", "hand", 0.5, None),
        ("high", "motion", 2, None),
        ("high", "asr_confidence", -1, None),
        ("high", "luminance", 10, 210),
    ],
)
def test_published_bounds(tier, measure, least, most):
    bounds = filters.TIERS[tier]
    assert filters.apply(bounds, record(**GOOD)) is None
    for end, beyond in ((least, -0.01), (most, 0.01)):
        if end is not None:
            assert filters.apply(bounds, record(**{**GOOD, measure: end})) is None
            assert filters.apply(bounds, record(**{**GOOD, measure: end + beyond})).reason == f"filter {measure}"


def test_a_score_that_is_not_given_keeps_nothing_out():
    assert filters.apply(filters.TIERS["base"], record()) is None
    assert set(filters.unknown(filters.TIERS["base"], record(dover=0.3))) == set(filters.TIERS["base"]) - {"dover"}


def test_changed_bounds():
    bounds = filters.parse_filters("base", ["dover=0.6:", "sync=off", "motion=:5", "luminance=20:100"])
    assert bounds["dover"] == (0.6, None)
    assert "sync" not in bounds
    assert (bounds["motion"], bounds["luminance"]) == ((None, 5.0), (20.0, 100.0))
    assert "sync" in filters.TIERS["base"], "the tier itself is untouched"
    assert filters.parse_filters("none", []) == {}


@pytest.mark.parametrize("change", ["beauty=1:", "dover", "dover=0.6", "dover=a:b", "dover=1:2:3"])
def test_wrong_bounds(change):
    with pytest.raises(ValueError, match=r"there is no measure|is no bound"):
        filters.parse_filters("none", [change])
