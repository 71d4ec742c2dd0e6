"""SyncNet ("Out of time", Chung and Zisserman 2016): do lips and sound belong together? Published: joonson/syncnet_python.

Two towers put five frames of a face and their 0.2 s of sound into one space, where distance is what counts. Of the lip tower only
the first convolution sees time, so a video is one evaluation, with the numbers of the published window by window.
"""

import functools

import jax
from flax import nnx

from livetalk_jax.conversion.table import CONV2D, CONV3D, LINEAR, SAME, Rule, Transform, Unused
from livetalk_jax.evaluation.networks.layers import BatchNorm, Conv, Padding, batch_norm_rules, max_pool
from livetalk_jax.nn.layers import Linear

SIZE = 224
# Of one window: frames, steps of MFCC (100 a second), coefficients.
FRAMES, STEPS, COEFFICIENTS = 5, 20, 13
FEATURES = 1024


class Unit(nnx.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel: tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        padding: Padding = 0,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(in_dim, out_dim, kernel, stride=stride, padding=padding, rngs=rngs)
        self.norm = BatchNorm(out_dim, eps=1e-5)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x)))


class Head(nnx.Module):
    """Linear, batch norm, ReLU, linear: [..., 512] -> [..., 1024]."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.fc1 = Linear(512, 512, rngs=rngs)
        self.norm = BatchNorm(512, eps=1e-5)
        self.fc2 = Linear(512, FEATURES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.relu(self.norm(self.fc1(x))))


class AudioTower(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        three = functools.partial(Unit, kernel=(3, 3), padding=1, rngs=rngs)
        dims = (1, 64, 192, 384, 256, 256)
        units = [three(dims[k], dims[k + 1]) for k in range(5)]
        self.units = nnx.List([*units, Unit(256, 512, (5, 4), rngs=rngs)])
        self.head = Head(rngs=rngs)

    def __call__(self, mfcc: jax.Array) -> jax.Array:
        """[B, 20, 13] -> [B, 1024]."""
        x = mfcc.swapaxes(1, 2)[..., None]
        x = max_pool(self.units[1](self.units[0](x)), (3, 3), (1, 2))
        x = max_pool(self.units[4](self.units[3](self.units[2](x))), (3, 3), 2)
        return self.head(self.units[5](x).reshape(len(x), -1))


class LipTower(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        three = functools.partial(Unit, kernel=(3, 3), padding=1, rngs=rngs)
        self.first = Unit(3, 96, (FRAMES, 7, 7), stride=(1, 2, 2), rngs=rngs)
        second = Unit(96, 256, (5, 5), stride=2, padding=1, rngs=rngs)
        middle = [three(256, 256) for _ in range(3)]
        self.units = nnx.List([second, *middle, Unit(256, 512, (6, 6), rngs=rngs)])
        self.head = Head(rngs=rngs)

    def __call__(self, faces: jax.Array) -> jax.Array:
        """[B, F, 224, 224, 3] -> [B, F − 4, 1024]."""
        x = self.first(faces)
        batch, frames = x.shape[:2]
        x = max_pool(x.reshape(-1, *x.shape[2:]), (3, 3), 2)
        x = max_pool(self.units[0](x), (3, 3), 2, 1)
        x = max_pool(self.units[3](self.units[2](self.units[1](x))), (3, 3), 2)
        return self.head(self.units[4](x).reshape(batch, frames, -1))


class SyncNet(nnx.Module):
    """Both towers.

    `lips` takes faces [B, F, 224, 224, 3], blue first, 0 to 255, and gives [B, F − 4, 1024], one for each five frames;
    `audio` takes MFCC [B, 20, 13] of the same times and gives [B, 1024].
    """

    def __init__(self, *, rngs: nnx.Rngs):
        self.audio = AudioTower(rngs=rngs)
        self.lips = LipTower(rngs=rngs)


def _unit(tower: str, number: int, ours: str, kernel: Transform) -> tuple[Rule, ...]:
    weight = Rule(f"{tower}.{number}.weight", f"{ours}.conv.kernel", kernel)
    return (
        weight,
        Rule(f"{tower}.{number}.bias", f"{ours}.conv.bias", SAME),
        *batch_norm_rules(f"{tower}.{number + 1}", f"{ours}.norm"),
    )


def _head(published: str, ours: str) -> tuple[Rule, ...]:
    linear = [
        rule
        for number, name in ((0, "fc1"), (3, "fc2"))
        for rule in (
            Rule(f"{published}.{number}.weight", f"{ours}.{name}.kernel", LINEAR),
            Rule(f"{published}.{number}.bias", f"{ours}.{name}.bias", SAME),
        )
    ]
    return *linear, *batch_norm_rules(f"{published}.1", f"{ours}.norm")


# Convolutions of the lip tower are 3D in the file, also where they see one frame.
_FRAMEWISE = Transform(
    lambda x: CONV2D.to_ours(x[:, :, 0]), lambda x, count: tuple(part[:, :, None] for part in CONV2D.to_published(x, count))
)
# Places of the convolutions in both published towers.
_PLACES = (0, 4, 8, 11, 14, 18)

TABLE = (
    *(rule for k, place in enumerate(_PLACES) for rule in _unit("netcnnaud", place, f"audio.units.{k}", CONV2D)),
    *_head("netfcaud", "audio.head"),
    *_unit("netcnnlip", 0, "lips.first", CONV3D),
    *(rule for k, place in enumerate(_PLACES[1:]) for rule in _unit("netcnnlip", place, f"lips.units.{k}", _FRAMEWISE)),
    *_head("netfclip", "lips.head"),
    Unused("{name}.num_batches_tracked"),
)
"""For `syncnet_v2.model`."""
