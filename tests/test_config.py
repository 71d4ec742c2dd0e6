"""Configurations become dataclasses, and all that is wrong with one is named in one line."""

import dataclasses
import importlib

import pytest
from ml_collections import ConfigDict

from livetalk_jax.config import DiTConfig, ModelConfig, RunConfig
from livetalk_jax.configs import infinitetalk_14b, soulx_14b, tiny
from livetalk_jax.flags import config_names
from livetalk_jax.shapes import Geometry
from livetalk_jax.training.config import training_config


def built(config: ConfigDict) -> RunConfig:
    return RunConfig.from_config_dict(config)


def problems(config: ConfigDict) -> str:
    with pytest.raises(ValueError) as raised:
        built(config)
    line = str(raised.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_is_whole(name):
    """Each builds, and each of its buckets is a geometry with chunks of a whole number of speech samples."""
    config = importlib.import_module(f"livetalk_jax.configs.{name}").get_config()
    config = training_config(config) if "stage" in config else built(config)
    stream = config.stream
    for height, width in stream.buckets:
        geometry = Geometry(height, width, stream.frames, stream.motion_frames)
        assert geometry.new_frames * stream.sample_rate % stream.fps == 0
    assert stream.frames <= stream.audio_context_seconds * stream.fps
    assert config.model.dit.out_channels == config.model.vae.z_dim
    assert config.model.dit.in_channels == 2 * config.model.vae.z_dim + 4
    assert config.model.dit.text_dim == config.model.text.dim
    assert config.model.dit.clip_dim == config.model.clip.dim
    assert config.model.dit.audio_channels == config.model.audio.hidden_size
    assert config.model.dit.audio_blocks == config.model.audio.num_layers


def test_their_names():
    stages = [f"stage{number}_{size}" for number in (1, 2) for size in ("14b", "1b3", "tiny")]
    assert config_names() == [
        "audio_tiny",
        "few_steps_tiny",
        "infinitetalk_14b",
        "pictures_tiny",
        "soulx_14b",
        *stages,
        "tiny",
        "vae_tiny",
    ]


@pytest.mark.parametrize(("argument", "buckets"), [("720x416", ((720, 416), (416, 720))), ("768x448", ((768, 448), (448, 768)))])
def test_soulx(argument, buckets):
    config = built(soulx_14b.get_config(argument))
    assert config.stream.buckets == buckets
    assert (config.stream.frames, config.stream.motion_frames, config.stream.fps) == (33, 5, 25)
    assert (config.sampler.method, config.sampler.steps, config.sampler.shift) == ("renoise", 4, 5.0)
    assert (config.sampler.text_guidance, config.sampler.audio_guidance) == (1.0, 1.0)
    assert config.model == ModelConfig.wan_14b()
    assert config.runtime.dtype == "bfloat16"


@pytest.mark.parametrize(("argument", "shift", "count", "square"), [("480", 7.0, 15, 640), ("720", 11.0, 21, 960)])
def test_infinitetalk(argument, shift, count, square):
    config = built(infinitetalk_14b.get_config(argument))
    assert len(config.stream.buckets) == count
    assert (square, square) in config.stream.buckets
    assert (config.stream.frames, config.stream.motion_frames) == (81, 9)
    assert (config.sampler.method, config.sampler.steps, config.sampler.shift) == ("euler", 40, shift)
    assert (config.sampler.text_guidance, config.sampler.audio_guidance) == (5.0, 4.0)


@pytest.mark.parametrize("module", [soulx_14b, infinitetalk_14b])
def test_unknown_argument(module):
    with pytest.raises(ValueError, match=r"has no size '1x1'; it has \d+.*, \d+"):
        module.get_config("1x1")


def test_tiny_is_tiny():
    config = built(tiny.get_config())
    assert config.model == ModelConfig.tiny()
    assert config.model.tokenizer == "bytes"


def test_values_arrive():
    """What a run changes is what the dataclasses hold: no key has a second copy."""
    config = tiny.get_config()
    config.model.dit.num_layers = 1
    config.stream.buckets = [[32, 48]]  # lists are tuples
    config.stream.color_strength = 0  # whole numbers are numbers
    config.sampler.apg = True
    run = built(config)
    assert run.model.dit == dataclasses.replace(DiTConfig.tiny(), num_layers=1)
    assert run.stream.buckets == ((32, 48),)
    assert type(run.stream.color_strength) is float
    assert run.sampler.apg is True
    assert run.with_steps(2).sampler == dataclasses.replace(run.sampler, steps=2)
    assert run.with_steps(2).stream == run.stream


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        built(tiny.get_config()).sampler.steps = 3


def test_unknown_key():
    config = tiny.get_config()
    config.sampler.stepps = 4
    assert problems(config).startswith("unknown key config.sampler.stepps (known: method, steps, shift, ")


def test_missing_key():
    config = tiny.get_config()
    del config.model.dit.dim
    assert problems(config) == "missing key config.model.dit.dim"


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("sampler.steps", "four", "config.sampler.steps must be int, not 'four'"),
        ("sampler.steps", 4.0, "config.sampler.steps must be int, not 4.0"),
        ("sampler.steps", True, "config.sampler.steps must be int, not True"),
        ("sampler.shift", "5", "config.sampler.shift must be float, not '5'"),
        ("sampler.shift", False, "config.sampler.shift must be float, not False"),
        ("sampler.apg", 1, "config.sampler.apg must be bool, not 1"),
        ("sampler.prompt", None, "config.sampler.prompt must be str, not None"),
        ("sampler.method", "ddim", "config.sampler.method must be one of 'renoise', 'euler', not 'ddim'"),
        ("runtime.dtype", "float16", "config.runtime.dtype must be one of 'float32', 'bfloat16', not 'float16'"),
        ("stream.buckets", 720, "config.stream.buckets must be a tuple, not 720"),
        ("stream.buckets", ((720, 416), (720,)), "config.stream.buckets[1] must have 2 entries, not (720,)"),
        ("stream.buckets", ((720, "416"),), "config.stream.buckets[0][1] must be int, not '416'"),
        ("model.vae.dim_mult", (1, 2.5), "config.model.vae.dim_mult[1] must be int, not 2.5"),
        ("stream", 3, "config.stream must be a group of keys, not 3"),
    ],
)
def test_wrong_kind(path, value, line):
    config = tiny.get_config()
    plain = config.to_dict()
    *parents, last = path.split(".")
    group = plain
    for parent in parents:
        group = group[parent]
    group[last] = value
    assert problems(ConfigDict(plain)) == line


def test_everything_wrong_is_in_one_line():
    plain = tiny.get_config().to_dict()
    plain["steps"] = 4
    del plain["stream"]["fps"]
    plain["model"]["tokenizer"] = {"name": "bytes"}
    plain["sampler"]["shift"] = "5"
    assert problems(ConfigDict(plain)).split("; ") == [
        "unknown key config.steps (known: model, stream, sampler, runtime, parallel)",
        "config.model.tokenizer must be str, not {'name': 'bytes'}",
        "missing key config.stream.fps",
        "config.sampler.shift must be float, not '5'",
    ]


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("stage1_tiny", "flow_matching.disturbed", 1.5),
        ("stage1_tiny", "flow_matching.drop_text", -0.1),
        ("stage2_tiny", "distribution_matching.cold_start", 2.0),
        ("audio_tiny", "listening.spoilt", 1.1),
    ],
)
def test_shares_are_between_0_and_1(name, path, value):
    config = importlib.import_module(f"livetalk_jax.configs.{name}").get_config()
    group, key = path.split(".")
    config[group][key] = value
    with pytest.raises(ValueError, match=rf"^config\.{group}: {key} is {value}: give shares between 0 and 1$"):
        training_config(config)


@pytest.mark.parametrize("key", ["handovers", "recyclings"])
def test_what_happens_up_to_so_often_may_happen_once(key):
    config = importlib.import_module("livetalk_jax.configs.stage1_tiny").get_config()
    config.flow_matching[key] = 0
    with pytest.raises(ValueError, match=rf"^config\.flow_matching: {key} is 0: give 1 or more$"):
        training_config(config)
