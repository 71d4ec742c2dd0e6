"""I3D (arXiv 1705.07750) with the weights of the first FVD code, as `i3d_torchscript.pt` has it.

That file's class is the one of hassony2/kinetics_i3d_pytorch (`src/i3dpt.py`), with TensorFlow's padding on every axis; its features
are the 400 logits, averaged over time (universome/fvd-comparison).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.conversion.table import CONV3D, SAME, Rule, Unused
from livetalk_jax.evaluation.networks.layers import BatchNorm, Conv, batch_norm_rules, max_pool, mean_pool, resize_bilinear

SIZE = 224
# The least number of frames that leaves two for the last pool.
FRAMES = 9
CLASSES = 400

TABLE = (
    Rule("{name}.conv3d.weight", "{name}.conv3d.kernel", CONV3D),
    Rule("conv3d_0c_1x1.conv3d.bias", "conv3d_0c_1x1.conv3d.bias", SAME),
    *batch_norm_rules("{name}.batch3d", "{name}.batch3d"),
    Unused("{name}.num_batches_tracked"),
)


class Unit(nnx.Module):
    """Convolution; with `norm`, without bias and with batch norm and ReLU behind it."""

    def __init__(self, in_dim: int, out_dim: int, size: int = 1, *, stride: int = 1, norm: bool = True, rngs: nnx.Rngs):
        self.conv3d = Conv(in_dim, out_dim, (size,) * 3, stride=stride, padding="SAME", use_bias=not norm, rngs=rngs)
        self.batch3d = BatchNorm(out_dim, eps=1e-3) if norm else None

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv3d(x)
        return x if self.batch3d is None else jax.nn.relu(self.batch3d(x))


class Pool(nnx.Module):
    """The largest value of 3×3×3."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(x, (3, 3, 3), 1, "SAME")


class Mixed(nnx.Module):
    """1×1×1, two of 3×3×3, pool; `dims` as the paper lists them."""

    def __init__(self, in_dim: int, dims: tuple[int, int, int, int, int, int], *, rngs: nnx.Rngs):
        self.branch_0 = Unit(in_dim, dims[0], rngs=rngs)
        self.branch_1 = nnx.List([Unit(in_dim, dims[1], rngs=rngs), Unit(dims[1], dims[2], 3, rngs=rngs)])
        self.branch_2 = nnx.List([Unit(in_dim, dims[3], rngs=rngs), Unit(dims[3], dims[4], 3, rngs=rngs)])
        self.branch_3 = nnx.List([Pool(), Unit(in_dim, dims[5], rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = [self.branch_0(x)]
        parts += [second(first(x)) for first, second in (self.branch_1, self.branch_2, self.branch_3)]
        return jnp.concatenate(parts, -1)


class I3D(nnx.Module):
    """Clips to the features of FVD."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv3d_1a_7x7 = Unit(3, 64, 7, stride=2, rngs=rngs)
        self.conv3d_2b_1x1 = Unit(64, 64, rngs=rngs)
        self.conv3d_2c_3x3 = Unit(64, 192, 3, rngs=rngs)
        self.mixed_3b = Mixed(192, (64, 96, 128, 16, 32, 32), rngs=rngs)
        self.mixed_3c = Mixed(256, (128, 128, 192, 32, 96, 64), rngs=rngs)
        self.mixed_4b = Mixed(480, (192, 96, 208, 16, 48, 64), rngs=rngs)
        self.mixed_4c = Mixed(512, (160, 112, 224, 24, 64, 64), rngs=rngs)
        self.mixed_4d = Mixed(512, (128, 128, 256, 24, 64, 64), rngs=rngs)
        self.mixed_4e = Mixed(512, (112, 144, 288, 32, 64, 64), rngs=rngs)
        self.mixed_4f = Mixed(528, (256, 160, 320, 32, 128, 128), rngs=rngs)
        self.mixed_5b = Mixed(832, (256, 160, 320, 32, 128, 128), rngs=rngs)
        self.mixed_5c = Mixed(832, (384, 192, 384, 48, 128, 128), rngs=rngs)
        self.conv3d_0c_1x1 = Unit(1024, CLASSES, norm=False, rngs=rngs)

    def __call__(self, clips: jax.Array) -> jax.Array:
        """[B, F, 224, 224, 3] in [-1, 1], F 9 or more -> logits [B, 400].

        Raises:
            ValueError: the clips are too short.
        """
        if clips.shape[1] < FRAMES:
            raise ValueError(f"clips of {clips.shape[1]} frames are too short for I3D: it needs at least {FRAMES}")
        x = max_pool(self.conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2), "SAME")
        x = max_pool(self.conv3d_2c_3x3(self.conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2), "SAME")
        x = max_pool(self.mixed_3c(self.mixed_3b(x)), (3, 3, 3), 2, "SAME")
        for mixed in (self.mixed_4b, self.mixed_4c, self.mixed_4d, self.mixed_4e, self.mixed_4f):
            x = mixed(x)
        x = max_pool(x, (2, 2, 2), 2, "SAME")
        x = mean_pool(self.mixed_5c(self.mixed_5b(x)), (2, 7, 7))
        return jnp.mean(self.conv3d_0c_1x1(x), (1, 2, 3))


def preprocess(frames: jax.Array | np.ndarray) -> jax.Array:
    """uint8 [..., Y, X, 3] -> [..., 224, 224, 3] in [-1, 1], as the published code stretches them."""
    return resize_bilinear(frames.astype(jnp.float32), SIZE, SIZE) * (2 / 255) - 1
