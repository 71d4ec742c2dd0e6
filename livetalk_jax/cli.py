"""The command `livetalk`: one word says what to do, each word's module does it."""

import importlib
import sys

from livetalk_jax import flags

# word: (module with main(argv), what it does). Modules are imported when their word is used: JAX takes a second to import.
COMMANDS = {
    "generate": ("livetalk_jax.generate", "a portrait and speech in, a talking video out"),
    "bench": ("livetalk_jax.benchmarks.latency", "time a DiT step, the VAE and whole chunks"),
    "convert": ("livetalk_jax.conversion.__main__", "read, write and inspect published checkpoints"),
}


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: livetalk COMMAND …\n")
        for word, (_, purpose) in COMMANDS.items():
            print(f"  {word:10}{purpose}")
        print("\nlivetalk COMMAND --help tells more.")
        sys.exit(0 if arguments else 2)
    if arguments[0] not in COMMANDS:
        print(f"livetalk: there is no command {arguments[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(COMMANDS[arguments[0]][0])
    flags.run(module.main, [f"livetalk {arguments[0]}", *arguments[1:]])
