"""Vision transformer (arXiv 2010.11929) as DINO (facebookresearch/dino) and CLIP's image tower (openai/CLIP) have it.

The features are the class token's, normalised by the last norm. The two differ in few places, which `ViTConfig` names.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.conversion.table import CONV2D, LINEAR, SAME, Rule, Transform, Unused, drop
from livetalk_jax.evaluation.networks.layers import Conv, resize_bilinear
from livetalk_jax.models.clip_vision import RGB_MEAN, RGB_STD, cubic_matrix, resize_bicubic
from livetalk_jax.nn.layers import MLP, LayerNorm, Linear, gelu_exact

MLP_RATIO = 4
# Pixels a side, for both.
SIZE = 224
# Of ImageNet's pictures, for DINO.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# DINO adds this to the number of patches before it scales its positions, which moves their centres.
POSITION_EXCESS = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Attributes:

    image_size, patch_size: pixels; of the pictures that positions were trained for.
    dim, num_heads, num_layers: of the transformer.
    eps: of its norms.
    clip: a norm before the blocks, no bias on patches, quick GELU.
    out_dim: the features are projected to so many; None leaves them.
    """

    image_size: int = SIZE
    patch_size: int
    dim: int = 768
    num_heads: int = 12
    num_layers: int = 12
    eps: float
    clip: bool
    out_dim: int | None


def quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


class Block(nnx.Module):
    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        dim, self.num_heads = config.dim, config.num_heads
        self.norm1 = LayerNorm(dim, eps=config.eps)
        self.qkv = Linear(dim, 3 * dim, rngs=rngs)
        self.proj = Linear(dim, dim, rngs=rngs)
        self.norm2 = LayerNorm(dim, eps=config.eps)
        self.mlp = MLP(dim, MLP_RATIO * dim, dim, quick_gelu if config.clip else gelu_exact, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        qkv = self.qkv(self.norm1(x)).reshape(*x.shape[:2], 3, self.num_heads, -1)
        x = x + self.proj(jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(x.shape))
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    """Pictures to one feature each."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        dim, patch = config.dim, config.patch_size
        normal = nnx.initializers.normal(dim**-0.5)
        self.patches = Conv(3, dim, (patch, patch), stride=patch, use_bias=not config.clip, rngs=rngs)
        self.token = nnx.Param(normal(rngs.params(), (dim,)))
        self.positions = nnx.Param(normal(rngs.params(), ((config.image_size // patch) ** 2 + 1, dim)))
        self.pre_norm = LayerNorm(dim, eps=config.eps) if config.clip else None
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = LayerNorm(dim, eps=config.eps)
        self.out = Linear(dim, config.out_dim, use_bias=False, rngs=rngs) if config.out_dim else None

    def __call__(self, pictures: jax.Array) -> jax.Array:
        """Normalised pictures [B, Y, X, 3], of any size from a patch on -> [B, dim], or [B, out_dim]."""
        x = self.patches(pictures)
        rows, columns = x.shape[1:3]
        token = jnp.broadcast_to(self.token[...], (len(x), 1, self.config.dim))
        x = jnp.concatenate([token, x.reshape(len(x), -1, self.config.dim)], 1) + self._positions(rows, columns)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, 0])
        return x if self.out is None else self.out(x)

    def _positions(self, rows: int, columns: int) -> jax.Array:
        """[1 + rows · columns, dim]: interpolated where the picture has another shape than the trained one."""
        positions = self.positions[...]
        side = math.isqrt(len(positions) - 1)
        if rows == columns == side:
            return positions
        down, across = (cubic_matrix(side, n, side / (n + POSITION_EXCESS)) for n in (rows, columns))
        grid = positions[1:].reshape(side, side, -1)
        grid = jnp.einsum("hy,wx,yxc->hwc", down, across, grid, precision=jax.lax.Precision.HIGHEST)
        return jnp.concatenate([positions[:1], grid.reshape(rows * columns, -1)])


def dino_b16(*, rngs: nnx.Rngs) -> ViT:
    """`dino_vitbase16_pretrain.pth`, 85.8 M parameters."""
    return ViT(ViTConfig(patch_size=16, eps=1e-6, clip=False, out_dim=None), rngs=rngs)


def clip_b32(*, rngs: nnx.Rngs) -> ViT:
    """The image tower of `ViT-B-32.pt`, 87.8 M parameters."""
    return ViT(ViTConfig(patch_size=32, eps=1e-5, clip=True, out_dim=512), rngs=rngs)


def _shorter_side(height: int, width: int) -> tuple[int, int]:
    """Both sides when the shorter is made 224, rounded down as torchvision does."""
    return (SIZE, int(SIZE * width / height)) if height <= width else (int(SIZE * height / width), SIZE)


def preprocess_dino(frames: jax.Array | np.ndarray) -> jax.Array:
    """uint8 [B, Y, X, 3] -> the shorter side 224, normalised; VBench's `dino_transform`, which crops nothing."""
    picture = resize_bilinear(frames.astype(jnp.float32), *_shorter_side(*frames.shape[1:3])) / 255
    return (picture - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)


def preprocess_clip(frames: jax.Array | np.ndarray) -> jax.Array:
    """uint8 [B, Y, X, 3] -> [B, 224, 224, 3], the middle of the picture, normalised; VBench's `clip_transform`."""
    height, width = _shorter_side(*frames.shape[1:3])
    top, left = round((height - SIZE) / 2), round((width - SIZE) / 2)
    picture = resize_bicubic(jnp.asarray(frames, jnp.float32), height, width)[:, top : top + SIZE, left : left + SIZE] / 255
    return (picture - jnp.asarray(RGB_MEAN)) / jnp.asarray(RGB_STD)


def _pairs(published: str, ours: str, weight: str, transform: Transform) -> tuple[Rule, Rule]:
    return Rule(f"{published}weight", f"{ours}.{weight}", transform), Rule(f"{published}bias", f"{ours}.bias", SAME)


def _block(prefix: str, *names: str) -> tuple[Rule, ...]:
    """The rules of a block's layers; `names` are the published ones of norm1, norm2, qkv, proj, mlp.fc1 and mlp.fc2."""
    ours = [("norm1", "scale", SAME), ("norm2", "scale", SAME)]
    ours += [(name, "kernel", LINEAR) for name in ("qkv", "proj", "mlp.fc1", "mlp.fc2")]
    pairs = zip(names, ours, strict=True)
    return tuple(rule for name, (path, *form) in pairs for rule in _pairs(prefix + name, f"blocks.{{i}}.{path}", *form))


DINO_TABLE = (
    *_pairs("patch_embed.proj.", "patches", "kernel", CONV2D),
    Rule("cls_token", "token", drop(0, 1)),
    Rule("pos_embed", "positions", drop(0)),
    *_block("blocks.{i}.", "norm1.", "norm2.", "attn.qkv.", "attn.proj.", "mlp.fc1.", "mlp.fc2."),
    *_pairs("norm.", "norm", "scale", SAME),
)

_TEXT_TOWER = ("positional_embedding", "text_projection", "logit_scale", "input_resolution", "context_length", "vocab_size")
CLIP_TABLE = (
    Rule("visual.conv1.weight", "patches.kernel", CONV2D),
    Rule("visual.class_embedding", "token", SAME),
    Rule("visual.positional_embedding", "positions", SAME),
    *_pairs("visual.ln_pre.", "pre_norm", "scale", SAME),
    *_block("visual.transformer.resblocks.{i}.", "ln_1.", "ln_2.", "attn.in_proj_", "attn.out_proj.", "mlp.c_fc.", "mlp.c_proj."),
    *_pairs("visual.ln_post.", "norm", "scale", SAME),
    Rule("visual.proj", "out.kernel", SAME),
    *(Unused(name) for name in ("transformer.{name}", "token_embedding.{name}", "ln_final.{name}", *_TEXT_TOWER)),
)
