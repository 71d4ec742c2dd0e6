"""Import and export: tensors stream, one at a time, between published files and a checkpoint of this program."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from livetalk_jax import checkpoint
from livetalk_jax.checkpoint import CheckpointError, Manifest

from . import forms
from .engine import ConversionError, HasShape, Step, nbytes, published_shapes, steps
from .forms import AUDIO_MODULES
from .layouts import AUDIO_FOLDER, SHARD, Job, Published
from .sizes import NETWORKS
from .writers import FileWriter

SHARD_BYTES = 10 << 30
# InfiniteTalk's code asks for the seven shards of Wan2.1-I2V-14B by name.
WAN_SHARDS = 7
# Where a network that was not imported goes.
DEFAULT_FORMS = {"dit": "soulx", "vae": "wan", "text": "wan", "clip": "wan", "audio": "pretraining"}
# How transformers' Wav2Vec2FeatureExtractor prepares speech for this encoder.
PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 16_000,
    "padding_value": 0,
    "padding_side": "right",
    "do_normalize": True,
    "return_attention_mask": True,
}
INFINITETALK = "infinitetalk"  # key in Manifest.forms: the folder of the audio modules' own file, "single" or "multi"

Progress = Callable[[int, int], Any]  # told the bytes and the number of published tensors that are done
Files = dict[str, dict[str, HasShape]]  # file → its tensors


def import_checkpoint(found: Published, jobs: list[Job], to: Path, *, origin: str, progress: Progress) -> None:
    """Write the checkpoint `to` from published files.

    Raises:
        CheckpointError: `to` exists.
        OSError: a file cannot be read or written. Nothing is left under the name `to` then.
    """
    names = {job.network: job.form.name for job in jobs} | ({INFINITETALK: found.audio_file} if found.audio_file else {})
    manifest = Manifest(
        configurations={job.network: dataclasses.asdict(job.config) for job in jobs},
        forms=names,
        origin=origin,
        tokenizer=found.tokenizer and f"files/{found.tokenizer}",
    )
    with checkpoint.Writer(to, manifest) as writer:
        for name, file in found.files.items():
            writer.add_file(file, name)
        for job in jobs:
            for step, array in job.plan.to_ours(job.source.read):
                writer.add(job.network, step.path, array)
                progress(array.nbytes, len(step.names))
            for name in job.plan.unused:
                array = job.source.read(name)
                writer.add(f"{job.network}.unused", name, array)
                progress(array.nbytes, 1)


@dataclasses.dataclass(frozen=True)
class _Export:
    """What becomes of one network: our path → step, and the files of its published tensors."""

    steps: Mapping[str, Step]
    files: Files


def plan_export(path: Path, layout: str | None) -> dict[str, _Export]:
    """Network → what an export of the checkpoint in `path` writes.

    Args:
        layout: "soulx" writes the DiT's audio modules with the rest, "wan" into a file of their own; None: as it was imported.

    Raises:
        CheckpointError: not a checkpoint, or one that cannot be written in this layout.
        ConversionError: a parameter has no published name.
    """
    manifest = checkpoint.read_manifest(path)
    exports = {}
    for network, fields in manifest.configurations.items():
        name = manifest.forms.get(network, DEFAULT_FORMS[network])
        if network == "dit" and layout:
            if name == "diffusers":
                raise CheckpointError(f"{path} came from diffusers' layout and goes back to it; leave --layout away")
            name = layout
        form = forms.form(network, name)
        kind = type(NETWORKS[network].published)
        config = kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
        stored = checkpoint.tensors(path, network)
        found, problems = steps(form.table(config), stored)
        if problems:
            raise ConversionError(problems)
        tensors: dict[str, HasShape] = {}
        for step in found:
            shapes = published_shapes(step, stored[step.path].shape)
            tensors |= {key: jax.ShapeDtypeStruct(shape, stored[step.path].dtype) for key, shape in shapes.items()}
        tensors |= checkpoint.tensors(path, f"{network}.unused")
        exports[network] = _Export({step.path: step for step in found}, _place(network, name, tensors, manifest))
    return exports


def _place(network: str, form: str, tensors: Mapping[str, HasShape], manifest: Manifest) -> Files:
    """Names of files, as published, for the tensors of one network."""
    if network == "dit" and form in ("wan", "diffusers"):
        audio = {name: tensor for name, tensor in tensors.items() if AUDIO_MODULES.fullmatch(name)}
        rest = {name: tensor for name, tensor in tensors.items() if name not in audio}
        apart = {f"{manifest.forms.get(INFINITETALK, 'single')}/infinitetalk.safetensors": audio}
        if form == "wan":
            return _shards("diffusion_pytorch_model", rest, WAN_SHARDS) | apart
        return _shards("transformer/diffusion_pytorch_model", rest) | apart
    stem = {
        ("dit", "soulx"): "diffusion_pytorch_model",
        ("vae", "diffusers"): "vae/diffusion_pytorch_model",
        ("text", "hf"): "text_encoder/model",
        ("clip", "hf"): "image_encoder/model",
        ("clip", "hf_bare"): "image_encoder/model",
    }.get((network, form))
    if stem:
        return _shards(stem, tensors)
    file = {
        "vae": "Wan2.1_VAE.pth",
        "text": "models_t5_umt5-xxl-enc-bf16.pth",
        "clip": "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
        "audio": f"{AUDIO_FOLDER}/pytorch_model.bin",
    }[network]
    return {file: dict(tensors)}


def _shards(stem: str, tensors: Mapping[str, HasShape], count: int | None = None) -> Files:
    """Safetensors shards of about equal size: `count`, or as many as keep them below SHARD_BYTES."""
    total = sum(map(nbytes, tensors.values()))
    count = count or -(-total // SHARD_BYTES) or 1
    if count == 1:
        return {f"{stem}.safetensors": dict(tensors)}
    files: Files = {f"{stem}-{i:05d}-of-{count:05d}.safetensors": {} for i in range(1, count + 1)}
    names, done = list(files), 0
    for name, tensor in tensors.items():
        files[names[done * count // total]][name] = tensor
        done += nbytes(tensor)
    return files


def export_checkpoint(path: Path, to: Path, exports: Mapping[str, _Export], *, progress: Progress) -> None:
    """Write published files into the new folder `to`, from the checkpoint in `path`.

    Raises:
        CheckpointError: `to` exists.
        OSError: a file cannot be written. Nothing is left under the name `to` then.
    """
    to = to.absolute()
    if to.exists():
        raise CheckpointError(f"{to} exists already; give the name of a new folder, or remove it")
    temporary = to.parent / f".{to.name}.{os.getpid()}.partial"
    try:
        shutil.copytree(path / "files", temporary) if (path / "files").is_dir() else temporary.mkdir(parents=True)
        for network, export in exports.items():
            writers: dict[str, FileWriter] = {}
            for file, tensors in export.files.items():
                writers |= dict.fromkeys(tensors, FileWriter(temporary / file, tensors))
            for name, array in checkpoint.read(path, network):
                step = export.steps[name]
                for published, part in zip(step.names, step.transform.to_published(array, len(step.names)), strict=True):
                    writers[published].write(published, part)
                progress(array.nbytes, len(step.names))
            for name, array in checkpoint.read(path, f"{network}.unused"):
                writers[name].write(name, array)
                progress(array.nbytes, 1)
            _write_indices(temporary, export.files)
        _write_configs(temporary, checkpoint.read_manifest(path), exports)
        temporary.rename(to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_indices(folder: Path, files: Files) -> None:
    shards = [file for file in files if SHARD.search(file)]
    if shards:
        weight_map = {name: Path(file).name for file in shards for name in files[file]}
        total = sum(nbytes(tensor) for file in shards for tensor in files[file].values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{SHARD.sub('', shards[0])}.index.json").write_text(json.dumps(index, indent=2))


def _write_configs(folder: Path, manifest: Manifest, exports: Mapping[str, _Export]) -> None:
    """`config.json` of networks that did not bring theirs."""
    for network, place in (("dit", "config.json"), ("audio", f"{AUDIO_FOLDER}/config.json")):
        form = manifest.forms.get(network, DEFAULT_FORMS[network])
        if network in exports and form != "diffusers" and not (folder / place).exists():
            config = type(NETWORKS[network].published)(**manifest.configurations[network])
            (folder / place).write_text(json.dumps(forms.config_json(forms.form(network, form), config), indent=2))
    if "audio" in exports and not (folder / AUDIO_FOLDER / "preprocessor_config.json").exists():
        (folder / AUDIO_FOLDER / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2))
