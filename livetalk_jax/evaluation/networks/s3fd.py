"""S3FD (arXiv 1708.05237), which finds faces; published with SyncNet (joonson/syncnet_python, `detectors/s3fd`).

A VGG-16 and four convolutions behind it; at six scales every pixel says how likely a face of that scale is there, and where.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.conversion.table import CONV2D, SAME, Rule
from livetalk_jax.evaluation.networks.layers import Conv, max_pool, resize_bilinear
from livetalk_jax.evaluation.networks.running import evaluate

# Of the colours that it was trained on.
RGB_MEAN = (123.0, 117.0, 104.0)
# Pixels: sides of the faces that each scale looks for, and between its places.
FACES, STEPS = (16, 32, 64, 128, 256, 512), (4, 8, 16, 32, 64, 128)
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2

# Channels of VGG-16's groups of convolutions, and where in its list of layers scales are taken.
_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_TAKEN = {15: "L2Norm3_3", 22: "L2Norm4_3", 29: "L2Norm5_3"}

TABLE = (
    Rule("{name}.weight", "{name}.kernel", CONV2D),
    Rule("{name}.weight", "{name}.scale", SAME),
    Rule("{name}.bias", "{name}.bias", SAME),
)
"""For `sfd_face.pth`."""


class UnitNorm(nnx.Module):
    """x / (‖x‖ + 1e-10) · scale over the channels."""

    def __init__(self, dim: int, start: float):
        self.scale = nnx.Param(jnp.full((dim,), start, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x / (jnp.sqrt(jnp.sum(jnp.square(x), -1, keepdims=True)) + 1e-10) * self.scale[...]


class ReLU(nnx.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x)


class Halve(nnx.Module):
    """The largest value of 2×2."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(x, (2, 2), 2)


class S3FD(nnx.Module):
    """Pictures to places where faces may be."""

    def __init__(self, *, rngs: nnx.Rngs):
        layers: list[nnx.Module] = []
        dim = 3
        for group in _GROUPS:
            for out_dim in group:
                layers += [Conv(dim, out_dim, (3, 3), padding=1, rngs=rngs), ReLU()]
                dim = out_dim
            layers.append(Halve())
        layers += [Conv(512, 1024, (3, 3), padding=6, dilation=6, rngs=rngs), ReLU(), Conv(1024, 1024, (1, 1), rngs=rngs), ReLU()]
        self.vgg = nnx.List(layers)
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = UnitNorm(256, 10), UnitNorm(512, 8), UnitNorm(512, 5)
        narrow = [Conv(1024, 256, (1, 1), rngs=rngs), Conv(512, 128, (1, 1), rngs=rngs)]
        halve = [Conv(dim, 2 * dim, (3, 3), stride=2, padding=1, rngs=rngs) for dim in (256, 128)]
        self.extras = nnx.List([narrow[0], halve[0], narrow[1], halve[1]])
        dims = (256, 512, 512, 1024, 512, 256)
        self.loc = nnx.List([Conv(dim, 4, (3, 3), padding=1, rngs=rngs) for dim in dims])
        # The finest scale has three kinds of background, of which the likeliest counts.
        self.conf = nnx.List([Conv(dim, 2 if k else 4, (3, 3), padding=1, rngs=rngs) for k, dim in enumerate(dims)])

    def __call__(self, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Pictures [B, Y, X, 3], red first, 0 to 255, sides multiples of 32 -> likelihoods [B, N], boxes [B, N, 4] in pixels.

        A box is left, top, right, bottom.
        """
        x = pictures - jnp.asarray(RGB_MEAN)
        sources = []
        for k, layer in enumerate(self.vgg):
            x = layer(x)
            if k in _TAKEN:
                sources.append(getattr(self, _TAKEN[k])(x))
        sources.append(x)
        for k, extra in enumerate(self.extras):
            x = jax.nn.relu(extra(x))
            if k % 2:
                sources.append(x)

        scores, boxes = [], []
        for source, loc, conf, face, step in zip(sources, self.loc, self.conf, FACES, STEPS, strict=True):
            logits = conf(source)
            background = jnp.max(logits[..., :-1], -1)
            scores.append(jax.nn.sigmoid(logits[..., -1] - background).reshape(len(x), -1))
            boxes.append(_boxes(loc(source), face, step).reshape(len(x), -1, 4))
        return jnp.concatenate(scores, 1), jnp.concatenate(boxes, 1)


def _boxes(offsets: jax.Array, face: int, step: int) -> jax.Array:
    """Offsets [B, H, W, 4] of a scale's places -> boxes."""
    across, down = ((jnp.arange(n) + 0.5) * step for n in (offsets.shape[2], offsets.shape[1]))
    places = jnp.stack(jnp.meshgrid(across, down), -1)
    centre = places + offsets[..., :2] * CENTRE_VARIANCE * face
    half = face * jnp.exp(offsets[..., 2:] * SIZE_VARIANCE) / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def find_face(network: S3FD, picture: np.ndarray, longer_side: int = 320) -> tuple[float, np.ndarray]:
    """The likeliest face of a picture uint8 [Y, X, 3]: how likely, and its box [4] in pixels.

    The picture is looked at with its longer side as given: faces fill a portrait, and the network knows none above 512 pixels.
    """
    height, width = picture.shape[:2]
    factor = longer_side / max(height, width)
    rows, columns = round(height * factor), round(width * factor)
    small = resize_bilinear(jnp.asarray(picture, jnp.float32), rows, columns)
    room = jnp.broadcast_to(jnp.asarray(RGB_MEAN), (-(-rows // 32) * 32, -(-columns // 32) * 32, 3))
    scores, boxes = evaluate(network, room.at[:rows, :columns].set(small)[None])
    best = int(jnp.argmax(scores[0]))
    return float(scores[0, best]), np.asarray(boxes[0, best]) / np.tile([columns / width, rows / height], 2)
