"""AMT-S (arXiv 2304.09790): the picture in the middle between two. Published: MCG-NKU/AMT (`networks/AMT-S.py` and its blocks).

Correlations of all pixels of both pictures, an eighth as large, are looked up while flow is refined from coarse to fine; three flows
each way warp the pictures, and what comes out is blended. Modules have the published names, so the table is a rule for each kind of
parameter. What both pictures have lies in one batch [2B, ...], the earlier ones first; flow is [2B, Y, X, 2], from the middle to each
picture in pixels, across first.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from livetalk_jax.conversion.table import CONV2D, SAME, Rule, axes
from livetalk_jax.evaluation.networks.layers import Conv, resize_bilinear

RADIUS, LEVELS, FLOWS = 3, 4, 3
CHANNELS = (20, 32, 44, 56)
SKIP = 20
# The coarsest correlations need two pixels a side.
SMALLEST = 8 * 2**LEVELS
MULTIPLE = 16

TABLE = (
    Rule("{name}.weight", "{name}.kernel", CONV2D),
    Rule("{name}.weight", "{name}.slope", SAME),
    Rule("{name}.weight", "{name}.transposed", axes(2, 3, 0, 1)),
    Rule("{name}.bias", "{name}.bias", SAME),
)
"""For `amt-s.pth`."""


class Chain(nnx.List):
    """Layers one behind the other."""

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self:
            x = layer(x)
        return x


class PReLU(nnx.Module):
    def __init__(self, dim: int):
        self.slope = nnx.Param(jnp.full((dim,), 0.25))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x >= 0, x, x * self.slope[...])


class Leaky(nnx.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.leaky_relu(x, 0.1)


class InstanceNorm(nnx.Module):
    """Each channel of each picture to zero mean and unit variance."""

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x - jnp.mean(x, (1, 2), keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), (1, 2), keepdims=True) + 1e-5)


class Double(nnx.Module):
    """Transposed convolution of 4×4 that doubles rows and columns; kernel [4, 4, in, out] as published."""

    def __init__(self, in_dim: int, out_dim: int, *, rngs: nnx.Rngs):
        self.transposed = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (4, 4, in_dim, out_dim)))
        self.bias = nnx.Param(jnp.zeros((out_dim,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.transposed[...][::-1, ::-1]
        layout = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(x, kernel, (1, 1), [(2, 2), (2, 2)], lhs_dilation=(2, 2), dimension_numbers=layout)
        return out + self.bias[...]


def conv3(in_dim: int, out_dim: int, *, stride: int = 1, rngs: nnx.Rngs) -> Conv:
    return Conv(in_dim, out_dim, (3, 3), stride=stride, padding=1, rngs=rngs)


def conv_prelu(in_dim: int, out_dim: int, *, stride: int = 1, rngs: nnx.Rngs) -> Chain:
    return Chain([conv3(in_dim, out_dim, stride=stride, rngs=rngs), PReLU(out_dim)])


def scale(x: jax.Array, factor: float) -> jax.Array:
    """[B, Y, X, C] -> factor times as many rows and columns."""
    return resize_bilinear(x, round(x.shape[1] * factor), round(x.shape[2] * factor))


def beside(x: jax.Array) -> jax.Array:
    """[2B, ..., C] -> [B, ..., 2C]: of both pictures, one beside the other."""
    return jnp.concatenate(jnp.split(x, 2), -1)


def apart(x: jax.Array) -> jax.Array:
    """[B, ..., 2C] -> [2B, ..., C]: the inverse of `beside`."""
    return jnp.concatenate(jnp.split(x, 2, -1))


def swapped(x: jax.Array) -> jax.Array:
    """[2B, ...] -> the same of the other picture."""
    return jnp.concatenate(jnp.split(x, 2)[::-1])


def warp(picture: jax.Array, flow: jax.Array) -> jax.Array:
    """picture [B, Y, X, C] as seen at each pixel plus `flow`, bilinear; beyond the edge lies the edge."""
    rows, columns, channels = picture.shape[1:]
    x = jnp.clip(jnp.arange(columns) + flow[..., 0], 0, columns - 1)
    y = jnp.clip(jnp.arange(rows)[:, None] + flow[..., 1], 0, rows - 1)
    left, top = jnp.floor(x).astype(int), jnp.floor(y).astype(int)
    right, bottom = jnp.minimum(left + 1, columns - 1), jnp.minimum(top + 1, rows - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    pixels = picture.reshape(len(picture), -1, channels)

    def at(row, column):
        index = (row * columns + column).reshape(len(picture), -1, 1)
        return jnp.take_along_axis(pixels, index, 1).reshape(picture.shape)

    upper = at(top, left) * (1 - across) + at(top, right) * across
    lower = at(bottom, left) * (1 - across) + at(bottom, right) * across
    return upper * (1 - down) + lower * down


class Bottleneck(nnx.Module):
    def __init__(self, in_dim: int, dim: int, *, stride: int, rngs: nnx.Rngs):
        self.conv1 = Conv(in_dim, dim // 4, (1, 1), rngs=rngs)
        self.conv2 = conv3(dim // 4, dim // 4, stride=stride, rngs=rngs)
        self.conv3 = Conv(dim // 4, dim, (1, 1), rngs=rngs)
        self.downsample = Chain([Conv(in_dim, dim, (1, 1), stride=stride, rngs=rngs), InstanceNorm()]) if stride > 1 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for conv in (self.conv1, self.conv2, self.conv3):
            y = jax.nn.relu(InstanceNorm()(conv(y)))
        return jax.nn.relu(y + (x if self.downsample is None else self.downsample(x)))


class FeatureEncoder(nnx.Module):
    """Picture [B, Y, X, 3] -> [B, Y / 8, X / 8, 84], to correlate."""

    def __init__(self, *, rngs: nnx.Rngs):
        def layer(in_dim, dim, stride):
            return Chain([Bottleneck(in_dim, dim, stride=stride, rngs=rngs), Bottleneck(dim, dim, stride=1, rngs=rngs)])

        self.conv1 = Conv(3, 32, (7, 7), stride=2, padding=3, rngs=rngs)
        self.layer1, self.layer2, self.layer3 = layer(32, 32, 1), layer(32, 64, 2), layer(64, 96, 2)
        self.conv2 = Conv(96, 84, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(InstanceNorm()(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class Encoder(nnx.Module):
    """Picture -> features of half its size, a quarter, an eighth and a sixteenth."""

    def __init__(self, *, rngs: nnx.Rngs):
        dims = (3, *CHANNELS)
        self.pyramid1, self.pyramid2, self.pyramid3, self.pyramid4 = (
            Chain([conv_prelu(dims[k], dims[k + 1], stride=2, rngs=rngs), conv_prelu(dims[k + 1], dims[k + 1], rngs=rngs)])
            for k in range(4)
        )

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        features = []
        for pyramid in (self.pyramid1, self.pyramid2, self.pyramid3, self.pyramid4):
            x = pyramid(x)
            features.append(x)
        return features


class ResBlock(nnx.Module):
    """Five convolutions, two of them of the last channels only."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.conv1, self.conv3 = (conv_prelu(dim, dim, rngs=rngs) for _ in range(2))
        self.conv2, self.conv4 = (conv_prelu(SKIP, SKIP, rngs=rngs) for _ in range(2))
        self.conv5 = conv3(dim, dim, rngs=rngs)
        self.prelu = PReLU(dim)

    def __call__(self, x: jax.Array) -> jax.Array:
        def side(y, conv):
            return jnp.concatenate([y[..., :-SKIP], conv(y[..., -SKIP:])], -1)

        y = self.conv3(side(self.conv1(x), self.conv2))
        return self.prelu(x + self.conv5(side(y, self.conv4)))


class Decoder(nnx.Module):
    """Convolutions that end at twice the size."""

    def __init__(self, in_dim: int, dim: int, out_dim: int, *, rngs: nnx.Rngs):
        self.convblock = Chain([conv_prelu(in_dim, dim, rngs=rngs), ResBlock(dim, rngs=rngs), Double(dim, out_dim, rngs=rngs)])

    def __call__(self, *parts: jax.Array) -> jax.Array:
        return self.convblock(jnp.concatenate(parts, -1))


class Update(nnx.Module):
    """Residues of features and of both flows, from correlations an eighth as large as the pictures."""

    def __init__(self, dim: int, factor: int, *, rngs: nnx.Rngs):
        def head(out_dim, in_dim=76):
            return Chain([conv3(in_dim, 76, rngs=rngs), Leaky(), conv3(76, out_dim, rngs=rngs)])

        self.factor = factor
        self.convc1 = Conv(2 * LEVELS * (2 * RADIUS + 1) ** 2, 64, (1, 1), rngs=rngs)
        self.convf1 = Conv(4, 40, (7, 7), padding=3, rngs=rngs)
        self.convf2 = conv3(40, 20, rngs=rngs)
        self.conv = conv3(84, 68, rngs=rngs)
        self.gru = head(76, 68 + 4 + dim)
        self.feat_head, self.flow_head = head(dim), head(4)

    def __call__(self, features: jax.Array, flows: jax.Array, correlation: jax.Array) -> tuple[jax.Array, jax.Array]:
        leaky = Leaky()
        flow = leaky(self.convf2(leaky(self.convf1(flows))))
        motion = leaky(self.conv(jnp.concatenate([leaky(self.convc1(correlation)), flow], -1)))
        hidden = self.gru(jnp.concatenate([motion, flows, scale(features, 1 / self.factor)], -1))
        return scale(self.feat_head(hidden), self.factor), self.factor * scale(self.flow_head(hidden), self.factor)


def correlate(first: jax.Array, second: jax.Array) -> list[jax.Array]:
    """Features [B, H, W, C] twice -> [B, H, W, H / 2^k, W / 2^k]: each pixel of the first with all of the second, for each level."""
    levels = [jnp.einsum("bhwc,byxc->bhwyx", first, second) / first.shape[-1] ** 0.5]
    for _ in range(LEVELS - 1):
        fine = levels[-1]
        rows, columns = fine.shape[3] // 2, fine.shape[4] // 2
        fine = fine[..., : 2 * rows, : 2 * columns].reshape(*fine.shape[:3], rows, 2, columns, 2)
        levels.append(jnp.mean(fine, (4, 6)))
    return levels


def look_up(levels: list[jax.Array], where: jax.Array) -> jax.Array:
    """Bilinear samples of 7×7 around `where` [B, H, W, 2] on every level -> [B, H, W, levels · 49], offsets across first.

    Weights of all rows and columns, nearly all of them zero, take less time than gathering; beyond the edge lies zero.
    """
    found = []
    for level, correlation in enumerate(levels):
        offsets = jnp.arange(-RADIUS, RADIUS + 1)
        centre = where[..., None, :] / 2**level + offsets[:, None]
        across = jnp.maximum(1 - jnp.abs(centre[..., 0, None] - jnp.arange(correlation.shape[4])), 0)
        down = jnp.maximum(1 - jnp.abs(centre[..., 1, None] - jnp.arange(correlation.shape[3])), 0)
        samples = jnp.einsum("bhwax,bhwdy,bhwyx->bhwad", across, down, correlation)
        found.append(samples.reshape(*samples.shape[:3], -1))
    return jnp.concatenate(found, -1)


class AMT(nnx.Module):
    """Two pictures to the one in the middle between them."""

    def __init__(self, *, rngs: nnx.Rngs):
        one, two, three, four = CHANNELS
        self.feat_encoder = FeatureEncoder(rngs=rngs)
        self.encoder = Encoder(rngs=rngs)
        self.decoder4 = Decoder(2 * four + 1, 2 * four, three + 4, rngs=rngs)
        self.decoder3 = Decoder(3 * three + 4, 3 * three, two + 4, rngs=rngs)
        self.decoder2 = Decoder(3 * two + 4, 3 * two, one + 4, rngs=rngs)
        self.decoder1 = Decoder(3 * one + 4, 3 * one, 8 * FLOWS, rngs=rngs)
        self.update4, self.update3, self.update2 = (
            Update(dim, factor, rngs=rngs) for dim, factor in ((three, 1), (two, 2), (one, 4))
        )
        self.comb_block = Chain([conv3(3 * FLOWS, 6 * FLOWS, rngs=rngs), PReLU(6 * FLOWS), conv3(6 * FLOWS, 3, rngs=rngs)])

    def __call__(self, before: jax.Array, after: jax.Array) -> jax.Array:
        """Pictures [B, Y, X, 3] in [0, 1], both sides multiples of 16 and at least 128 -> [B, Y, X, 3], not cut off at 0 and 1.

        Raises:
            ValueError: sides that do not fit.
        """
        rows, columns = before.shape[1:3]
        if min(rows, columns) < SMALLEST or rows % MULTIPLE or columns % MULTIPLE:
            raise ValueError(f"{rows}×{columns} does not fit AMT: both must be multiples of {MULTIPLE} and at least {SMALLEST}")
        mean = jnp.mean(jnp.stack([before, after]), (0, 2, 3, 4))[:, None, None, None]
        pictures = jnp.concatenate([before - mean, after - mean])

        maps = self.feat_encoder(pictures)
        correlations = correlate(maps, swapped(maps))
        pyramid = self.encoder(pictures)
        x, y = jnp.meshgrid(jnp.arange(columns // 8), jnp.arange(rows // 8))
        here = jnp.stack([x, y], -1)

        def refine(update, flow, features):
            small = scale(flow, 1 / update.factor) / update.factor
            # Flow from the middle to one picture, doubled, is that from the other picture to it.
            found = look_up(correlations, here + 2 * swapped(small))
            feature_residue, flow_residue = update(features, beside(small), beside(found))
            return flow + apart(flow_residue), features + feature_residue

        def decode(decoder, features, flow, level):
            return decoder(features, beside(warp(pyramid[level], flow)), beside(flow))

        coarse = beside(pyramid[3])
        out = self.decoder4(coarse, jnp.full((*coarse.shape[:3], 1), 0.5))
        flow, features = refine(self.update4, apart(out[..., :4]), out[..., 4:])
        for decoder, update, level in ((self.decoder3, self.update3, 2), (self.decoder2, self.update2, 1)):
            out = decode(decoder, features, flow, level)
            flow, features = refine(update, apart(out[..., :4]) + 2 * scale(flow, 2), out[..., 4:])
        return self._blend(pictures, mean, decode(self.decoder1, features, flow, 0), 2 * scale(flow, 2))

    def _blend(self, pictures: jax.Array, mean: jax.Array, out: jax.Array, flow: jax.Array) -> jax.Array:
        """The pictures warped by `FLOWS` flows each, which `out` [B, Y, X, 8 · FLOWS] tells from `flow`, and joined by its masks."""
        batch, rows, columns = out.shape[:3]

        def each(x):
            """[..., FLOWS · C] -> [FLOWS, ..., C]"""
            return jnp.moveaxis(x.reshape(*x.shape[:3], FLOWS, -1), 3, 0)

        flows, mask, residue = jnp.split(out, (4 * FLOWS, 5 * FLOWS), -1)
        flows = (each(apart(flows)) + flow).reshape(-1, rows, columns, 2)
        warped = warp(jnp.tile(pictures, (FLOWS, 1, 1, 1)), flows).reshape(FLOWS, 2, batch, rows, columns, 3)
        share = each(jax.nn.sigmoid(mask))
        blends = share * warped[:, 0] + (1 - share) * warped[:, 1] + mean + each(residue)
        return jnp.mean(blends, 0) + self.comb_block(jnp.concatenate(list(blends), -1))
