"""Folders of published checkpoints: what is in them, and the plan of each network.

A folder is searched for weight files, which are told apart by the names of their tensors, never by their own: Wan2.1-I2V-14B,
InfiniteTalk's audio weights, SoulX-FlashTalk-14B, chinese-wav2vec2-base, and diffusers' layout of Wan2.1.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import forms
from .engine import ConversionError, Plan, Problem, make_plan
from .forms import AUDIO_MODULES, Form, abstract_parameters
from .lora import WithLoRA, aliases
from .sizes import NETWORKS
from .sources import Merged, Source, open_file

AUDIO_FOLDER = "chinese-wav2vec2-base"
# Folders that may hold weights beside a checkpoint's own: diffusers' parts, InfiniteTalk's two, and where an export puts wav2vec2.
WEIGHT_FOLDERS = ("", "transformer", "vae", "text_encoder", "image_encoder", "single", "multi", AUDIO_FOLDER)
# Small files beside weights; they are carried along, with those of the tokenizers' folders.
SMALL_FOLDERS = ("tokenizer", "image_processor", "scheduler", "google/umt5-xxl", "xlm-roberta-large")
SMALL_SUFFIXES = (".json", ".model", ".txt", ".jinja")
TOKENIZERS = ("google/umt5-xxl", "tokenizer")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")

WHERE = {
    "dit": "diffusion_pytorch_model*.safetensors of SoulX-FlashTalk-14B or Wan2.1-I2V-14B, or the transformer folder of diffusers",
    "vae": "Wan2.1_VAE.pth, or the vae folder of diffusers",
    "text": "models_t5_umt5-xxl-enc-bf16.pth, or the text_encoder folder of diffusers",
    "clip": "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth, or the image_encoder folder of diffusers",
    "audio": "the folder chinese-wav2vec2-base",
}


@dataclasses.dataclass
class Part:
    """The tensors of one network: their form, and the `config.json` beside them."""

    form: Form
    source: Source
    config_json: Mapping[str, Any] | None

    @property
    def files(self) -> list[Path]:
        return sorted({tensor.file for tensor in self.source.tensors.values()})


@dataclasses.dataclass
class Published:
    """What a list of folders and files holds.

    Attributes:
        parts: network → its tensors.
        audio_file: "single" or "multi", where InfiniteTalk's audio modules came in a file of their own.
        files: place in an export → small file.
        notes: what a person should know.
        problems: what is wrong with the files.
    """

    parts: dict[str, Part] = dataclasses.field(default_factory=dict)
    audio_file: str | None = None
    files: dict[str, Path] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    problems: list[Problem] = dataclasses.field(default_factory=list)

    @property
    def layout(self) -> str:
        dit = self.parts.get("dit")
        if dit is None:
            return " and ".join(f"{network} alone" for network in self.parts) or "no known layout"
        base = {"soulx": "SoulX-FlashTalk-14B", "wan": "Wan2.1-I2V-14B", "diffusers": "Wan2.1-I2V-14B in diffusers' layout"}
        return base[dit.form.name] + (f" with InfiniteTalk's audio weights ({self.audio_file})" if self.audio_file else "")

    @property
    def tokenizer(self) -> str | None:
        return next((folder for folder in TOKENIZERS if any(name.startswith(f"{folder}/") for name in self.files)), None)


@dataclasses.dataclass(frozen=True)
class Job:
    """One network, ready to be converted."""

    network: str
    form: Form
    config: Any
    plan: Plan
    source: Source


@dataclasses.dataclass
class Survey:
    """What would be converted: the configuration of every network that tells it, the jobs, and all that stands in the way."""

    configs: dict[str, Any]
    jobs: list[Job]
    problems: list[Problem]


def recognise(paths: Sequence[Path]) -> Published:
    """Find the parts of a checkpoint in folders and files. Nothing but headers is read.

    Raises:
        OSError: a path does not exist, or a file cannot be read.
    """
    found = Published()
    audio: list[tuple[Path, Source]] = []
    for path in paths:
        if not path.exists():
            raise OSError(f"there is no file or folder {path}")
        folders = [path / name for name in WEIGHT_FOLDERS if (path / name).is_dir()] if path.is_dir() else [path.parent]
        own: set[str] = set()
        for folder in folders:
            candidates = _weight_files(folder, found) if path.is_dir() else [path]
            for files in _groups(candidates):
                source = Merged(map(open_file, files))
                form = forms.recognise(source.tensors)
                if form:
                    own.add(form.network)
                    _add_part(found, Part(form, source, _read_json(folder / "config.json")))
                elif any(map(AUDIO_MODULES.fullmatch, source.tensors)):
                    audio.append((files[0], source))
                else:
                    example = next(iter(source.tensors), "none")
                    found.problems.append(Problem("no known network in the file", str(files[0]), f"tensors such as {example}"))
        if path.is_dir() and own:
            _carry(found, path, AUDIO_FOLDER if own == {"audio"} else "")
    _merge_audio(found, audio)
    if not found.parts and not found.problems:
        found.problems.append(Problem("no weights of a known layout in", ", ".join(map(str, paths)), "; ".join(WHERE.values())))
    return found


def _weight_files(folder: Path, found: Published) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".pth", ".bin") and file.is_file())
    if any(re.match(r"model[.-].*safetensors", file.name) for file in files):
        # Hugging Face repositories may hold one model twice; transformers, too, takes the safetensors.
        twice = [file for file in files if re.match(r"pytorch_model[.-].*bin", file.name)]
        found.notes += [f"{file} is left aside: model.safetensors beside it is the same model" for file in twice]
        files = [file for file in files if file not in twice]
    for index in folder.glob("*.index.json"):
        listed = set((_read_json(index) or {}).get("weight_map", {}).values())
        missing = sorted(listed - {file.name for file in files})
        if len(missing) < len(listed):
            found.problems += [Problem("missing file", str(folder / name), f"listed in {index.name}") for name in missing]
    return files


def _groups(files: Iterable[Path]) -> list[list[Path]]:
    """Files that are shards of one."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(SHARD.sub("", file.name), []).append(file)
    return list(groups.values())


def _add_part(found: Published, part: Part) -> None:
    network = part.form.network
    if network in found.parts:
        first, second = found.parts[network].files[0], part.files[0]
        found.problems.append(Problem("two sources for the network", network, f"{first} and {second}; give one of them"))
        return
    found.parts[network] = part
    for shards in _groups(part.files):
        numbers = [match for file in shards if (match := SHARD.search(file.name))]
        if numbers:
            present = {int(match[1]) for match in numbers}
            total = int(numbers[0][2])
            known = {problem.name for problem in found.problems}
            for number in sorted(set(range(1, total + 1)) - present):
                name = str(shards[0].with_name(SHARD.sub(f"-{number:05d}-of-{total:05d}", shards[0].name)))
                if name not in known:
                    found.problems.append(Problem("missing file", name, f"one of {total} shards"))


def _merge_audio(found: Published, audio: list[tuple[Path, Source]]) -> None:
    """InfiniteTalk's audio modules over the base model, as the published code loads them."""
    if len(audio) > 1:
        files = " and ".join(str(file) for file, _ in audio)
        found.problems.append(Problem("two sources for InfiniteTalk's audio weights", files, "give one of the files"))
    if not audio:
        return
    file, source = audio[0]
    dit = found.parts.get("dit")
    if dit is None:
        found.problems.append(Problem("missing network: what InfiniteTalk's audio weights belong to", "dit", WHERE["dit"]))
        return
    dit.source = Merged([dit.source, source], later_wins=AUDIO_MODULES)
    if dit.source.replaced:
        found.notes.append(f"{len(dit.source.replaced)} audio tensors of {file} replace those of {dit.files[0].parent}")
    found.audio_file = "multi" if file.parent.name == "multi" else "single"


def _carry(found: Published, root: Path, place: str) -> None:
    folders = [root / name for name in (*WEIGHT_FOLDERS, *SMALL_FOLDERS) if (root / name).is_dir()]
    for file in sorted(file for folder in folders for file in folder.iterdir()):
        name = (Path(place) / file.relative_to(root)).as_posix()
        if file.is_file() and file.suffix in SMALL_SUFFIXES and not file.name.endswith(".index.json") and name not in found.files:
            found.files[name] = file


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError:
        raise OSError(f"{path} is not JSON") from None


def survey(
    found: Published,
    *,
    known: Iterable[Any],
    chosen: Any | None = None,
    loras: Sequence[tuple[Path, float]] = (),
) -> Survey:
    """Compare all networks found with ours.

    Args:
        found: of `recognise`.
        known: ModelConfigs that may supply sizes that the files do not tell.
        chosen: the ModelConfig that the user demands.
        loras: LoRA files for the DiT, with their scales.

    Raises:
        OSError: a LoRA file cannot be read.
    """
    known = list(known)
    result = Survey({}, [], list(found.problems))
    for network, part in sorted(found.parts.items()):  # "audio" comes first: it tells sizes of the DiT
        plain = network == "dit" and not any(map(AUDIO_MODULES.fullmatch, part.source.tensors))
        config, wrong = forms.configuration(
            part.form,
            part.source.tensors,
            part.config_json,
            chosen and getattr(chosen, network),
            [getattr(model, network) for model in known],
            _audio_sizes(result.configs.get("audio"), plain) if network == "dit" else {},
        )
        result.problems += wrong
        if plain:
            where = part.files[0].parent
            name = "single/infinitetalk.safetensors or multi/infinitetalk.safetensors"
            detail = f"{where} is Wan2.1 without audio; give InfiniteTalk's weights (MeiGen-AI/InfiniteTalk) by another --from"
            result.problems.append(Problem("missing file", name, detail))
        if config is not None:
            result.configs[network] = config
            _plan(result, network, part, config, loras if network == "dit" else (), plain)
    if loras and "dit" not in found.parts:
        result.problems.append(Problem("missing network: what the LoRA files belong to", "dit", WHERE["dit"]))
    return result


def _plan(result: Survey, network: str, part: Part, config: Any, loras: Sequence[tuple[Path, float]], plain: bool) -> None:
    ours = abstract_parameters(network, config)
    source, table = part.source, part.form.table(config)
    if loras:
        others = [form.table(config) for form in forms.FORMS if form.network == network]
        source = WithLoRA(source, loras, aliases(table, others, list(ours)))
        result.problems += source.problems
    try:
        plan = make_plan(table, ours, source.tensors, getattr(source, "duplicates", None))
        result.jobs.append(Job(network, part.form, config, plan, source))
    except ConversionError as error:
        # One line says that InfiniteTalk's file is missing; the tensors in it are not listed as well.
        result.problems += [
            p for p in error.problems if not (plain and p.what == "missing tensor" and AUDIO_MODULES.fullmatch(p.name))
        ]


def _audio_sizes(audio: Any | None, plain: bool) -> dict[str, Any]:
    """Sizes of the DiT that only wav2vec2 tells; of a DiT without audio the published ones, so that all else can be compared."""
    if plain:
        published = NETWORKS["dit"].published
        return {field: getattr(published, field) for field in vars(published) if field.startswith("audio_")}
    return {"audio_blocks": audio.num_layers, "audio_channels": audio.hidden_size} if audio else {}


def make_jobs(result: Survey) -> list[Job]:
    """The jobs of a survey that met no problem.

    Raises:
        ConversionError: all problems.
    """
    if result.problems:
        raise ConversionError(result.problems)
    return result.jobs
