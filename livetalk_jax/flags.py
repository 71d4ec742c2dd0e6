"""Command lines of the project: absl flags with a configuration that any key of can be overridden, and errors of one line.

--config tiny                       a file of configs/, by name
--config soulx_14b:768x448          the part after the colon is get_config's argument
--config path/to/mine.py            a file of your own
--config.sampler.steps=2            any key of it; an unknown key is an error
"""

import contextlib
import datetime
import importlib.metadata
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TypeVar, overload

from absl import flags
from ml_collections import ConfigDict, config_flags

from livetalk_jax.config import RunConfig

T = TypeVar("T")


class UsageError(ValueError):
    """Something is wrong with what the user gave; the message is one line that says what would be right."""


def config_names() -> list[str]:
    return sorted(
        f.name[:-3] for f in resources.files("livetalk_jax.configs").iterdir() if f.name.endswith(".py") and f.name[0] != "_"
    )


def config_path(value: str) -> str:
    """A configuration's name or path, with an argument behind a colon or not, as config_flags takes it."""
    name, colon, argument = value.partition(":")
    if name in config_names():
        name = str(resources.files("livetalk_jax.configs") / f"{name}.py")
    elif not Path(name).is_file():
        raise UsageError(f"there is no configuration {name!r}: give one of {', '.join(config_names())}, or the path of a .py file")
    return name + colon + argument


@overload
def parse(define: Callable[[flags.FlagValues], None], argv: list[str], usage: str) -> tuple[flags.FlagValues, RunConfig]: ...


@overload
def parse(
    define: Callable[[flags.FlagValues], None], argv: list[str], usage: str, build: Callable[[ConfigDict], T]
) -> tuple[flags.FlagValues, T]: ...


def parse(define, argv, usage, build=RunConfig.from_config_dict):
    """Flags and configuration of a command.

    Args:
        define: adds the command's own flags to the given FlagValues.
        argv: the command's name, then its arguments.
        usage: the first line of the help.
        build: makes the configuration of the file's ConfigDict.

    Raises:
        UsageError: unknown flags or keys, values that do not fit, arguments that are no flags.
    """
    values = flags.FlagValues()
    define(values)
    argv = [argv[0], *_with_config_path(argv[1:])]
    if not any(a == "--config" or a.startswith("--config=") for a in argv):
        argv.insert(1, "--config=" + config_path("tiny"))
    config_flags.DEFINE_config_file(
        "config", None, "Name or path of a configuration; --config.key=value overrides a key of it.", values, sys_argv=argv
    )
    if {"--help", "-h", "-help"} & set(argv):
        print(f"{usage}\n{values.get_help()}\n\nConfigurations: {', '.join(config_names())}")
        sys.exit(0)
    try:
        rest = values(argv)[1:]
        if rest:
            raise UsageError(f"{rest[0]!r} is not a flag; see {argv[0]} --help")
        return values, build(values.config)
    except UsageError:
        raise
    except (flags.Error, OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise UsageError(_explanation(error)) from error


def _explanation(error: Exception) -> str:
    """What an exception of absl or ml_collections says, on one line."""
    if error.args and isinstance(error.args[0], KeyError):
        error = error.args[0]
    if isinstance(error, KeyError):
        return f"unknown key of the configuration: {' '.join(str(error.args[0]).split())}"
    lines = str(error).strip().splitlines()
    # ml_collections puts the whole traceback of a configuration file between what happened and why.
    return " ".join(" ".join([lines[0], lines[-1]] if "Traceback (most recent call last):" in lines else lines).split())


def _with_config_path(arguments: list[str]) -> list[str]:
    result = list(arguments)
    for i, argument in enumerate(result):
        if argument.startswith("--config="):
            result[i] = "--config=" + config_path(argument.removeprefix("--config="))
        elif argument == "--config" and i + 1 < len(result):
            result[i + 1] = config_path(result[i + 1])
    return result


def invocation(argv: list[str]) -> dict[str, str]:
    """The command line and the day, as they are written beside what was measured."""
    return {"command": " ".join(map(shlex.quote, argv[0].split() + argv[1:])), "date": datetime.date.today().isoformat()}


@contextlib.contextmanager
def failures(command: str) -> Iterator[None]:
    """What the user can mend ends as one line on standard error and exit code 2: wrong input, and an extra that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(_fail(f"{command}: {_missing(error)}"))
    except (UsageError, ValueError, OSError) as error:
        sys.exit(_fail(f"{command}: {_told(error)}"))
    except KeyboardInterrupt:
        sys.exit(_fail(f"{command}: interrupted", 130))


def run(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Run a command, its failures told in one line."""
    with failures(argv[0]):
        main(argv)


def _told(error: Exception) -> str:
    if isinstance(error, FileExistsError) and error.filename:  # of mkdir, which says what is there and not what would be right
        return f"{error.filename} is a file where a folder is to be; give another name"
    return " ".join(str(error).split())


def _missing(error: ModuleNotFoundError) -> str:
    """What to install for a module that is not there; raises `error` again where no extra of this package brings it."""
    package = (error.name or "").partition(".")[0].replace("_", "-")
    try:
        requirements = importlib.metadata.requires("livetalk-jax") or ()
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        raise error from None
    for requirement in requirements:
        found = re.match(r"([\w-]+).*; extra == [\"'](\w+)[\"']", requirement)
        if found and found[1] == package:
            return f"{package} is not installed; pip install 'livetalk-jax[{found[2]}]' brings it"
    raise error


def _fail(line: str, code: int = 2) -> int:
    print(line, file=sys.stderr)
    return code
