"""The form of a conversion table: published name ↔ path of a parameter in our network, with a transform that has an inverse.

A network's table is a tuple of `Rule`s. Names are templates: `{i}`, `{j}` stand for an integer, the same on both sides, so one rule
serves every block and reads in both directions. `Unused` names tensors of a published file that our network does not have (a
text tower, a pre-training head); they are kept verbatim, so that an export is the whole file again.
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transform:
    """`to_ours` takes the published arrays of a rule, `to_published(ours, shapes)` gives them back bit for bit."""

    to_ours: Callable[..., np.ndarray]
    to_published: Callable[[np.ndarray, tuple[tuple[int, ...], ...]], tuple[np.ndarray, ...]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter: `published` name template (several: they are joined by the transform), our `path` template, `transform`."""

    published: str | tuple[str, ...]
    path: str
    transform: Transform

    @property
    def names(self) -> tuple[str, ...]:
        return (self.published,) if isinstance(self.published, str) else self.published


@dataclasses.dataclass(frozen=True)
class Unused:
    """Published tensors that match this template (`{name}` stands for any text) and that our network does not use."""

    published: str


def axes(*order: int) -> Transform:
    """Permute axes: `order` as for np.transpose, published → ours."""
    inverse = tuple(int(i) for i in np.argsort(order))
    return Transform(lambda x: np.transpose(x, order), lambda x, shapes: (np.transpose(x, inverse),))


def reshape_to(rank: int) -> Transform:
    """Drop axes of size 1 until `rank` are left (published norms carry them for broadcasting)."""

    def squeeze(x):
        kept = [n for n in x.shape if n != 1]
        kept = [1] * (rank - len(kept)) + kept
        return x.reshape(kept)

    return Transform(squeeze, lambda x, shapes: (x.reshape(shapes[0]),))


def concat(axis: int, then: Transform | None = None) -> Transform:
    """Join several published tensors along `axis`, then transform the whole."""

    def to_ours(*parts):
        whole = np.concatenate(parts, axis)
        return then.to_ours(whole) if then else whole

    def to_published(x, shapes):
        total = list(shapes[0])
        total[axis] = sum(shape[axis] for shape in shapes)
        whole = then.to_published(x, (tuple(total),))[0] if then else x
        return tuple(np.split(whole, np.cumsum([shape[axis] for shape in shapes])[:-1], axis))

    return Transform(to_ours, to_published)


SAME = Transform(lambda x: x, lambda x, shapes: (x,))
LINEAR = axes(1, 0)  # torch [out, in] -> ours [in, out]
CONV1D = axes(2, 1, 0)  # [out, in, k] -> [k, in, out]
CONV2D = axes(2, 3, 1, 0)  # [out, in, kh, kw] -> [kh, kw, in, out]
CONV3D = axes(2, 3, 4, 1, 0)  # [out, in, kt, kh, kw] -> [kt, kh, kw, in, out]
