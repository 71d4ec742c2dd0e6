"""Published checkpoints to ours and back: python -m livetalk_jax.conversion import | export | inspect.

    import  --from SOULX_FOLDER --from WAV2VEC2_FOLDER --to CHECKPOINT
    import  --from WAN_FOLDER --from INFINITETALK_FILE --from WAV2VEC2_FOLDER --lora FILE:SCALE --to CHECKPOINT
    export  --from CHECKPOINT --to FOLDER
    inspect FOLDER

Nothing is written unless every tensor is accounted for. Errors are one line, or one report of all problems, with exit code 2.
"""

import argparse
import collections
import ctypes
import importlib
import math
import pkgutil
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
from tqdm import tqdm

from livetalk_jax import checkpoint, configs
from livetalk_jax.config import ModelConfig, RunConfig

from . import layouts, transfer
from .engine import ConversionError, HasShape, nbytes
from .sizes import NETWORKS


def known_models() -> dict[str, ModelConfig]:
    """Name of a file in configs/ → its networks' sizes; those of training, which name a stage, train the same networks."""
    names = sorted(module.name for module in pkgutil.iter_modules(configs.__path__))
    files = {name: importlib.import_module(f"{configs.__name__}.{name}").get_config() for name in names}
    return {name: RunConfig.from_config_dict(file).model for name, file in files.items() if "stage" not in file}


def import_(options: argparse.Namespace) -> None:
    models = known_models()
    if options.config and options.config not in models:
        raise ValueError(f"there is no configuration {options.config!r}; there are {', '.join(models)}")
    loras = [_lora(value) for value in options.lora]
    found = layouts.recognise(options.sources)
    say(f"found {found.layout} in {', '.join(map(str, options.sources))}", *found.notes)
    jobs = layouts.make_jobs(
        layouts.survey(found, known=models.values(), chosen=models[options.config] if options.config else None, loras=loras)
    )
    total = sum(nbytes(job.source.tensors[name]) for job in jobs for name in job.source.tensors)
    _check_space(options.to, total)
    origin = "; ".join([f"{found.layout} from {', '.join(map(str, options.sources))}", *(f"LoRA {p} × {s:g}" for p, s in loras)])
    with _bar("import", total, sum(len(job.source.tensors) for job in jobs)) as bar:
        transfer.import_checkpoint(found, jobs, options.to, origin=origin, progress=bar.update)
    say(f"wrote {options.to}: {', '.join(job.network for job in jobs)}")
    for network in sorted(set(NETWORKS) - {job.network for job in jobs}):
        say(f"not in it: {network}, because no --from had it ({layouts.WHERE[network]})")


def export(options: argparse.Namespace) -> None:
    exports = transfer.plan_export(options.source, options.layout)
    tensors = [tensor for export in exports.values() for file in export.files.values() for tensor in file.values()]
    total = sum(map(nbytes, tensors))
    _check_space(options.to, total)
    with _bar("export", total, len(tensors)) as bar:
        transfer.export_checkpoint(options.source, options.to, exports, progress=bar.update)
    say(f"wrote {options.to}: {', '.join(file for export in exports.values() for file in export.files)}")


def inspect(options: argparse.Namespace) -> None:
    models = known_models()
    if len(options.sources) == 1 and (options.sources[0] / checkpoint.MANIFEST).is_file():
        return _inspect_ours(options.sources[0], models)
    found = layouts.recognise(options.sources)
    result = layouts.survey(found, known=models.values())
    print(f"layout: {found.layout}")
    for note in found.notes:
        print(f"note: {note}")
    for network, part in found.parts.items():
        fits = _fits(network, vars(result.configs[network]), models) if network in result.configs else "sizes unknown"
        print(_describe(network, part.form.name, part.source.tensors.values(), fits))
        sizes = collections.Counter()
        for tensor in part.source.tensors.values():
            sizes[tensor.file] += nbytes(tensor)
        for file, size in sorted(sizes.items()):
            print(f"    {_amount(size):>9}B  {file}")
    for network in sorted(set(NETWORKS) - set(found.parts)):
        print(f"{network}: not here ({layouts.WHERE[network]})")
    if result.problems:
        print(f"an import would fail: {ConversionError(result.problems)}")


def _inspect_ours(path: Path, models: Mapping[str, ModelConfig]) -> None:
    manifest = checkpoint.read_manifest(path)
    print("layout: a checkpoint of this program")
    print(f"origin: {manifest.origin}")
    print(f"tokenizer: {manifest.tokenizer}")
    for network, sizes in manifest.configurations.items():
        held = checkpoint.tensors(path, network)
        unused = checkpoint.tensors(path, f"{network}.unused")
        print(_describe(network, manifest.forms.get(network, "never published"), held.values(), _fits(network, sizes, models)))
        if unused:
            print(f"    and {len(unused)} published tensors that it does not use, {_amount(sum(map(nbytes, unused.values())))}B")


def _describe(network: str, form: str, tensors: Iterable[HasShape], fits: str) -> str:
    tensors = list(tensors)
    dtypes = collections.Counter(str(tensor.dtype) for tensor in tensors)
    parameters = _amount(sum(math.prod(tensor.shape) for tensor in tensors))
    spelled = ", ".join(f"{count:,} {dtype}" for dtype, count in dtypes.most_common())
    size = _amount(sum(map(nbytes, tensors)))
    return f"{network}: form {form!r}, {parameters} parameters in {len(tensors):,} tensors ({spelled}), {size}B, {fits}"


def _amount(number: int) -> str:
    """18884624448 → "18.88 G"."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.2f} {letter}"
    return f"{number} "


def _fits(network: str, sizes: Mapping, models: Mapping[str, ModelConfig]) -> str:
    """Names of the configurations with these sizes, or what differs from the nearest."""
    sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in sizes.items()}
    differing = {
        name: [f"{key} {sizes[key]} (not {size})" for key, size in vars(getattr(model, network)).items() if sizes[key] != size]
        for name, model in models.items()
    }
    if fitting := [name for name, differences in differing.items() if not differences]:
        return f"fits {', '.join(fitting)}"
    nearest = min(differing, key=lambda name: len(differing[name]))
    return f"fits no known configuration; nearest is {nearest}, with {', '.join(differing[nearest])}"


def _lora(value: str) -> tuple[Path, float]:
    file, _, scale = value.rpartition(":")
    try:
        return Path(file or "/"), float(scale)
    except ValueError:
        raise ValueError(f"--lora {value} must be FILE:SCALE, such as lora.safetensors:1.0") from None


def _check_space(to: Path, needed: int) -> None:
    folder = next(parent for parent in to.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder} has {free / 1e9:.1f} GB free, and {to} needs {needed / 1e9:.1f} GB")


class _bar:
    """A progress bar in bytes that also counts tensors."""

    def __init__(self, what: str, total: int, count: int):
        self._bar = tqdm(total=total, unit="B", unit_scale=True, desc=what)
        self._done, self._count = 0, count

    def update(self, size: int, tensors: int) -> None:
        self._done += tensors
        self._bar.set_postfix_str(f"{self._done:,} of {self._count:,} tensors", refresh=False)
        self._bar.update(size)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()


def _give_memory_back() -> None:
    """Have glibc map every block of a MiB or more, so that it goes back to the system when it is freed.

    Otherwise glibc learns from the first large arrays to keep such blocks, in an arena for each of the many threads that read and
    write: an export then holds 2 GiB more than it uses.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        m_mmap_threshold = -3  # malloc.h
        mallopt(m_mmap_threshold, 1 << 20)


def say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def run(arguments: list[str], program: str = "python -m livetalk_jax.conversion") -> int:
    """Do what the arguments say; the exit code."""
    parser = argparse.ArgumentParser(program, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("import", help="published files → a checkpoint of this program")
    command.add_argument(
        "--from", dest="sources", type=Path, action="append", required=True, help="folder or file; may be repeated"
    )
    command.add_argument("--to", type=Path, required=True, help="new folder")
    command.add_argument("--lora", action="append", default=[], metavar="FILE:SCALE", help="merge a LoRA file; may be repeated")
    command.add_argument(
        "--config", help="the file of configs/ whose sizes the checkpoint must have; told from the files without it"
    )
    command.set_defaults(run=import_)
    command = commands.add_parser("export", help="a checkpoint of this program → published names and files")
    command.add_argument("--from", dest="source", type=Path, required=True, help="folder of a checkpoint")
    command.add_argument("--to", type=Path, required=True, help="new folder")
    command.add_argument("--layout", choices=("soulx", "wan"), help="audio modules with the rest, or in a file of their own")
    command.set_defaults(run=export)
    command = commands.add_parser("inspect", help="say what folders or files hold")
    command.add_argument("sources", type=Path, nargs="+", metavar="FOLDER")
    command.set_defaults(run=inspect)
    options = parser.parse_args(arguments)
    _give_memory_back()
    jax.config.update("jax_platforms", "cpu")  # nothing here needs an accelerator, and it may be in use
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return 130
    return 0


def main(argv: list[str]) -> None:
    """The command `livetalk convert`: the program's name, then its arguments."""
    if code := run(argv[1:], argv[0]):
        sys.exit(code)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
