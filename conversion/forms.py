"""The forms that published networks come in: how each is recognised, its table, and how its sizes are told.

A form is one way of naming a network's tensors. Sizes come from `config.json` where the form has one; the rest is read off the
tensors' shapes, mapped to our names first so that one reading serves every form. What neither says (a number of heads, an epsilon)
is taken from the known configuration that agrees with all that is said, and is an error where there is none.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from livetalk_jax.config import Wav2Vec2Config
from livetalk_jax.models.keys import Keys

from . import clip_vision, dit, umt5, vae, wav2vec2
from .engine import HasShape, Problem, Table, parameters, pattern_of
from .sizes import NETWORKS
from .table import Rule

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


_SOULX = Form(
    "dit", "soulx", r"blocks\.\d+\.(self|cross)_attn\.", lambda config: dit.TABLE,
    _same(
        "dim", "ffn_dim", "num_heads", "num_layers", "freq_dim", "text_dim", "text_len", "eps", "audio_window",
        in_channels="in_dim", out_channels="out_dim", audio_intermediate_dim="intermediate_dim", audio_output_dim="output_dim",
        audio_context_tokens="context_tokens",
    ),
    dict(_class_name="WanModel", model_type="i2v"),
)  # fmt: skip
_CLIP_HF = Form(
    "clip", "hf", r"vision_model\.encoder\.layers\.", clip_vision.hf_table,
    _same(
        "image_size", "patch_size", dim="hidden_size", num_heads="num_attention_heads", num_layers="num_hidden_layers",
        eps="layer_norm_eps",
    ),
)  # fmt: skip
_PRETRAINING = Form(
    "audio", "pretraining", r"wav2vec2\.encoder\.layers\.", lambda config: wav2vec2.TABLE,
    _same(
        "hidden_size", "intermediate_size", num_layers="num_hidden_layers", num_heads="num_attention_heads",
        pos_conv_kernel="num_conv_pos_embeddings", pos_conv_groups="num_conv_pos_embedding_groups", eps="layer_norm_eps",
    ),
    dict(
        model_type="wav2vec2", hidden_act="gelu", feat_extract_norm="group", feat_extract_activation="gelu", conv_bias=False,
        do_stable_layer_norm=False, num_feat_extract_layers=len(Wav2Vec2Config.CONV_KERNELS),
        conv_kernel=list(Wav2Vec2Config.CONV_KERNELS), conv_stride=list(Wav2Vec2Config.CONV_STRIDES),
    ),
)  # fmt: skip
_ENCODER = dataclasses.replace(
    _PRETRAINING, name="encoder", marker=r"encoder\.layers\.\d+\.attention\.",
    table=lambda config: wav2vec2.table("", wav2vec2.WEIGHT_NORM),
)  # fmt: skip

FORMS = (
    _SOULX,  # all in one
    dataclasses.replace(_SOULX, name="wan"),  # audio modules in a file of their own
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
            "z_dim", "dim_mult", "num_res_blocks", dim="base_dim", temporal_downsample="temperal_downsample",
            latent_mean="latents_mean", latent_std="latents_std",
        ),
    ),
    Form("text", "wan", r"blocks\.\d+\.(attn|pos_embedding)\.", lambda config: umt5.TABLE),
    Form(
        "text", "hf", r"encoder\.block\.\d+\.", lambda config: umt5.HF_TABLE,
        _same(
            "vocab_size", "num_heads", "num_layers", dim="d_model", dim_ffn="d_ff", num_buckets="relative_attention_num_buckets",
        ),
    ),
    Form("clip", "wan", r"visual\.transformer\.", clip_vision.table),
    _CLIP_HF,
    dataclasses.replace(
        _CLIP_HF, name="hf_bare", marker=r"encoder\.layers\.\d+\.self_attn\.",
        table=lambda config: clip_vision.hf_table(config, ""),
    ),
    _PRETRAINING,
    dataclasses.replace(_PRETRAINING, name="pretraining_parametrized", table=lambda config: wav2vec2.PARAMETRIZED_TABLE),
    _ENCODER,
    dataclasses.replace(
        _ENCODER, name="encoder_parametrized", table=lambda config: wav2vec2.table("", wav2vec2.PARAMETRIZED_WEIGHT_NORM)
    ),
)  # fmt: skip


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
    """Path → parameter of a network that takes no memory."""
    return parameters(nnx.eval_shape(lambda: NETWORKS[network].make(config, rngs=Keys(jax.random.key(0)))))


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
        parametrized = any(name.endswith(wav2vec2.PARAMETRIZED_WEIGHT_NORM) for name in names)
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
