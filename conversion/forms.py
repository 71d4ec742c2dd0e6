"""The forms that published networks come in: how each is recognised, its table, and how its sizes are told.

A form is one way of naming a network's tensors. Sizes come from `config.json` where the form has one; the rest is read off the
tensors' shapes, mapped to our names first so that one reading serves every form. What neither says (a number of heads, an epsilon)
is taken from the known configuration that agrees with all that is said, and is an error where there is none.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from livetalk_jax import config as sizes
from livetalk_jax.models.clip_vision import CLIPVision
from livetalk_jax.models.dit import DiT
from livetalk_jax.models.umt5 import UMT5Encoder
from livetalk_jax.models.vae import VAE
from livetalk_jax.models.wav2vec2 import Wav2Vec2
from livetalk_jax.shapes import PATCH, VAE_STRIDE

from . import clip_vision, dit, umt5, vae, wav2vec2
from .engine import HasShape, Problem, Table, parameters, pattern_of
from .table import Rule

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Network:
    """One of our networks: its class, its published configuration, and what its parameters' shapes tell of a configuration."""

    make: Callable[..., nnx.Module]
    published: Any
    read: Callable[[Shapes], dict[str, Any]]


# InfiniteTalk's part of the DiT, in the names of every form.
AUDIO_MODULES = re.compile(r"audio_proj\..+|blocks\.\d+\.(audio_cross_attn|norm_x)\..+")


@dataclasses.dataclass(frozen=True)
class Form:
    """One way of naming the tensors of a network.

    Attributes:
        network: key of `NETWORKS`.
        name: what a checkpoint's manifest calls it.
        marker: pattern that most tensors of such a file, and few of any other, begin with.
        table: configuration → table.
        fields: our configuration's field → key in `config.json`, where such a file has one.
        constants: what else that `config.json` says, or implies.
    """

    network: str
    name: str
    marker: str
    table: Callable[[Any], Table]
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _same(*names: str, **others: str) -> dict[str, str]:
    return {name: name for name in names} | others


_WAN_DIT = dict(
    network="dit",
    table=lambda config: dit.TABLE,
    fields=_same(
        "dim", "ffn_dim", "num_heads", "num_layers", "freq_dim", "text_dim", "text_len", "eps", "audio_window",
        in_channels="in_dim", out_channels="out_dim", audio_intermediate_dim="intermediate_dim", audio_output_dim="output_dim",
        audio_context_tokens="context_tokens",
    ),
    constants=dict(_class_name="WanModel", model_type="i2v"),
)  # fmt: skip
_CLIP_HF = dict(
    network="clip",
    fields=dict(
        image_size="image_size", patch_size="patch_size", dim="hidden_size", num_heads="num_attention_heads",
        num_layers="num_hidden_layers", eps="layer_norm_eps",
    ),
)  # fmt: skip
_WAV2VEC2 = dict(
    network="audio",
    fields=dict(
        hidden_size="hidden_size", num_layers="num_hidden_layers", num_heads="num_attention_heads",
        intermediate_size="intermediate_size", pos_conv_kernel="num_conv_pos_embeddings",
        pos_conv_groups="num_conv_pos_embedding_groups", eps="layer_norm_eps",
    ),
    constants=dict(
        model_type="wav2vec2", hidden_act="gelu", feat_extract_norm="group", feat_extract_activation="gelu", conv_bias=False,
        do_stable_layer_norm=False, num_feat_extract_layers=len(sizes.Wav2Vec2Config.CONV_KERNELS),
        conv_kernel=list(sizes.Wav2Vec2Config.CONV_KERNELS), conv_stride=list(sizes.Wav2Vec2Config.CONV_STRIDES),
    ),
)  # fmt: skip
_GROWN = wav2vec2.PARAMETRIZED_WEIGHT_NORM

FORMS = (
    Form(name="soulx", marker=r"blocks\.\d+\.(self|cross)_attn\.", **_WAN_DIT),  # all in one
    Form(name="wan", marker=r"blocks\.\d+\.(self|cross)_attn\.", **_WAN_DIT),  # audio modules in a file of their own
    Form(
        "dit", "diffusers", r"blocks\.\d+\.attn[12]\.", lambda config: dit.DIFFUSERS_TABLE,
        _same(
            "ffn_dim", "num_layers", "freq_dim", "text_dim", "eps", "in_channels", "out_channels",
            num_heads="num_attention_heads", clip_dim="image_dim",
        ),
    ),
    Form("vae", "wan", r"(encoder\.downsamples|decoder\.upsamples)\.", lambda config: vae.TABLE),
    Form(
        "vae", "diffusers", r"(encoder\.down_blocks|decoder\.up_blocks)\.", vae.diffusers_table,
        _same(
            "z_dim", "dim_mult", "num_res_blocks",
            dim="base_dim", temporal_downsample="temperal_downsample", latent_mean="latents_mean", latent_std="latents_std",
        ),
    ),
    Form("text", "wan", r"blocks\.\d+\.(attn|pos_embedding)\.", lambda config: umt5.TABLE),
    Form(
        "text", "hf", r"encoder\.block\.\d+\.", lambda config: umt5.HF_TABLE,
        dict(
            vocab_size="vocab_size", dim="d_model", dim_ffn="d_ff", num_heads="num_heads", num_layers="num_layers",
            num_buckets="relative_attention_num_buckets",
        ),
    ),
    Form("clip", "wan", r"visual\.transformer\.", clip_vision.table),
    Form(name="hf", marker=r"vision_model\.encoder\.layers\.", table=clip_vision.hf_table, **_CLIP_HF),
    Form(
        name="hf_bare", marker=r"encoder\.layers\.\d+\.self_attn\.",
        table=lambda config: clip_vision.hf_table(config, ""), **_CLIP_HF,
    ),
    Form(name="pretraining", marker=r"wav2vec2\.encoder\.layers\.", table=lambda config: wav2vec2.TABLE, **_WAV2VEC2),
    Form(
        name="pretraining_parametrized", marker=r"wav2vec2\.encoder\.layers\.",
        table=lambda config: wav2vec2.PARAMETRIZED_TABLE, **_WAV2VEC2,
    ),
    Form(
        name="encoder", marker=r"encoder\.layers\.\d+\.attention\.",
        table=lambda config: wav2vec2.table("", wav2vec2.WEIGHT_NORM), **_WAV2VEC2,
    ),
    Form(
        name="encoder_parametrized", marker=r"encoder\.layers\.\d+\.attention\.",
        table=lambda config: wav2vec2.table("", _GROWN), **_WAV2VEC2,
    ),
)  # fmt: skip


_WAN = sizes.ModelConfig.wan_14b()


def _size(shapes: Shapes, path: str, axis: int) -> int | None:
    return shapes[path][axis] if path in shapes else None


def _count(shapes: Shapes, prefix: str) -> int | None:
    """One more than the highest number behind `prefix`."""
    numbers = [int(match[1]) for path in shapes if (match := re.match(re.escape(prefix) + r"(\d+)\.", path))]
    return max(numbers) + 1 if numbers else None


def _read_dit(shapes: Shapes) -> dict[str, Any]:
    patch = math.prod(PATCH)
    patched, head, tokens = (
        _size(shapes, path, axis)
        for path, axis in (("patch_embedding.kernel", 0), ("head.head.kernel", 1), ("audio_proj.proj3.bias", 0))
    )
    out = _size(shapes, "audio_proj.norm.scale", 0)
    # The first frame sees a window of audio frames, a later latent frame VAE_STRIDE - 1 more, each wav2vec2's layers × channels.
    first, later = _size(shapes, "audio_proj.proj1.kernel", 0), _size(shapes, "audio_proj.proj1_vf.kernel", 0)
    frame = (later - first) // (VAE_STRIDE[0] - 1) if first and later else None
    base = frame == _WAN.audio.num_layers * _WAN.audio.hidden_size
    return {
        "dim": _size(shapes, "patch_embedding.kernel", 1),
        "ffn_dim": _size(shapes, "blocks.layers.0.ffn.fc1.kernel", 1),
        "num_layers": _count(shapes, "blocks.layers."),
        "freq_dim": _size(shapes, "time_embedding.fc1.kernel", 0),
        "text_dim": _size(shapes, "text_embedding.fc1.kernel", 0),
        "clip_dim": _size(shapes, "img_emb.norm_in.scale", 0),
        "in_channels": patched and patched // patch,
        "out_channels": head and head // patch,
        "audio_window": first // frame if frame else None,
        "audio_blocks": _WAN.audio.num_layers if base else None,
        "audio_channels": _WAN.audio.hidden_size if base else None,
        "audio_intermediate_dim": _size(shapes, "audio_proj.proj2.kernel", 0),
        "audio_output_dim": out,
        "audio_context_tokens": tokens and out and tokens // out,
    }


def _read_vae(shapes: Shapes) -> dict[str, Any]:
    dim, z_dim = _size(shapes, "encoder.conv_in.kernel", 4), _size(shapes, "decoder.conv_in.kernel", 3)
    levels: list[list[int]] = [[]]  # widths of the residual blocks of each level
    temporal: list[bool] = []
    for i in range(_count(shapes, "encoder.downsamples.") or 0):
        if width := _size(shapes, f"encoder.downsamples.{i}.conv1.kernel", 4):
            levels[-1].append(width)
        else:
            levels.append([])
            temporal.append(f"encoder.downsamples.{i}.time_conv.kernel" in shapes)
    whole = dim and all(levels)
    # The statistics of the latents are in no file; the published ones belong to every VAE of this form.
    published = z_dim == len(sizes.VAEConfig.WAN_MEAN)
    return {
        "dim": dim,
        "z_dim": z_dim,
        "dim_mult": tuple(level[0] // dim for level in levels) if whole else None,
        "num_res_blocks": len(levels[0]) if whole else None,
        "temporal_downsample": tuple(temporal) if whole else None,
        "latent_mean": sizes.VAEConfig.WAN_MEAN if published else None,
        "latent_std": sizes.VAEConfig.WAN_STD if published else None,
    }


def _read_text(shapes: Shapes) -> dict[str, Any]:
    return {
        "vocab_size": _size(shapes, "token_embedding", 0),
        "dim": _size(shapes, "token_embedding", 1),
        "dim_attn": _size(shapes, "blocks.0.attn.q.kernel", 1),
        "dim_ffn": _size(shapes, "blocks.0.ffn.fc1.kernel", 1),
        "num_heads": _size(shapes, "blocks.0.pos_embedding", 1),
        "num_layers": _count(shapes, "blocks."),
        "num_buckets": _size(shapes, "blocks.0.pos_embedding", 0),
    }


def _read_clip(shapes: Shapes) -> dict[str, Any]:
    patch, tokens = _size(shapes, "patch_embedding", 0), _size(shapes, "pos_embedding", 0)
    return {
        "image_size": patch and tokens and patch * math.isqrt(tokens - 1),
        "patch_size": patch,
        "dim": _size(shapes, "cls_embedding", 0),
        "num_layers": _count(shapes, "blocks."),
    }


def _read_audio(shapes: Shapes) -> dict[str, Any]:
    width, group, kernel = (_size(shapes, "pos_conv.weight_v", axis) for axis in (2, 1, 0))
    return {
        "hidden_size": _size(shapes, "projection.kernel", 1),
        "num_layers": _count(shapes, "layers."),
        "intermediate_size": _size(shapes, "layers.0.mlp.fc1.kernel", 1),
        "conv_dim": _size(shapes, "projection.kernel", 0),
        "pos_conv_kernel": kernel,
        "pos_conv_groups": width and group and width // group,
    }


NETWORKS = {
    "dit": Network(DiT, _WAN.dit, _read_dit),
    "vae": Network(VAE, _WAN.vae, _read_vae),
    "text": Network(UMT5Encoder, _WAN.text, _read_text),
    "clip": Network(CLIPVision, _WAN.clip, _read_clip),
    "audio": Network(Wav2Vec2, _WAN.audio, _read_audio),
}


def _stated(entry: Form, config_json: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields, as far as a published `config.json` states them."""
    told = {ours: config_json[theirs] for ours, theirs in entry.fields.items() if theirs in config_json}
    heads = told.get("num_heads", 0)
    if entry.network == "dit" and "attention_head_dim" in config_json:
        told["dim"] = heads * config_json["attention_head_dim"]
    if entry.network == "text" and "d_kv" in config_json:
        told["dim_attn"] = heads * config_json["d_kv"]
    if entry.network == "audio" and config_json.get("conv_dim"):
        told["conv_dim"] = config_json["conv_dim"][0]
    return {field: tuple(value) if isinstance(value, list) else value for field, value in told.items()}


def config_json(entry: Form, config: Any) -> dict[str, Any]:
    """The `config.json` of a network that was not imported; none where such a file has none."""
    stated = {theirs: getattr(config, ours) for ours, theirs in entry.fields.items()} | dict(entry.constants)
    if entry.network == "audio":
        stated["conv_dim"] = [config.conv_dim] * len(config.CONV_KERNELS)
    return stated


@functools.cache
def abstract_parameters(network: str, config: Any) -> Mapping[str, HasShape]:
    """Path → parameter of a network that takes no memory. Tracing forty blocks takes seconds."""
    return parameters(nnx.eval_shape(lambda: NETWORKS[network].make(config, rngs=nnx.Rngs(0))))


def form(network: str, name: str) -> Form:
    return next(form for form in FORMS if (form.network, form.name) == (network, name))


def recognise(names: Iterable[str]) -> Form | None:
    """The form that most of these names speak for, if any."""
    names = list(names)
    counts = {entry.marker: sum(re.match(entry.marker, name) is not None for name in names) for entry in FORMS}
    marker = max(counts, key=counts.__getitem__)
    if not counts[marker]:
        return None
    entries = [entry for entry in FORMS if entry.marker == marker]
    if entries[0].network == "audio":
        parametrized = any(name.endswith(_GROWN) for name in names)
        return next(entry for entry in entries if entry.name.endswith("_parametrized") == parametrized)
    if entries[0].name == "soulx":
        return entries[0 if any(map(AUDIO_MODULES.fullmatch, names)) else 1]
    return entries[0]


def our_shapes(table: Table, published: Mapping[str, HasShape]) -> dict[str, tuple[int, ...]]:
    """Our paths → shapes, as far as published tensors tell them; what does not fit the table is left out."""
    rules = [([pattern_of(name) for name in rule.names], rule) for rule in table if isinstance(rule, Rule)]
    shapes: dict[str, tuple[int, ...]] = {}
    for name in published:
        for (first, *_), rule in rules:
            if match := first.fullmatch(name):
                parts = [part.format(**match.groupdict()) for part in rule.names]
                if all(part in published for part in parts):
                    arrays = (np.broadcast_to(np.uint8(0), published[part].shape) for part in parts)
                    try:
                        shapes[rule.path.format(**match.groupdict())] = rule.transform.to_ours(*arrays).shape
                    except ValueError:  # misshapen: the plan reports it
                        continue
    return shapes


def configuration(
    entry: Form,
    published: Mapping[str, HasShape],
    stated: Mapping[str, Any] | None,
    chosen: Any | None,
    known: Iterable[Any],
    extra: Mapping[str, Any],
) -> tuple[Any | None, list[Problem]]:
    """The configuration of a published network, and what is wrong with what is said of it.

    Args:
        published: name → tensor.
        stated: the network's `config.json`.
        chosen: the configuration that the user demands.
        known: configurations that may supply what cannot be told.
        extra: fields told by other files.
    """
    network = NETWORKS[entry.network]
    told = _stated(entry, stated) if stated else {}
    if chosen is not None:
        problems = [
            Problem(
                "another configuration", f"{entry.network}.{field}", f"{value} in config.json, {getattr(chosen, field)} in --config"
            )
            for field, value in told.items()
            if value != getattr(chosen, field)
        ]
        return None if problems else chosen, problems
    read = network.read(our_shapes(entry.table(network.published), published))
    found = {**{field: value for field, value in read.items() if value is not None}, **told, **extra}
    if stated and entry.network == "dit":
        found = {"text_len": 512, "eps": 1e-6, **found}  # what the published code takes where config.json is silent
    kind = type(network.published)
    fields = [field.name for field in dataclasses.fields(kind)]
    agreeing = [config for config in known if all(getattr(config, field) == value for field, value in found.items())]
    whole = {**(dataclasses.asdict(agreeing[0]) if agreeing else {}), **found}
    if unknown := [field for field in fields if field not in whole]:
        return None, [
            Problem(
                "sizes cannot be told from the tensors",
                entry.network,
                f"{', '.join(unknown)}; put the published config.json beside the weights, or give --config",
            )
        ]
    return kind(**{field: whole[field] for field in fields}), []
