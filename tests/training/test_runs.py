"""Runs as users start them: real videos in the published layouts in, a student that streams out; killed on the way, the same one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from livetalk_jax import checkpoint, generate
from livetalk_jax.data import prepare
from livetalk_jax.training.config import training_config
from tests.data import sets
from tests.processes import ROOT, run_together
from tests.sounds import write_wav
from tests.training import sizes
from tests.training.teacher import write_teacher

CONFIG = """
from livetalk_jax.configs import tiny
from tests.training import sizes

def get_config(stage):
    trained = sizes.get_config("stage2" if stage == "streamed" else stage)
    trained.model.dit.num_layers = 1
    if stage != "streamed":
        return trained
    config = tiny.get_config()
    config.model, config.stream, config.runtime = trained.model, trained.stream, trained.runtime
    return config
"""
STEPS = {"stage1": 6, "stage2": 3}


class Runs:
    """Prepared features of both published data sets, the networks that made them, and train.py on them, on one device.

    What one process compiled, the others find.
    """

    def __init__(self, folder: Path):
        self.folder, self.config = folder, folder / "config.py"
        self.config.write_text(CONFIG)
        self.paths = ",".join(str(folder / name) for name in ("talkvid", "speakervid"))
        self.environment = {
            **os.environ, "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }  # fmt: skip

    def command(self, stage: str, name: str, *arguments: str, program: tuple[str, ...] = ("train.py",)) -> list[str]:
        """Stage 1 starts from the folder "teacher", stage 2 from "stage1/student"."""
        weights = self.folder / ("teacher" if stage == "stage1" else "stage1/student")
        return [
            sys.executable, *program, f"--config={self.config}:{stage}", f"--workdir={self.folder / name}",
            f"--config.checkpoint={weights}", "--config.data.source=cache", f"--config.data.path={self.paths}",
            f"--config.loop.steps={STEPS[stage]}", "--config.loop.save_every=2", *arguments,
        ]  # fmt: skip

    def finish(self, *arguments: str) -> str:
        """What a process said that had to end well."""
        done = subprocess.run(self.command(*arguments), cwd=ROOT, env=self.environment, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stderr

    def finish_together(self, *arguments: str) -> None:
        """Two processes of two devices each."""
        run_together(self.command(*arguments), {**self.environment, "JAX_NUM_CPU_DEVICES": "2"})

    def stop(self, moment: str, how: signal.Signals, *arguments: str) -> int:
        """A process's status when it was sent a signal at a moment of `tests.training.killed`."""
        command = self.command(*arguments, program=("-m", "tests.training.killed", moment, how.name))
        return subprocess.run(command, cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL).returncode

    def steps(self, name: str) -> list[int]:
        """Checkpoints that count."""
        return sorted(int(path.name) for path in (self.folder / name / "checkpoints").iterdir() if path.name.isdecimal())

    def events(self, name: str) -> EventAccumulator:
        """What TensorBoard shows."""
        events = EventAccumulator(str(self.folder / name / "tensorboard"))
        events.Reload()
        return events


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("runs"))
    folder = runs.folder
    values = sizes.get_config("stage2")
    values.model.dit.num_layers = 1
    teacher = write_teacher(folder / "teacher", training_config(values).model)
    made = {
        "talkvid": (sets.make_talkvid(folder / "a"), sets.TALKVID_LEFT_OUT),
        "speakervid": (sets.make_speakervid(folder / "b"), sets.SPEAKERVID_LEFT_OUT),
    }
    for source, (root, left_out) in made.items():
        arguments = [f"--source={source}", f"--root={root}", f"--out={folder / source}", f"--checkpoint={teacher}"]
        prepare.main(["livetalk data prepare", f"--config={runs.config}:stage2", "--workers=2", "--test_share=0", *arguments])
        report = json.loads((folder / source / "report.json").read_text())
        expected = {reason: count for reason, count in left_out.items() if reason != "too short"}  # for chunks of 33 frames
        assert report["left_out"] == expected, "each broken file is reported, and none is fatal"
    return runs


# Rows for four devices, and an average.
AVERAGED = ("--config.data.batch=4", "--config.student.ema_decay=0.9")
# Low-rank changes; the student moves in the third iteration too.
LOW_RANK = ("--config.lora.rank=2", "--config.lora.pattern=attn.*kernel$", "--config.distribution_matching.fake_updates=2")


@pytest.fixture(scope="module")
def stages(prepared):
    """Both stages, never killed."""
    prepared.finish("stage1", "stage1", *AVERAGED)
    prepared.finish("stage2", "stage2", *LOW_RANK, "--config.loop.sample_every=2")
    return prepared


def test_both_stages(stages, tmp_path):
    folders = [stages.folder / folder for folder in ("teacher", "stage1/student", "stage2/student")]
    teacher, adapted, distilled = (dict(checkpoint.read(folder, "dit")) for folder in folders)
    assert teacher.keys() == adapted.keys() == distilled.keys()
    moved = [name for name in teacher if not np.array_equal(teacher[name], adapted[name])]
    assert len(moved) > 0.9 * len(teacher), "nothing was learnt"
    changed = [name for name in teacher if not np.array_equal(adapted[name], distilled[name])]
    assert changed == [name for name in teacher if name.endswith("kernel") and "attn." in name], "LoRA changes what it is told to"
    samples = stages.folder / "stage2" / "samples"
    assert (samples / "step_000002.mp4").stat().st_size > 0
    assert Image.open(samples / "step_000002.png").size[0] > sizes.WIDTH
    events = stages.events("stage2")
    told = {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert told["fake_score/loss"] == [1, 2, 3] and {"student/loss", "fake_score/grad_norm", "tokens_per_second"} <= told.keys()
    assert [event.step for name in events.Tags()["images"] for event in events.Images(name)] == [2]

    Image.new("RGB", (64, 64), (180, 140, 120)).save(tmp_path / "portrait.png")
    write_wav(tmp_path / "speech.wav", 0.1 * np.sin(np.arange(16_000) * 0.05))
    generate.main([
        "livetalk generate", f"--config={stages.config}:streamed", f"--checkpoint={folders[-1]}", f"--out={tmp_path / 'talk.mp4'}",
        f"--image={tmp_path / 'portrait.png'}", f"--audio={tmp_path / 'speech.wav'}",
    ])  # fmt: skip
    with av.open(tmp_path / "talk.mp4") as video:
        assert sum(1 for _ in video.decode(video=0)) == 25


def ends(runs: Runs, *names: str) -> list[dict[str, np.ndarray]]:
    """Of runs that ended at the same place in the data: weights, their average, the optimisers' memories, and the student's weights."""
    here, found, positions = jax.sharding.SingleDeviceSharding(jax.devices()[0]), [], []
    for folder in (runs.folder / name for name in names):
        with ocp.training.Checkpointer(folder / "checkpoints") as checkpoints:
            told = checkpoints.metadata()
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), told.metadata)
            state = checkpoints.load(abstract_state=shapes)
        leaves = {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}
        found.append(leaves | {f"student {key}": value for key, value in checkpoint.read(folder / "student", "dit")})
        positions.append(told.custom_metadata)
    assert all(position == positions[0] for position in positions)
    assert all(leaves.keys() == found[0].keys() for leaves in found)
    return found


def assert_same(runs: Runs, name: str, expected: str) -> None:
    """Bit for bit."""
    found, leaves = ends(runs, name, expected)
    for key, value in leaves.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def assert_close(runs: Runs, name: str, expected: str) -> None:
    """But for rounding: losses and gradient norms of all iterations, and what these left, numbers of a kind taken together."""
    events, expected_events = runs.events(name), runs.events(expected)
    for told in expected_events.Tags()["scalars"]:
        ours, theirs = ({event.step: event.value for event in of.Scalars(told)} for of in (events, expected_events))
        assert told == "tokens_per_second" or ours == pytest.approx(theirs, rel=1e-5), told
    found, leaves = ends(runs, name, expected)
    for kind in ("['weights']", "['average']", "['mu']", "['nu']", "student "):
        ours, theirs = (np.concatenate([x.ravel() for key, x in end.items() if kind in key]) for end in (found, leaves))
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs), kind


def test_stage1_goes_on_exactly(stages):
    arguments = ("stage1", "killed1", *AVERAGED)
    assert stages.stop("checkpoints/4", signal.SIGKILL, *arguments) == -signal.SIGKILL
    assert stages.steps("killed1") == [2], "a checkpoint that is not whole does not count"
    assert stages.stop("step 5", signal.SIGTERM, *arguments) == 0
    assert stages.steps("killed1") == [4, 5], "SIGTERM leaves a checkpoint of the iteration it came in"
    said = stages.finish(*arguments)
    assert "step 6/6: " in said and "step 5/6: " not in said, "what was done is not done again"
    assert_same(stages, "killed1", "stage1")


def test_stage2_goes_on_exactly(stages):
    arguments = ("stage2", "killed2", *LOW_RANK)
    assert stages.stop("checkpoints/3", signal.SIGKILL, *arguments) == -signal.SIGKILL
    assert stages.steps("killed2") == [2]
    assert stages.stop("killed2/student", signal.SIGKILL, *arguments) == -signal.SIGKILL
    assert not (stages.folder / "killed2" / "student").exists()
    assert "step" not in stages.finish(*arguments)
    assert_same(stages, "killed2", "stage2")


def test_two_processes(stages):
    """Weights cut over the devices of both: what one device computes. They go on exactly from a checkpoint that both wrote."""
    stages.finish_together("stage1", "together", *AVERAGED)
    assert_close(stages, "together", "stage1")
    again = shutil.copytree(stages.folder / "together", stages.folder / "again")
    for later in ("student", "checkpoints/6"):
        shutil.rmtree(again / later)
    stages.finish_together("stage1", "again", *AVERAGED)
    assert_same(stages, "again", "together")
