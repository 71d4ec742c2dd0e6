"""InceptionV3 (arXiv 1512.00567) with the weights of the first FID code, as pytorch-fid has it (`src/pytorch_fid/inception.py`).

Its pools differ from the paper's: averages leave the padding out, and the last block takes a maximum. The blocks and their parts
have the published names, so the table is a rule for each kind of parameter.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.conversion.table import CONV2D, Rule, Unused
from livetalk_jax.evaluation.networks.layers import BatchNorm, Conv, Padding, batch_norm_rules, max_pool, mean_pool, resize_bilinear

SIZE = 299
FEATURES = 2048

TABLE = (
    Rule("{name}.conv.weight", "stages.{name}.conv.kernel", CONV2D),
    *batch_norm_rules("{name}.bn", "stages.{name}.bn"),
    Unused("{name}.num_batches_tracked"),
    Unused("fc.{name}"),
)
"""For `pt_inception-2015-12-05-6726825d.pth`; its classifier of 1008 classes is not used."""


class Unit(nnx.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel: tuple[int, int] = (1, 1), *, stride: int = 1, padding: Padding = 0, rngs: nnx.Rngs
    ):
        self.conv = Conv(in_dim, out_dim, kernel, stride=stride, padding=padding, use_bias=False, rngs=rngs)
        self.bn = BatchNorm(out_dim, eps=1e-3)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.bn(self.conv(x)))


class BlockA(nnx.Module):
    """35×35: 1×1, 5×5, two 3×3, pool."""

    def __init__(self, in_dim: int, pool_dim: int, *, rngs: nnx.Rngs):
        self.branch1x1 = Unit(in_dim, 64, rngs=rngs)
        self.branch5x5_1 = Unit(in_dim, 48, rngs=rngs)
        self.branch5x5_2 = Unit(48, 64, (5, 5), padding=2, rngs=rngs)
        self.branch3x3dbl_1 = Unit(in_dim, 64, rngs=rngs)
        self.branch3x3dbl_2 = Unit(64, 96, (3, 3), padding=1, rngs=rngs)
        self.branch3x3dbl_3 = Unit(96, 96, (3, 3), padding=1, rngs=rngs)
        self.branch_pool = Unit(in_dim, pool_dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = self.branch_pool(mean_pool(x, (3, 3), 1))
        return jnp.concatenate([self.branch1x1(x), five, three, pool], -1)


class BlockB(nnx.Module):
    """35×35 to 17×17."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.branch3x3 = Unit(288, 384, (3, 3), stride=2, rngs=rngs)
        self.branch3x3dbl_1 = Unit(288, 64, rngs=rngs)
        self.branch3x3dbl_2 = Unit(64, 96, (3, 3), padding=1, rngs=rngs)
        self.branch3x3dbl_3 = Unit(96, 96, (3, 3), stride=2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return jnp.concatenate([self.branch3x3(x), twice, max_pool(x, (3, 3), 2)], -1)


class BlockC(nnx.Module):
    """17×17: 1×1, 7×7 and twice 7×7 as rows and columns, pool."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        row = functools.partial(Unit, kernel=(1, 7), padding=(0, 3), rngs=rngs)
        column = functools.partial(Unit, kernel=(7, 1), padding=(3, 0), rngs=rngs)
        self.branch1x1 = Unit(768, 192, rngs=rngs)
        self.branch7x7_1 = Unit(768, dim, rngs=rngs)
        self.branch7x7_2 = row(dim, dim)
        self.branch7x7_3 = column(dim, 192)
        self.branch7x7dbl_1 = Unit(768, dim, rngs=rngs)
        self.branch7x7dbl_2 = column(dim, dim)
        self.branch7x7dbl_3 = row(dim, dim)
        self.branch7x7dbl_4 = column(dim, dim)
        self.branch7x7dbl_5 = row(dim, 192)
        self.branch_pool = Unit(768, 192, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        pool = self.branch_pool(mean_pool(x, (3, 3), 1))
        return jnp.concatenate([self.branch1x1(x), once, twice, pool], -1)


class BlockD(nnx.Module):
    """17×17 to 8×8."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.branch3x3_1 = Unit(768, 192, rngs=rngs)
        self.branch3x3_2 = Unit(192, 320, (3, 3), stride=2, rngs=rngs)
        self.branch7x7x3_1 = Unit(768, 192, rngs=rngs)
        self.branch7x7x3_2 = Unit(192, 192, (1, 7), padding=(0, 3), rngs=rngs)
        self.branch7x7x3_3 = Unit(192, 192, (7, 1), padding=(3, 0), rngs=rngs)
        self.branch7x7x3_4 = Unit(192, 192, (3, 3), stride=2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return jnp.concatenate([self.branch3x3_2(self.branch3x3_1(x)), seven, max_pool(x, (3, 3), 2)], -1)


class BlockE(nnx.Module):
    """8×8: 1×1, 3×3 and twice 3×3 that fork into rows and columns, pool (a mean, or in the last block a maximum)."""

    def __init__(self, in_dim: int, pool, *, rngs: nnx.Rngs):
        row = functools.partial(Unit, kernel=(1, 3), padding=(0, 1), rngs=rngs)
        column = functools.partial(Unit, kernel=(3, 1), padding=(1, 0), rngs=rngs)
        self.pool = pool
        self.branch1x1 = Unit(in_dim, 320, rngs=rngs)
        self.branch3x3_1 = Unit(in_dim, 384, rngs=rngs)
        self.branch3x3_2a = row(384, 384)
        self.branch3x3_2b = column(384, 384)
        self.branch3x3dbl_1 = Unit(in_dim, 448, rngs=rngs)
        self.branch3x3dbl_2 = Unit(448, 384, (3, 3), padding=1, rngs=rngs)
        self.branch3x3dbl_3a = row(384, 384)
        self.branch3x3dbl_3b = column(384, 384)
        self.branch_pool = Unit(in_dim, 192, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [
            self.branch1x1(x),
            self.branch3x3_2a(once),
            self.branch3x3_2b(once),
            self.branch3x3dbl_3a(twice),
            self.branch3x3dbl_3b(twice),
            self.branch_pool(self.pool(x)),
        ]
        return jnp.concatenate(parts, -1)


def _mean3(x: jax.Array) -> jax.Array:
    return mean_pool(x, (3, 3), 1)


def _max3(x: jax.Array) -> jax.Array:
    return max_pool(x, (3, 3), 1, 1)


class Inception(nnx.Module):
    """Pictures to the features of FID."""

    # Behind these, the picture is halved.
    POOLED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")

    def __init__(self, *, rngs: nnx.Rngs):
        stages = {
            "Conv2d_1a_3x3": Unit(3, 32, (3, 3), stride=2, rngs=rngs),
            "Conv2d_2a_3x3": Unit(32, 32, (3, 3), rngs=rngs),
            "Conv2d_2b_3x3": Unit(32, 64, (3, 3), padding=1, rngs=rngs),
            "Conv2d_3b_1x1": Unit(64, 80, rngs=rngs),
            "Conv2d_4a_3x3": Unit(80, 192, (3, 3), rngs=rngs),
            "Mixed_5b": BlockA(192, 32, rngs=rngs),
            "Mixed_5c": BlockA(256, 64, rngs=rngs),
            "Mixed_5d": BlockA(288, 64, rngs=rngs),
            "Mixed_6a": BlockB(rngs=rngs),
            "Mixed_6b": BlockC(128, rngs=rngs),
            "Mixed_6c": BlockC(160, rngs=rngs),
            "Mixed_6d": BlockC(160, rngs=rngs),
            "Mixed_6e": BlockC(192, rngs=rngs),
            "Mixed_7a": BlockD(rngs=rngs),
            "Mixed_7b": BlockE(1280, _mean3, rngs=rngs),
            "Mixed_7c": BlockE(2048, _max3, rngs=rngs),
        }
        self.order = tuple(stages)
        self.stages = nnx.Dict(stages)

    def __call__(self, pictures: jax.Array) -> jax.Array:
        """[B, Y, X, 3] in [0, 1], both sides 75 or more -> [B, 2048]."""
        x = 2 * pictures - 1
        for name in self.order:
            x = self.stages[name](x)
            if name in self.POOLED:
                x = max_pool(x, (3, 3), 2)
        return jnp.mean(x, (1, 2))


def preprocess(frames: jax.Array | np.ndarray) -> jax.Array:
    """uint8 [B, Y, X, 3] -> [B, 299, 299, 3] in [0, 1], as the published code stretches them."""
    return resize_bilinear(frames.astype(jnp.float32) / 255, SIZE, SIZE)
