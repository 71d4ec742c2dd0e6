"""Make the checkpoint that is shipped, and its card, of a finished training folder.

    python tools/pack_small_model.py --from out/small [--checkpoint out/small/pictures/student] [--to livetalk_jax/checkpoints/tiny]

`--from` is the folder of tools/train_small.sh: its times.txt says how long each part took and on what, its results.json what
tools/check_small_model.py measured. Weights become bfloat16. The folder must not hold more than 16 MiB.
"""

import argparse
import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp

from livetalk_jax import checkpoint
from livetalk_jax.config import ModelConfig
from livetalk_jax.stream.networks import load_network

LIMIT = 16 * 2**20

CARD = """# tiny: a small talking person

The default checkpoint of this program: five networks of the published architecture at a small size, trained from nothing by
`tools/train_small.sh` on pictures that a program drew and speech that espeak-ng spoke. Nobody in it exists, no published weights
are in it, and it stands under this project's licence.

| network | parameters | trained |
|---|---|---|
{networks}

## Data
`livetalk data procedural` (docs/procedural.md): {clips} clips of five chunks (5.8 s) at 128×128, seeds {seeds}, train split. The test
split's persons, voices and lines are others; all numbers below are of it.

## Training
{times}

Commands and every setting: `tools/train_small.sh`, `configs/vae_tiny.py`, `audio_tiny.py`, `stage1_tiny.py`, `few_steps_tiny.py`,
`pictures_tiny.py`; seed 0. A run that is cut by minutes ends at another step on another machine; `--config.loop.steps` gives the
numbers of steps above.

## Numbers
Of {measured}. "teacher" is stage 1 with 40 guided steps, "tiny" what is packed in 2 and 4 steps, "stage2" a student of stage 2.

{results}

## What it does not do
- It has seen one style of drawn faces from the front. A photograph is carried along badly.
- The text encoder and the image encoder are not trained: they turn prompt and portrait into fixed random features. Prompts change
  nothing that was meant; the portrait is seen through its latents.
- Voices were one synthesiser's, filtered and with noise; how real voices fare is in docs/small_model.md.
- One person, 128×128. A second speaker was never trained.
"""


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def times_table(run: Path) -> str:
    """Lines of times.txt are "part seconds device"; the steps done are the name of the last checkpoint."""
    rows = ["| part | steps | minutes | on |", "|---|---|---|---|"]
    for line in (run / "times.txt").read_text().splitlines():
        part, seconds, device = line.split(maxsplit=2)
        numbers = [int(folder.name) for folder in (run / part / "checkpoints").glob("*") if folder.name.isdigit()]
        rows.append(f"| {part} | {max(numbers, default='')} | {float(seconds) / 60:.1f} | {device} |")
    return "\n".join(rows)


def results_table(results: dict[str, dict]) -> str:
    columns = list(results)
    rows = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(name for values in results.values() for name in values):
        cells = [results[column].get(name, "") for column in columns]
        rows.append(f"| {name.replace('_', ' ')} | {' | '.join(f'{c:.3g}' if isinstance(c, float) else str(c) for c in cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="run", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--to", type=Path, default=checkpoint.SHIPPED / "tiny")
    given = parser.parse_args()
    source = given.checkpoint or given.run / "pictures/student"
    model = ModelConfig.tiny()
    names = [field.name for field in dataclasses.fields(model) if field.name != "tokenizer"]
    networks = {name: load_network(model, name, jnp.bfloat16, source) for name in names}
    new = given.to.with_name(given.to.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    checkpoint.save(new, networks, {name: getattr(model, name) for name in names}, origin="trained by tools/train_small.sh")
    if size(new) > LIMIT:
        sys.exit(f"{new} has {size(new) / 2**20:.1f} MiB; 16 is the most that is shipped")

    counts = {name: sum(math.prod(t.shape) for t in checkpoint.tensors(new, name).values()) for name in names}
    trained = {"dit": "stage 1, in the end at four steps and by pictures", "vae": "reconstruction", "audio": "mouths from speech"}
    clips = sorted((given.run / "clips").glob("*/clips.json"), key=lambda path: int(path.parent.name))
    made = [json.loads(path.read_text()) for path in clips]
    results = given.run / "results.json"
    card = CARD.format(
        networks="\n".join(f"| {name} | {count:,} | {trained.get(name, 'no, random')} |" for name, count in counts.items()),
        clips=sum(part["count"] for part in made),
        seeds=", ".join(str(part["seed"]) for part in made),
        times=times_table(given.run),
        measured="tools/check_small_model.py",
        results=results_table(json.loads(results.read_text())) if results.exists() else "Not measured yet.",
    )
    (new / "README.md").write_text(card)
    shutil.rmtree(given.to, ignore_errors=True)
    new.rename(given.to)
    print(f"{given.to}: {size(given.to) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
