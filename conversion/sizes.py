"""Sizes of networks as the shapes of their parameters tell them, at our paths, so that one reading serves every published form."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from livetalk_jax.config import ModelConfig, VAEConfig
from livetalk_jax.models.clip_vision import CLIPVision
from livetalk_jax.models.dit import DiT
from livetalk_jax.models.umt5 import UMT5Encoder
from livetalk_jax.models.vae import VAE
from livetalk_jax.models.wav2vec2 import Wav2Vec2
from livetalk_jax.shapes import PATCH, VAE_STRIDE

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Network:
    """One of our networks: its class, its published configuration, and what its parameters' shapes tell of a configuration."""

    make: Callable[..., nnx.Module]
    published: Any
    read: Callable[[Shapes], dict[str, Any]]


_WAN = ModelConfig.wan_14b()


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
    published = z_dim == len(VAEConfig.WAN_MEAN)
    return {
        "dim": dim,
        "z_dim": z_dim,
        "dim_mult": tuple(level[0] // dim for level in levels) if whole else None,
        "num_res_blocks": len(levels[0]) if whole else None,
        "temporal_downsample": tuple(temporal) if whole else None,
        "latent_mean": VAEConfig.WAN_MEAN if published else None,
        "latent_std": VAEConfig.WAN_STD if published else None,
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
