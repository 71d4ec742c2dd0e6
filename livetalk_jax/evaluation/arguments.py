"""Command lines of `livetalk evaluate` beside those that need a configuration."""

import sys
from collections.abc import Callable

from absl import flags as absl_flags

from livetalk_jax.flags import UsageError


def parse_plain(
    define: Callable[[absl_flags.FlagValues], None], argv: list[str], usage: str
) -> tuple[absl_flags.FlagValues, list[str]]:
    """Flags and the arguments that are none.

    Args:
        define: adds the flags to the given FlagValues.
        argv: the command's name, then its arguments.

    Raises:
        UsageError: unknown flags, values that do not fit.
    """
    values = absl_flags.FlagValues()
    define(values)
    if {"--help", "-h", "-help"} & set(argv):
        print(f"{usage}\n{values.get_help()}")
        sys.exit(0)
    try:
        rest = values(argv)[1:]
    except absl_flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from error
    return values, rest
