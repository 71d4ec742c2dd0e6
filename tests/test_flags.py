"""Command lines: configurations by name, argument and path, keys overridden, and one line where that goes wrong."""

import os

import pytest
from absl import flags as absl_flags

from livetalk_jax import flags


def define(values):
    absl_flags.DEFINE_integer("number", 3, "A number.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_multi_string("word", None, "Words.", flag_values=values)


def parse(*arguments):
    return flags.parse(define, ["command", *arguments], "usage: command")


def refused(*arguments) -> str:
    with pytest.raises(flags.UsageError) as raised:
        parse(*arguments)
    line = str(raised.value)
    assert line
    assert "\n" not in line
    assert "Traceback" not in line
    return line


def test_defaults():
    values, config = parse()
    assert values.number == 3
    assert values.word is None
    assert config.stream.buckets[0] == (128, 128), "tiny is the default"


@pytest.mark.parametrize("arguments", [("--config=soulx_14b",), ("--config", "soulx_14b"), ("--number=4", "--config", "soulx_14b")])
def test_by_name(arguments):
    assert parse(*arguments)[1].stream.buckets[0] == (720, 416)


@pytest.mark.parametrize("arguments", [("--config=soulx_14b:768x448",), ("--config", "soulx_14b:768x448")])
def test_argument_after_a_colon(arguments):
    assert parse(*arguments)[1].stream.buckets == ((768, 448), (448, 768))


def test_by_path(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from livetalk_jax.configs import tiny\n"
        "def get_config(steps='4'):\n"
        "    config = tiny.get_config()\n"
        "    config.sampler.steps = int(steps)\n"
        "    return config\n"
    )
    assert parse(f"--config={mine}")[1].sampler.steps == 4
    assert parse(f"--config={mine}:2")[1].sampler.steps == 2


def test_overrides():
    arguments = (
        "--config.sampler.steps=4",
        "--config.sampler.shift=7",
        "--config.sampler.prompt=A person sings; quietly.",
        "--config.stream.buckets=((32, 48), (48, 32))",
        "--config.runtime.dtype=bfloat16",
        "--config.sampler.apg=true",
    )
    for order in (("--config=tiny", *arguments), arguments):
        _, config = parse(*order)
        assert (config.sampler.steps, config.sampler.shift, config.sampler.apg) == (4, 7.0, True)
        assert config.sampler.prompt == "A person sings; quietly."
        assert config.stream.buckets == ((32, 48), (48, 32))
        assert config.runtime.dtype == "bfloat16"


def test_one_call_leaves_nothing_for_the_next():
    assert parse("--config.sampler.steps=4", "--number=9")[1].sampler.steps == 4
    values, config = parse()
    assert (values.number, config.sampler.steps) == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--config=nothing",), ["there is no configuration 'nothing'", ", ".join(flags.config_names()), ".py"]),
        (("--config", "nothing"), ["there is no configuration 'nothing'"]),
        (("--config",), ["config"]),
        (("--config=",), ["there is no configuration ''"]),
        (("--config=/no/such/file.py",), ["there is no configuration '/no/such/file.py'"]),
        (("--config=soulx_14b:1x1",), ["soulx_14b has no size '1x1'; it has 720x416, 768x448"]),
        (("--config=tiny:large",), ["tiny.py:large", "takes 0 positional arguments"]),
        (("--config.sampler.steps=2", "--config=tiny"), ["--config.sampler.steps=2", "before a value for --config"]),
        (("--config.sampler.stepps=2",), ["unknown key of the configuration: 'stepps'", 'Did you mean "steps"']),
        (("--config.nothing.steps=2",), ["unknown key of the configuration: 'nothing'"]),
        (("--config.nothing=2",), ["unknown key of the configuration: 'nothing'"]),
        (("--config.sampler.steps.more=2",), ["unknown key of the configuration", "sampler.steps.more"]),
        (("--config.stream.buckets[9]=(32, 48)",), ["index"]),
        (("--config.sampler.steps=two",), ["config.sampler.steps", "two"]),
        (("--config.sampler.steps=",), ["config.sampler.steps"]),
        (("--config.sampler.method=ddim",), ["config.sampler.method must be one of 'renoise', 'euler', not 'ddim'"]),
        (("--config.stream.buckets=((32,),)",), ["config.stream.buckets[0] must have 2 entries"]),
        (("--config.stream.buckets=32x48",), ["config.stream.buckets"]),
        (("--config.stream=3",), ["stream"]),
        (("--numbre=4",), ["numbre"]),
        (("--number=four",), ["number", "four"]),
        (("--number=0",), ["number", "0"]),
        (("--number",), ["number"]),
        (("portrait.png",), ["'portrait.png' is not a flag; see command --help"]),
        (("--number=4", "and", "more"), ["'and' is not a flag"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes(arguments, parts):
    line = refused(*arguments)
    for part in parts:
        assert part in line


@pytest.mark.parametrize("flag", ["--help", "-h", "-help"])
def test_help(flag, capsys):
    with pytest.raises(SystemExit) as left:
        parse(flag)
    assert left.value.code == 0
    out = capsys.readouterr().out
    for part in ("usage: command", "--number", "A number.", "--config", ", ".join(flags.config_names())):
        assert part in out


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (flags.UsageError("say it so"), 2, "command: say it so"),
        (ValueError("several\n  lines"), 2, "command: several lines"),
        (FileNotFoundError("a.png does not exist"), 2, "command: a.png does not exist"),
        (FileExistsError("out holds clips already"), 2, "command: out holds clips already"),
        (FileExistsError(17, "File exists", "out"), 2, "command: out is a file where a folder is to be; give another name"),
        (KeyboardInterrupt(), 130, "command: interrupted"),
    ],
)
def test_run_ends_with_one_line(error, code, line, capsys):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as left:
        flags.run(main, ["command"])
    assert left.value.code == code
    captured = capsys.readouterr()
    assert captured.err == line + os.linesep
    assert not captured.out


def test_run_hides_no_defect():
    def main(argv):
        raise RuntimeError("a defect of ours")

    with pytest.raises(RuntimeError, match="a defect of ours"):
        flags.run(main, ["command"])
