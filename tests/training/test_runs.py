"""Both stages as a user runs them: real videos in the published layouts in, a student that streams out."""

import json
import wave
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image

import train
from livetalk_jax import checkpoint, generate
from livetalk_jax.data import prepare
from livetalk_jax.stream.networks import random_networks
from livetalk_jax.training.config import TrainConfig
from tests.data import sets
from tests.training import sizes

SIZES = Path(sizes.__file__)
STREAMED = """
from livetalk_jax.configs import tiny
from tests.training import sizes

def get_config():
    config, trained = tiny.get_config(), sizes.get_config("stage2")
    config.model, config.stream, config.runtime = trained.model, trained.stream, trained.runtime
    return config
"""


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Features of both published data sets, two chunks a clip, and the networks that made them."""
    folder = tmp_path_factory.mktemp("videos")
    model = TrainConfig.from_config_dict(sizes.get_config("stage2")).model
    networks = random_networks(model, "float32", 0)._asdict()
    checkpoint.save(folder / "teacher", networks, {name: getattr(model, name) for name in networks}, origin="a test")
    made = {
        "talkvid": (sets.make_talkvid(folder / "a"), sets.TALKVID_LEFT_OUT),
        "speakervid": (sets.make_speakervid(folder / "b"), sets.SPEAKERVID_LEFT_OUT),
    }
    for source, (root, left_out) in made.items():
        arguments = [f"--source={source}", f"--root={root}", f"--out={folder / source}", f"--checkpoint={folder / 'teacher'}"]
        prepare.main(["livetalk data prepare", f"--config={SIZES}:stage2", "--workers=2", "--test_share=0", *arguments])
        report = json.loads((folder / source / "report.json").read_text())
        expected = {reason: count for reason, count in left_out.items() if reason != "too short"}  # for chunks of 33 frames
        assert report["left_out"] == expected, "each broken file is reported, and none is fatal"
    return folder


def run(stage: str, folder: Path, workdir: Path, weights: Path) -> Path:
    paths = f"{folder / 'talkvid'},{folder / 'speakervid'}"
    data = [
        "--config.data.source=cache",
        f"--config.data.path={paths}",
        "--config.loop.steps=2",
        "--config.loop.sample_every=2",
    ]
    train.main(["train.py", f"--config={SIZES}:{stage}", f"--workdir={workdir}", f"--config.checkpoint={weights}", *data])
    return workdir / "student"


def test_both_stages(caches, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "choose_devices", lambda count: jax.devices()[:1])  # several are test_devices.py's matter
    adapted = run("stage1", caches, tmp_path / "stage1", caches / "teacher")
    student = run("stage2", caches, tmp_path / "stage2", adapted)
    before, after = (dict(checkpoint.read(folder, "dit")) for folder in (caches / "teacher", student))
    assert before.keys() == after.keys()
    assert sum(not np.array_equal(before[name], after[name]) for name in before) > 0.9 * len(before), "nothing was learnt"
    assert (tmp_path / "stage2" / "samples" / "step_000002.mp4").stat().st_size > 0
    assert Image.open(tmp_path / "stage2" / "samples" / "step_000002.png").size[0] > sizes.WIDTH

    (tmp_path / "streamed.py").write_text(STREAMED)
    Image.new("RGB", (64, 64), (180, 140, 120)).save(tmp_path / "portrait.png")
    speech = (3000 * np.sin(np.arange(16_000) * 0.05)).astype(np.int16)
    with wave.open(str(tmp_path / "speech.wav"), "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(speech.tobytes())
    generate.main([
        "livetalk generate", f"--config={tmp_path / 'streamed.py'}", f"--checkpoint={student}", f"--out={tmp_path / 'talk.mp4'}",
        f"--image={tmp_path / 'portrait.png'}", f"--audio={tmp_path / 'speech.wav'}",
    ])  # fmt: skip
    with av.open(tmp_path / "talk.mp4") as video:
        assert sum(1 for _ in video.decode(video=0)) == 25
