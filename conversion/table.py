"""The form of a conversion table: published name ↔ path of a parameter in our network, with a transform that has an inverse.

A network's table is a tuple of `Rule`s. Names are templates: `{i}`, `{j}` stand for an integer, the same on both sides, so one rule
serves every block and reads in both directions. `Unused` names tensors of a published file that our network does not have (a
text tower, a pre-training head); they are kept verbatim, so that an export is the whole file again.

A transform only moves numbers, it never computes with them: both directions are exact in every dtype, and running the inverse on
our shapes says which shapes a published file must have.
"""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transform:
    """`to_ours(*parts)` takes the published arrays of a rule, `to_published(ours, count)` gives those `count` arrays back."""

    to_ours: Callable[..., np.ndarray]
    to_published: Callable[[np.ndarray, int], tuple[np.ndarray, ...]]


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
    """Published tensors that match this template (`{name}` stands for any text) and that our network does not use.

    They may be absent: a file without them is complete.
    """

    published: str


def axes(*order: int) -> Transform:
    """Permute axes: `order` as for np.transpose, published → ours."""
    inverse = tuple(int(i) for i in np.argsort(order))
    return Transform(lambda x: np.transpose(x, order), lambda x, count: (np.transpose(x, inverse),))


def drop(*dropped: int) -> Transform:
    """Drop the published axes `dropped`, which have size 1 (published norms and tables carry them for broadcasting)."""
    return Transform(lambda x: np.squeeze(x, dropped), lambda x, count: (np.expand_dims(x, dropped),))


def concat(axis: int, then: Transform | None = None) -> Transform:
    """Join published tensors of equal shape along `axis`, then transform the whole."""

    def to_ours(*parts):
        whole = np.concatenate(parts, axis)
        return then.to_ours(whole) if then else whole

    def to_published(x, count):
        whole = then.to_published(x, 1)[0] if then else x
        return tuple(np.split(whole, count, axis))

    return Transform(to_ours, to_published)


SAME = Transform(lambda x: x, lambda x, count: (x,))
LINEAR = axes(1, 0)  # torch [out, in] -> ours [in, out]
CONV1D = axes(2, 1, 0)  # [out, in, k] -> [k, in, out]
CONV2D = axes(2, 3, 1, 0)  # [out, in, kh, kw] -> [kh, kw, in, out]
CONV3D = axes(2, 3, 4, 1, 0)  # [out, in, kt, kh, kw] -> [kt, kh, kw, in, out]
