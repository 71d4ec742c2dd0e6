"""The command: what it says to bad input, what it leaves behind, and whole runs to a video that plays."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from livetalk_jax import checkpoint, cli, flags, generate, media
from livetalk_jax.config import ModelConfig, RunConfig
from livetalk_jax.configs import tiny
from livetalk_jax.stream.networks import random_networks
from tests.sounds import RATE, write_wav

# The tiny configuration made smaller, as a user would: what is compiled is what costs.
SMALL = [
    "--config.model.dit.num_layers=1",
    "--config.model.dit.dim=64",
    "--config.model.dit.num_heads=2",
    "--config.model.text.num_layers=1",
    "--config.model.clip.num_layers=1",
    "--config.stream.buckets=((32, 48), (48, 48))",
    "--config.stream.frames=13",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good and bad inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(image).save(folder / "portrait.png")
    Image.fromarray(np.zeros((4, 400, 3), np.uint8)).save(folder / "ribbon.png")
    write_wav(folder / "speech.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE // 2))
    write_wav(folder / "empty.wav", np.zeros(0))
    (folder / "text.txt").write_text("This is neither a picture nor a sound nor a checkpoint.\n")
    (folder / "broken.png").write_bytes((folder / "portrait.png").read_bytes()[:200])
    with media.VideoWriter(folder / "silent.mp4", 32, 48, fps=25) as writer:
        writer.write_frames(np.zeros((3, 32, 48, 3), np.uint8))
    (folder / "plain").mkdir()
    (folder / "folder.mp4").mkdir()
    for name, configurations in (
        ("other", {"dit": dataclasses.asdict(ModelConfig.wan_14b().dit)}),
        ("lacking", {"vae": dataclasses.asdict(ModelConfig.tiny().vae)}),
    ):
        (folder / name).mkdir()
        manifest = checkpoint.Manifest(configurations=configurations, forms={}, origin="a test", tokenizer=None)
        (folder / name / checkpoint.MANIFEST).write_text(json.dumps({"format": checkpoint.FORMAT, **dataclasses.asdict(manifest)}))
    return folder


def arguments(folder, out, **changes):
    """A good command line with some flags changed; None leaves one out, a list gives it several times."""
    given = {"image": "portrait.png", "audio": "speech.wav", "out": out, **changes}
    line = []
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                line.append(f"--{name}={folder / one if name in ('image', 'audio', 'checkpoint') else one}")
    return line


BAD = [
    ({"image": None}, "--image is missing"),
    ({"audio": None}, "--audio is missing"),
    ({"out": None}, "--out is missing"),
    ({"image": "nobody.png"}, "nobody.png does not exist"),
    ({"image": "text.txt"}, "text.txt is not a picture"),
    ({"image": "broken.png"}, "broken.png is a damaged picture"),
    ({"image": "plain"}, "plain is a folder, not a file"),
    ({"image": "ribbon.png"}, "a picture of 400×4 is too elongated"),
    ({"audio": "nothing.wav"}, "nothing.wav does not exist"),
    ({"audio": "text.txt"}, "text.txt is not sound or video"),
    ({"audio": "silent.mp4"}, "silent.mp4 has no sound stream"),
    ({"audio": "empty.wav"}, "the sound of"),
    ({"audio": "portrait.png"}, "portrait.png has no sound stream"),
    ({"audio": ["speech.wav"] * 3}, "3 recordings were given: one person or two can speak"),
    ({"audio": ["speech.wav", "empty.wav"]}, "empty.wav"),
    ({"checkpoint": "text.txt"}, "there is no folder"),
    ({"checkpoint": "nowhere"}, "there is no folder"),
    ({"checkpoint": "plain"}, "is not a checkpoint of this program"),
    ({"out": "{folder}/nowhere/out.mp4"}, "nowhere does not exist"),
    ({"out": "{folder}/folder.mp4"}, "it is a folder"),
    ({"out": "{folder}/out.avi"}, "must have a name that ends in .mp4"),
    ({"box": "0,0,45,60"}, "--box is for two persons"),
    ({"audio": ["speech.wav"] * 2, "box": "0,0,45,60"}, "two persons need two boxes, not 1"),
    ({"audio": ["speech.wav"] * 2, "box": ["0,0,45,60", "45,0,90"]}, "box '45,0,90' is not left,top,right,bottom in whole pixels"),
    ({"audio": ["speech.wav"] * 2, "box": ["0,0,45,60", "a,b,c,d"]}, "box 'a,b,c,d' is not left,top,right,bottom"),
    ({"audio": ["speech.wav"] * 2, "box": ["0,0,45,60", "45,0,91,60"]}, "box 2 (45,0,91,60) is not left,top,right,bottom inside"),
    ({"audio": ["speech.wav"] * 2, "box": ["0,0,45,60", "50,1,51,2"]}, "box 2 (50,1,51,2) covers nothing"),
    ({"steps": "0"}, "--steps=0"),
    ({"steps": "two"}, "--steps=two"),
    ({"seed": "x"}, "--seed=x"),
    ({"stepps": "4"}, "Unknown command line flag 'stepps'"),
    ({"config": "huge"}, "there is no configuration 'huge'"),
    ({"config.stream.frames": "32"}, "a video of 32 frames does not fit the VAE: it must have 4n+1 frames"),
    ({"config.stream.motion_frames": "4"}, "a video of 4 frames does not fit the VAE"),
    ({"config.stream.motion_frames": "33"}, "motion_frames 33 must be fewer than the chunk's 33 frames"),
    ({"config.stream.buckets": "((100, 100),)"}, "height 100 is not a multiple of 16; the nearest that fits is 96"),
    ({"config.sampler.nothing": "1"}, "unknown key of the configuration: 'nothing'"),
    ({"config.runtime.dtype": "int8"}, "config.runtime.dtype must be one of"),
]  # fmt: skip


def refused(capfd, *line):
    with pytest.raises(SystemExit) as left:
        flags.run(generate.main, ["livetalk generate", *line])
    assert left.value.code == 2
    captured = capfd.readouterr()
    assert not captured.out
    return captured.err


@pytest.mark.parametrize(("changes", "part"), BAD, ids=[part for _, part in BAD])
def test_bad_input_is_one_line(folder, tmp_path, capfd, changes, part):
    before = sorted(folder.rglob("*"))
    changes = {key: value.format(folder=folder) if isinstance(value, str) else value for key, value in changes.items()}
    error = refused(capfd, *arguments(folder, **{"out": tmp_path / "out.mp4", **changes}))
    assert part in error
    assert error.startswith("livetalk generate: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("other", ["holds a dit of another configuration", "dim 5120 (not 192)", "num_layers 40 (not 6)"]),
        ("lacking", ["has no network 'dit', only vae"]),
    ],
)
def test_a_checkpoint_that_does_not_fit(folder, tmp_path, capfd, name, parts):
    """Found while networks are made: the last line says so, after those that say what was going on."""
    line = refused(capfd, *arguments(folder, tmp_path / "out.mp4", checkpoint=name)).splitlines()[-1]
    assert line.startswith("livetalk generate: ")
    for part in parts:
        assert part in line
    assert not list(tmp_path.iterdir())


def test_a_bare_argument(folder, tmp_path, capfd):
    error = refused(capfd, "portrait.png", *arguments(folder, tmp_path / "out.mp4"))
    assert error == "livetalk generate: 'portrait.png' is not a flag; see livetalk generate --help\n"


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        ([], 2, "usage: livetalk COMMAND"),
        (["--help"], 0, "generate"),
        (["generat"], 2, "there is no command 'generat'"),
        (["generate", "--help"], 0, "--image"),
        (["generate"], 2, "livetalk generate: --image is missing"),
    ],
)
def test_livetalk(monkeypatch, capfd, line, code, part):
    monkeypatch.setattr(sys, "argv", ["livetalk", *line])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code
    assert part in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("module", "extra"),
    [("tensorboard.compat", "train"), ("array_record.python", "train"), ("uvicorn", "serve"), ("torch", "convert")],
)
def test_what_an_extra_brings_is_told(monkeypatch, capsys, module, extra):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli.importlib, "import_module", absent)
    monkeypatch.setattr(sys, "argv", ["livetalk", "convert"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert f"is not installed; pip install 'livetalk-jax[{extra}]' brings it" in capsys.readouterr().err
    module = "nowhere"
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        cli.main()


@pytest.mark.parametrize(("script", "package"), [("train", "tensorboard"), ("serve", "fastapi")])
def test_scripts_tell_their_extra(script, package):
    """Before they read a flag."""
    program = f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_path('{script}.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"{script}.py: {package} is not installed; pip install 'livetalk-jax[{script}]' brings it\n"


def test_an_extra_missing_on_the_way(capsys):
    """train.py imports what reads a data set when it is given one."""

    def main(argv):
        raise ModuleNotFoundError("No module named 'grain'", name="grain")

    with pytest.raises(SystemExit) as left:
        flags.run(main, ["train.py"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "train.py: grain is not installed; pip install 'livetalk-jax[train]' brings it\n"


def test_without_the_package_a_missing_module_is_what_it_is(monkeypatch):
    """Run from a folder that was copied and never installed, nobody knows what the extras bring."""

    def nowhere(name):
        raise importlib.metadata.PackageNotFoundError(name)

    def main(argv):
        raise ModuleNotFoundError("No module named 'grain'", name="grain")

    monkeypatch.setattr(flags.importlib.metadata, "requires", nowhere)
    with pytest.raises(ModuleNotFoundError, match="grain"):
        flags.run(main, ["train.py"])


# Whole runs


@pytest.fixture(scope="module")
def livetalk():
    """Starts the command as a user does. What one run compiled, the next one finds, however small."""
    options = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PLATFORMS": "cpu"}

    def start(*line):
        command = [sys.executable, "-c", "from livetalk_jax.cli import main; main()", *line]
        pipe = subprocess.PIPE
        # A shell's background jobs, CI's among them, ignore Ctrl-C and hand that on; a user's terminal does not.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **options}, preexec_fn=heed)

    return start


@pytest.fixture(scope="module")
def good_run(livetalk, tmp_path_factory):
    """The shipped samples, cut to 1.5 s: the folder of its output, its lines, and the sound."""
    out = tmp_path_factory.mktemp("out")
    sound = media.load_audio(media.SAMPLES / "speech.flac", RATE)[: RATE * 3 // 2]
    speech, portrait = write_wav(out / "speech.wav", sound), media.SAMPLES / "portrait.png"
    process = livetalk("generate", f"--image={portrait}", f"--audio={speech}", f"--out={out / 'video.mp4'}", "--steps=2", *SMALL)
    printed, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return out, printed, errors, sound


def test_the_video_plays(good_run):
    """38 frames are the 1.5 s of speech to within one frame; its sound is what was said."""
    out, printed, errors, sound = good_run
    assert sorted(path.name for path in out.iterdir()) == ["speech.wav", "video.mp4"]
    video = media.read_video(out / "video.mp4")
    assert video.frames.shape[0] == 38
    assert video.frames.shape[1:] in ((32, 48, 3), (48, 48, 3))
    assert video.fps == 25
    assert video.frames.std() > 1
    assert video.sound.sample_rate == RATE
    assert abs(len(video.sound.samples) - len(sound)) <= RATE // 25
    heard = video.sound.samples[: len(sound)]
    assert np.corrcoef(heard, sound[: len(heard)])[0, 1] > 0.9
    assert f"{out / 'video.mp4'}: 38 frames of" in printed
    assert "real-time factor" in printed
    assert "no checkpoint given: the networks are untrained" in errors
    assert "38/38" in errors


def test_a_checkpoint_of_the_same_networks_gives_the_same_file(good_run, livetalk, tmp_path):
    """Saved, read and run again in another process: same weights, same seed, same bits."""
    config = tiny.get_config()
    config.model.dit.update(num_layers=1, dim=64, num_heads=2)
    config.model.text.num_layers = config.model.clip.num_layers = 1
    model = RunConfig.from_config_dict(config).model
    networks = random_networks(model, "float32", seed=0)._asdict()
    checkpoint.save(tmp_path / "weights", networks, {name: getattr(model, name) for name in networks}, origin="a test")
    out, *_ = good_run
    process = livetalk(
        "generate", f"--image={media.SAMPLES / 'portrait.png'}", f"--audio={out / 'speech.wav'}", f"--out={tmp_path / 'again.mp4'}",
        f"--checkpoint={tmp_path / 'weights'}", "--steps=2", *SMALL,
    )  # fmt: skip
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert "untrained" not in errors
    assert (tmp_path / "again.mp4").read_bytes() == (out / "video.mp4").read_bytes()


def test_an_interrupted_run_leaves_nothing(folder, livetalk, tmp_path):
    speech = write_wav(tmp_path / "long.wav", 0.1 * np.random.default_rng(0).standard_normal(120 * RATE))
    out = tmp_path / "out"
    out.mkdir()
    process = livetalk(
        "generate", f"--image={folder / 'portrait.png'}", f"--audio={speech}", f"--out={out / 'v.mp4'}", "--steps=2", *SMALL
    )
    try:
        deadline, errors = time.monotonic() + 600, ""
        while "frames/s" not in errors:
            assert time.monotonic() < deadline
            piece = process.stderr.read(1)
            assert piece, errors
            errors += piece
        assert [path.suffix for path in out.iterdir()] == [".mp4"], "it was not in the middle"
        assert not (out / "v.mp4").exists()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "livetalk generate: interrupted"
    assert "Traceback" not in rest
    assert not list(out.iterdir())
