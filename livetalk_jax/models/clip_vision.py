"""Image tower of CLIP as Wan2.1 uses it (`wan/modules/clip.py`): open-clip's XLM-RoBERTa ViT-H/14 without its last block.

The features are those that enter the last block, so neither that block, nor the norm and head behind it, are built.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.config import CLIPVisionConfig
from livetalk_jax.nn.layers import MLP, LayerNorm, Linear, gelu_exact
from livetalk_jax.parallel.seams import ONE_DEVICE, Parallel

# Mean and deviation of the RGB values that CLIP was trained on.
RGB_MEAN = (0.48145466, 0.4578275, 0.40821073)
RGB_STD = (0.26862954, 0.26130258, 0.27577711)
MLP_RATIO = 4
# PyTorch's cubic convolution coefficient; Pillow and jax.image take -0.5.
CUBIC = -0.75


def cubic_matrix(in_size: int, out_size: int, step: float | None = None) -> np.ndarray:
    """Bicubic interpolation of one axis, float32 [out_size, in_size]: pixel centres, edge pixels repeated, no antialias.

    The same as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`, whose coordinates are float32. `step` is the
    way from one pixel to the next, in pixels before; without it, all of them are covered.
    """
    centre = np.float32(step or in_size / out_size) * (np.arange(out_size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    first = np.floor(centre)
    matrix = np.zeros((out_size, in_size), np.float32)
    for tap in (-1, 0, 1, 2):
        x = np.abs(centre - first - tap)
        near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
        far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
        column = np.clip(first.astype(int) + tap, 0, in_size - 1)
        matrix[np.arange(out_size), column] += np.where(x <= 1, near, far)
    return matrix


def resize_bicubic(image: jax.Array, height: int, width: int) -> jax.Array:
    """[B, Y, X, C] float32 -> [B, height, width, C]; values may overshoot their range by a little, as cubic kernels do."""
    rows, columns = cubic_matrix(image.shape[1], height), cubic_matrix(image.shape[2], width)
    return jnp.einsum("hy,wx,byxc->bhwc", rows, columns, image, precision=jax.lax.Precision.HIGHEST)


class Block(nnx.Module):
    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs, dtype):
        self.num_heads = config.num_heads
        self.norm1 = LayerNorm(config.dim, eps=config.eps, dtype=dtype)
        self.to_qkv = Linear(config.dim, 3 * config.dim, rngs=rngs, dtype=dtype)
        self.proj = Linear(config.dim, config.dim, rngs=rngs, dtype=dtype)
        self.norm2 = LayerNorm(config.dim, eps=config.eps, dtype=dtype)
        self.mlp = MLP(config.dim, MLP_RATIO * config.dim, config.dim, gelu_exact, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, parallel: Parallel) -> jax.Array:
        qkv = self.to_qkv(self.norm1(x)).reshape(*x.shape[:2], 3, self.num_heads, -1)
        x = x + self.proj(parallel.attend_local(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(x.shape))
        return x + self.mlp(self.norm2(x))


class CLIPVision(nnx.Module):
    """Portrait to image features.

    Args:
        config: sizes; `num_layers` counts the last block, which is not built.
        rngs: draws the initial weights.
        dtype: of the parameters.
    """

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        normal = nnx.initializers.normal(config.dim**-0.5)
        patch = (config.patch_size, config.patch_size, 3, config.dim)
        self.patch_embedding = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), patch, dtype))
        self.cls_embedding = nnx.Param(normal(rngs.params(), (config.dim,), dtype))
        self.pos_embedding = nnx.Param(normal(rngs.params(), (config.tokens, config.dim), dtype))
        self.pre_norm = LayerNorm(config.dim, eps=config.eps, dtype=dtype)
        self.blocks = nnx.List([Block(config, rngs=rngs, dtype=dtype) for _ in range(config.num_layers - 1)])

    def __call__(self, image: jax.Array, *, parallel: Parallel = ONE_DEVICE) -> jax.Array:
        """image [B, Y, X, 3] in [-1, 1], any size -> [B, I, dim], class token first.

        The picture is resized and normalised in float32; what follows is computed in `image`'s dtype, norms and softmax in float32.
        """
        size, patch = self.config.image_size, self.config.patch_size
        picture = resize_bicubic(image.astype(jnp.float32), size, size) * 0.5 + 0.5
        picture = (picture - jnp.asarray(RGB_MEAN)) / jnp.asarray(RGB_STD)
        kernel = self.patch_embedding[...].astype(image.dtype)
        x = jax.lax.conv_general_dilated(
            picture.astype(image.dtype), kernel, (patch, patch), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = x.reshape(x.shape[0], -1, self.config.dim)
        first = jnp.broadcast_to(self.cls_embedding[...].astype(x.dtype), (x.shape[0], 1, self.config.dim))
        x = self.pre_norm(jnp.concatenate([first, x], 1) + self.pos_embedding[...].astype(x.dtype))
        for block in self.blocks:
            x = block(x, parallel)
        return x
