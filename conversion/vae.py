"""Names of the Wan2.1 VAE: the published file (`Wan2.1_VAE.pth`) and diffusers' AutoencoderKLWan."""

import numpy as np

from livetalk_jax.config import VAEConfig

from .table import CONV2D, CONV3D, SAME, Rule, Transform, Unused, drop


def _pointwise(*ones: int) -> Transform:
    """Convolution of one pixel, [out, in, 1, ...] -> [in, out]: a matrix here."""
    return Transform(lambda x: np.squeeze(x, ones).T, lambda x, count: (np.expand_dims(x.T, ones),))


NORM3D, NORM2D = drop(1, 2, 3), drop(1, 2)  # [dim, 1, 1, 1] or [dim, 1, 1] -> [dim]
POINTWISE3D, POINTWISE2D = _pointwise(2, 3, 4), _pointwise(2, 3)

# (name in the file, name here, transform of the weight)
_Rows = tuple[tuple[str, str, Transform], ...]

_BLOCK: _Rows = (
    ("residual.0", "norm1", NORM3D),
    ("residual.2", "conv1", CONV3D),
    ("residual.3", "norm2", NORM3D),
    ("residual.6", "conv2", CONV3D),
    ("shortcut", "shortcut", POINTWISE3D),
)
_DIFFUSERS_BLOCK: _Rows = (
    ("norm1", "norm1", NORM3D),
    ("conv1", "conv1", CONV3D),
    ("norm2", "norm2", NORM3D),
    ("conv2", "conv2", CONV3D),
    ("conv_shortcut", "shortcut", POINTWISE3D),
)
_ATTENTION: _Rows = (("norm", "norm", NORM2D), ("to_qkv", "qkv", POINTWISE2D), ("proj", "proj", POINTWISE2D))
_RESAMPLE: _Rows = (("resample.1", "conv", CONV2D), ("time_conv", "time_conv", CONV3D))


def _inside(published: str, path: str, rows: _Rows) -> _Rows:
    return tuple((f"{published}.{name}", f"{path}.{ours}", transform) for name, ours, transform in rows)


def _rules(rows: _Rows) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for name, path, transform in rows:
        if transform in (NORM3D, NORM2D):
            rules.append(Rule(f"{name}.gamma", f"{path}.scale", transform))
        else:
            rules += [Rule(f"{name}.weight", f"{path}.kernel", transform), Rule(f"{name}.bias", f"{path}.bias", SAME)]
    return tuple(rules)


def _ends(side: str, conv_in: str, norm_out: str, conv_out: str) -> _Rows:
    return _inside(side, side, ((conv_in, "conv_in", CONV3D), (norm_out, "norm_out", NORM3D), (conv_out, "conv_out", CONV3D)))


TABLE: tuple[Rule | Unused, ...] = _rules(
    (
        ("conv1", "quant", POINTWISE3D),
        ("conv2", "post_quant", POINTWISE3D),
        *(row for side in ("encoder", "decoder") for row in _ends(side, "conv1", "head.0", "head.2")),
        *(row for side in ("encoder", "decoder") for row in _inside(f"{side}.middle.{{i}}", f"{side}.middle.{{i}}", _BLOCK)),
        *(row for side in ("encoder", "decoder") for row in _inside(f"{side}.middle.1", f"{side}.middle.1", _ATTENTION)),
        *_inside("encoder.downsamples.{i}", "encoder.downsamples.{i}", _BLOCK + _RESAMPLE),
        *_inside("decoder.upsamples.{i}", "decoder.upsamples.{i}", _BLOCK + _RESAMPLE),
    )
)
"""`Wan2.1_VAE.pth`, at any size."""


def diffusers_table(config: VAEConfig) -> tuple[Rule | Unused, ...]:
    """AutoencoderKLWan. It counts the decoder's levels and the blocks inside each, we count all of them in one list."""
    rows: _Rows = (
        ("quant_conv", "quant", POINTWISE3D),
        ("post_quant_conv", "post_quant", POINTWISE3D),
        *_inside("encoder.down_blocks.{i}", "encoder.downsamples.{i}", _DIFFUSERS_BLOCK + _RESAMPLE),
    )
    for side in ("encoder", "decoder"):
        rows += _ends(side, "conv_in", "norm_out", "conv_out")
        rows += _inside(f"{side}.mid_block.resnets.0", f"{side}.middle.0", _DIFFUSERS_BLOCK)
        rows += _inside(f"{side}.mid_block.attentions.0", f"{side}.middle.1", _ATTENTION)
        rows += _inside(f"{side}.mid_block.resnets.1", f"{side}.middle.2", _DIFFUSERS_BLOCK)
    blocks = config.num_res_blocks + 1
    for level in range(len(config.dim_mult)):
        first = level * (blocks + 1)
        for block in range(blocks):
            published, path = f"decoder.up_blocks.{level}.resnets.{block}", f"decoder.upsamples.{first + block}"
            rows += _inside(published, path, _DIFFUSERS_BLOCK)
        if level < len(config.temporal_downsample):
            rows += _inside(f"decoder.up_blocks.{level}.upsamplers.0", f"decoder.upsamples.{first + blocks}", _RESAMPLE)
    return _rules(rows)
