"""train.py as a process that sends itself a signal: `python -m tests.training.killed MOMENT SIGNAL …what train.py takes`.

MOMENT: "step 3", behind that iteration; or the end of a path, "checkpoints/4", before a whole folder takes this name.
"""

import os
import signal
import sys

import train
from livetalk_jax import flags
from livetalk_jax.training.progress import Progress


def main(moment: str, name: str, *arguments: str) -> None:
    def end() -> None:
        os.kill(os.getpid(), signal.Signals[name])

    def seen(event: str, values: tuple) -> None:
        if event == "os.rename" and str(values[1]).endswith(moment):
            end()

    record = Progress.record

    def counted(self: Progress, step: int, *values) -> None:
        record(self, step, *values)
        if moment == f"step {step}":
            end()

    Progress.record = counted
    sys.addaudithook(seen)
    flags.run(train.main, ["train.py", *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
