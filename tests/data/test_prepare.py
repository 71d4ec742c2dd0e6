"""`livetalk data prepare` on real files in the published layouts, with tiny untrained networks."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax import checkpoint, flags
from livetalk_jax.data import prepare
from livetalk_jax.data.cache import Cache, unpack
from livetalk_jax.data.clips import read
from livetalk_jax.stream.audio import windows
from livetalk_jax.stream.networks import random_networks
from livetalk_jax.stream.session import Pipeline
from livetalk_jax.tokenizer import load_tokenizer
from tests.data import fakes, sets
from tests.stream import relative_error

ROOT = Path(__file__).parents[2]
CONFIG = """
from livetalk_jax.configs import tiny

def get_config():
    config = tiny.get_config()
    config.model.text.num_layers = config.model.dit.num_layers = 1
    config.model.clip.num_layers = 2
    config.model.audio.num_layers = config.model.dit.audio_blocks = 1
    config.stream.buckets = ((32, 32),)
    config.sampler.negative_prompt = "blurred"
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def config(config_file):
    return flags.parse(lambda values: None, ["test", f"--config={config_file}"], "")[1]


@pytest.fixture(scope="module")
def networks(config):
    return random_networks(config.model, "float32", 0)


def arguments(config_file, source, root, out, *more):
    fixed = ["--workers=2", "--test_share=0.4", "--clips_per_part=2"]
    return [f"--config={config_file}", f"--source={source}", f"--root={root}", f"--out={out}", *fixed, *more]


def run(*args):
    prepare.main(["livetalk data prepare", *args])


def records_of(out) -> dict[str, bytes]:
    """Clip → its record, of all finished parts."""
    found = {}
    for shelf in Cache(out).shelves():
        source = grain.sources.ArrayRecordDataSource([str(shelf.path)])
        assert len(source) == len(shelf.keys)
        found |= {key: source[index] for index, key in enumerate(shelf.keys)}
    return found


@pytest.fixture
def without_networks(monkeypatch):
    """Features of arithmetic instead of networks, where only what is around them is tested."""
    monkeypatch.setattr(prepare, "frozen_networks", lambda *_: {})
    monkeypatch.setattr(prepare, "Encoders", fakes.Encoders)


@pytest.fixture(scope="module")
def weights(networks, config, tmp_path_factory):
    """A checkpoint of the frozen networks alone."""
    folder = tmp_path_factory.mktemp("weights") / "checkpoint"
    names = ("vae", "clip", "text", "audio")
    parts = {name: getattr(networks, name) for name in names}
    checkpoint.save(folder, parts, {name: getattr(config.model, name) for name in names}, origin="a test")
    return folder


@pytest.fixture(scope="module")
def prepared(config_file, talkvid_root, weights, tmp_path_factory):
    """TalkVid, one chunk a clip, made by the networks."""
    out = tmp_path_factory.mktemp("prepared")
    run(*arguments(config_file, "talkvid", talkvid_root, out, f"--checkpoint={weights}"))
    return out


def test_report(prepared, capsys):
    facts = json.loads((prepared / "report.json").read_text())
    assert facts["left_out"] == sets.TALKVID_LEFT_OUT
    assert facts["clips_written"] == facts["recordings_chosen"] - 1 == sets.TALKVID_GOOD, (
        "the truncated one fails when it is decoded"
    )
    assert sum(facts["persons"].values()) == sets.TALKVID_GOOD + 1
    assert facts["parts"][0] == facts["parts"][1]
    assert sum(sum(sizes.values()) for sizes in facts["clips"].values()) == sets.TALKVID_GOOD
    text = (prepared / "report.txt").read_text()
    for name in ("truncated01", "silent00001", "short000001", "nothing0001", "missing0001", "badrecord01", "with_captions.json"):
        assert name in text.replace("filtered_video_clips.json[11]", "badrecord01"), f"{name} is not told of"
    assert list(prepared.rglob("*.partial")) == []


def test_split_is_disjoint(prepared):
    persons = {"train": set(), "test": set()}
    for part in Cache(prepared).plan():
        persons[part.split] |= {clip.record.person for clip in part.clips}
    assert persons["train"]
    assert persons["test"]
    assert not persons["train"] & persons["test"]


def test_features_are_those_of_a_live_stream(prepared, config, networks):
    """The cached numbers against what a session of `livetalk generate` makes of the same pixels, speech and prompt."""
    records = records_of(prepared)
    part = next(part for part in Cache(prepared).plan() if part.clips[0].key in records)
    clip = part.clips[0]
    features = unpack(records[clip.key])
    media = read(clip, part.bucket, config.stream, chunks=1)
    pipeline = Pipeline(networks, config, (32, 32), load_tokenizer("bytes", config.model.dit.text_len))
    session = pipeline.start(media.reference.astype(np.float32) / 127.5 - 1, prompt=clip.record.caption)
    # The session has just heard what the clip's end was preceded by.
    session._buffers[0].push(media.speech[0][:-17_920])
    heard = np.asarray(session.listen([media.speech[0][-17_920:]]))[0, 0]

    color = session.conditions.color
    frames = jnp.asarray(media.frames.astype(np.float32) / 127.5 - 1)[None]
    context = networks.dit.context(features["text"][None], features["clip"][None])
    cached = windows(features["audio"][0].astype(np.float32), 2, 2 + config.stream.frames, 5)
    errors = {
        "chunk": relative_error(features["chunk_latents"], jax.jit(networks.vae.encode)(frames)),
        "reference": relative_error(features["reference_latents"], session.conditions.reference[0, ..., 4:]),
        "portrait": relative_error(features["reference_latents"][:1], session.motion.latents[0, :1]),
        "speech": relative_error(cached, heard),
        "color mean": relative_error(features["color_mean"], color.mean[0]),
        "color deviation": relative_error(features["color_deviation"], color.deviation[0]),
    }
    for name, ours, theirs in zip(context[0]._fields, context[0], session.conditions.context[0], strict=True):
        errors[f"text and CLIP, {name}"] = relative_error(ours, theirs)
    print(errors)
    assert max(errors.values()) < 1e-3, "float16"
    assert len(features["text"]) == len(clip.record.caption) + 1, "bytes and the end, no padding"


def test_speakervid(config_file, speakervid_root, tmp_path, without_networks):
    run(*arguments(config_file, "speakervid", speakervid_root, tmp_path / "out", "--plan_only"))
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    planned = {reason: count for reason, count in sets.SPEAKERVID_LEFT_OUT.items() if reason != "damaged"}
    assert facts["left_out"] == planned, "the truncated one looks whole until it is decoded"
    assert facts["clips_written"] == 0
    assert facts["recordings_without_the_score"]["luminance"] == sets.SPEAKERVID_GOOD + 1

    run(*arguments(config_file, "speakervid", speakervid_root, tmp_path / "out", "--untrained"))
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert facts["left_out"] == sets.SPEAKERVID_LEFT_OUT
    assert facts["clips_written"] == sets.SPEAKERVID_GOOD


def test_killed_and_started_again(config_file, talkvid_root, tmp_path, without_networks):
    args = [
        *arguments(config_file, "talkvid", talkvid_root, tmp_path / "killed", "--untrained"),
        "--config.stream.buckets=((32,32),(32,48))",
    ]
    program = textwrap.dedent("""
        import sys, time
        from livetalk_jax.data import cache, prepare
        from tests.data import fakes
        pack = cache.pack
        def slow(features):  # so that it is killed in the middle of a part
            time.sleep(1.0)
            return pack(features)
        cache.pack, prepare.frozen_networks, prepare.Encoders = slow, lambda *_: {}, fakes.Encoders
        prepare.main(["livetalk data prepare", *sys.argv[1:]])
    """)
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", program, *args], stderr=subprocess.PIPE, start_new_session=True, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (list(out.glob("parts/*.json")) and list(out.rglob("*.partial"))):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    assert list(out.rglob("*.array_record.*.partial")), "it was killed in the middle of a part"
    before = {path: path.stat().st_mtime_ns for path in out.glob("parts/*.json")}
    assert 0 < len(before) < Cache(out).planned()
    finished = records_of(out)
    run(*args)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was finished is not made again"
    assert records_of(out).items() >= finished.items()
    assert list(out.rglob("*.partial")) == []

    run(*(arg.replace("/killed", "/whole") for arg in args))
    assert records_of(out) == records_of(tmp_path / "whole"), "byte for byte as if it had not been killed"
    facts = json.loads((out / "report.json").read_text())
    assert facts["left_out"] == sets.TALKVID_LEFT_OUT
    assert {size for sizes in facts["clips"].values() for size in sizes} == {"32x32", "32x48"}


def test_other_settings_are_refused(config_file, talkvid_root, prepared):
    with pytest.raises(ValueError, match=r"clips\.chunks 1, not 2; clip_frames 33, not 61"):
        run(*arguments(config_file, "talkvid", talkvid_root, prepared, "--chunks=2", "--untrained"))


def test_another_checkpoint_is_refused(config_file, talkvid_root, weights, tmp_path, without_networks):
    args = arguments(config_file, "talkvid", talkvid_root, tmp_path / "out")
    run(*args, "--untrained")
    next((tmp_path / "out" / "parts").iterdir()).unlink()
    with pytest.raises(
        ValueError, match=r"was begun with other settings: checkpoint None, not '.*/checkpoint'; origin None, not 'a test'"
    ):
        run(*args, f"--checkpoint={weights}")


def test_shards_share_the_work(config_file, talkvid_root, tmp_path, without_networks):
    run(*arguments(config_file, "talkvid", talkvid_root, tmp_path / "one", "--untrained"))
    for shard in (0, 1):
        run(*arguments(config_file, "talkvid", talkvid_root, tmp_path / "out", "--untrained", f"--shard={shard}/2"))
        facts = json.loads((tmp_path / "out" / "report.json").read_text())
        assert (facts["parts"][0] < facts["parts"][1]) == (shard == 0)
    assert records_of(tmp_path / "out") == records_of(tmp_path / "one"), "byte for byte"


def test_nothing_that_can_be_used(config_file, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"no recording in .* can be used; .*left_out\.jsonl says why"):
        run(*arguments(config_file, "folder", tmp_path / "in", tmp_path / "out", "--untrained"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--source is missing"),
        (["--source=folder"], "--root is missing"),
        (["--source=folder", "--root=/nowhere", "--out=x"], "there is no folder /nowhere"),
        (["--source=movies"], "should be one of <talkvid|speakervid|folder>"),
        (["--source=folder", "--root={here}", "--out=x"], "--checkpoint is missing"),
        (["--source=folder", "--root={here}", "--out=x", "--untrained", "--checkpoint={here}"], "give one of them"),
        (["--source=folder", "--root={here}", "--out=x", "--checkpoint={here}"], "is not a checkpoint"),
        (["--source=folder", "--root={here}", "--out=x", "--untrained", "--shard=8/8"], "such as 0/8 to 7/8"),
        (["--source=folder", "--root={here}", "--out=x", "--untrained", "--filter=beauty=1:"], "there is no measure 'beauty'"),
        (["--source=folder", "--root={here}", "--out=x", "--untrained"], "holds no videos"),
        (["--source=talkvid", "--root={here}", "--out=x", "--untrained"], "has a filtered_video_clips*.json"),
        (["--source=folder", "--root={here}", "--out=x", "--untrained", "--annotations=y"], "captions of a folder lie beside"),
    ],
)
def test_command_line_mistakes(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError)) as caught:
        run(*(arg.format(here=tmp_path) for arg in args))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
