"""The command `livetalk`: one word says what to do, each word's module does it."""

import importlib
import sys

from livetalk_jax import flags

# words: (module with main(argv), what it does). Modules are imported when their words are used: JAX takes a second to import.
COMMANDS = {
    "generate": ("livetalk_jax.generate", "a portrait and speech in, a talking video out"),
    "quantize": ("livetalk_jax.quantize", "a checkpoint with the transformer's large matrices in 8 bits"),
    "bench latency": ("livetalk_jax.benchmarks.latency", "time a DiT step, the VAE and whole chunks"),
    "bench sharding": ("livetalk_jax.benchmarks.sharding", "compare the ways of spreading one model over devices"),
    "bench kernels": (
        "livetalk_jax.benchmarks.kernels",
        "check and time attention, linear layers and norms beside other libraries'",
    ),
    "bench training": ("livetalk_jax.benchmarks.training", "time the training stages and their programs"),
    "bench memory": ("livetalk_jax.benchmarks.memory", "what training needs on GPUs that need not be there"),
    "bench serving": ("livetalk_jax.serving.bench", "measure a running server as its clients see it, or soak it"),
    "data prepare": ("livetalk_jax.data.prepare", "a data set in, cached features for training out"),
    "data procedural": ("livetalk_jax.data.procedural.command", "draw people who talk, with the truth of every frame"),
    "data encode": ("livetalk_jax.data.procedural.encode", "drawn clips in, features for training the small model out"),
    "evaluate": ("livetalk_jax.evaluation.command", "score talking persons, finished or made for it, and report"),
    "route": ("livetalk_jax.serving.router", "one address before several servers"),
    "convert": ("livetalk_jax.conversion.__main__", "read, write and inspect published checkpoints"),
}


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: livetalk COMMAND …\n")
        for words, (_, purpose) in COMMANDS.items():
            print(f"  {words:16}{purpose}")
        print("\nlivetalk COMMAND --help tells more.")
        sys.exit(0 if arguments else 2)
    for count in (1, 2):
        words = " ".join(arguments[:count])
        if words in COMMANDS:
            command = f"livetalk {words}"
            with flags.failures(command):
                importlib.import_module(COMMANDS[words][0]).main([command, *arguments[count:]])
            return
    print(f"livetalk: there is no command {' '.join(arguments[:2])!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
    sys.exit(2)
