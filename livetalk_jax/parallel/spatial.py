"""Pictures cut into rows and columns of devices: exact halos, and the seams that need the whole picture.

Every array on its way from noise to pixels is cut at the same places, multiples of a token (2 latents, 16 pixels). A picture whose
tokens do not divide is padded at the bottom and on the right; what stands there is never seen by a true pixel.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from livetalk_jax.parallel.mesh import Names

ROWS, COLUMNS = 2, 3  # of videos and latents [B, F, Y, X, C]


@dataclasses.dataclass(frozen=True)
class Side:
    """Rows or columns of the picture, as they lie on devices.

    Attributes:
        names: mesh axes; () on one device.
        parts: devices along it.
        tokens: of the true picture.
    """

    names: Names
    parts: int
    tokens: int

    @property
    def local(self) -> int:
        """Tokens of one device."""
        return math.ceil(self.tokens / self.parts)

    @property
    def padded(self) -> bool:
        return self.local * self.parts != self.tokens

    def scale(self, size: int) -> int:
        """Pixels a token of an array that has `size` of them on each device."""
        scale, rest = divmod(size, self.local)
        if rest:
            raise ValueError(f"{size} rows or columns on a device are not a multiple of its {self.local} tokens")
        return scale

    def valid(self, size: int) -> jax.Array:
        """bool [size]: which of this device's rows or columns lie in the true picture."""
        first = jax.lax.axis_index(self.names) * size
        return first + jnp.arange(size) < self.tokens * self.scale(size)

    def without_padding(self, x: jax.Array, axis: int) -> jax.Array:
        """x with zeros outside the true picture."""
        if not self.padded:
            return x
        shape = [1] * x.ndim
        shape[axis] = x.shape[axis]
        return jnp.where(self.valid(x.shape[axis]).reshape(shape), x, jnp.zeros((), x.dtype))

    def exchange(self, first: jax.Array, last: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The `last` of the device before and the `first` of the one behind; zeros where there is none."""
        if self.parts == 2 and first.shape == last.shape:
            # Each has one neighbour: both directions in one exchange, which XLA would otherwise run one after the other.
            leads = jax.lax.axis_index(self.names) == 0
            received = jax.lax.ppermute(jnp.where(leads, last, first), self.names, [(0, 1), (1, 0)])
            zeros = jnp.zeros_like(received)
            return jnp.where(leads, zeros, received), jnp.where(leads, received, zeros)
        down = [(i, i + 1) for i in range(self.parts - 1)]
        up = [(i + 1, i) for i in range(self.parts - 1)]
        before, behind = (
            jax.lax.ppermute(edge, self.names, pairs) if edge.size else edge for edge, pairs in ((last, down), (first, up))
        )
        return before, behind

    def cut(self, x: jax.Array, axis: int) -> jax.Array:
        """This device's part of x, which is whole along `axis`."""
        if self.parts == 1:
            return x
        size = self.local * (x.shape[axis] // self.tokens)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, size * self.parts - x.shape[axis])
        return jax.lax.dynamic_slice_in_dim(jnp.pad(x, widths), jax.lax.axis_index(self.names) * size, size, axis)


def _edges(x: jax.Array, axis: int, low: int, high: int) -> tuple[jax.Array, jax.Array]:
    """The first `high` and the last `low` along an axis: what the neighbours' margins hold."""
    size = x.shape[axis]
    return jax.lax.slice_in_dim(x, 0, high, axis=axis), jax.lax.slice_in_dim(x, size - low, size, axis=axis)


def _write(x: jax.Array, strip: jax.Array, row: int, column: int) -> jax.Array:
    return jax.lax.dynamic_update_slice(x, strip, (0, 0, row, column, 0)) if strip.size else x


@dataclasses.dataclass(frozen=True)
class Picture:
    """The seams of `Parallel` for a picture cut into rows and columns."""

    rows: Side
    columns: Side
    names: Names  # of the whole grid, row by row

    def pad(self, x: jax.Array, low: int, high: int) -> jax.Array:
        """[B, F, Y, X, C] with `low` of the neighbours' rows and columns before and `high` behind, zeros at the picture's edge."""
        x = self.columns.without_padding(self.rows.without_padding(x, ROWS), COLUMNS)
        # Zeros first, and what arrives is written over them: the one large copy does not wait for the neighbours.
        out = jnp.pad(x, ((0, 0), (0, 0), (low, high), (low, high), (0, 0)))
        height, width = x.shape[ROWS], x.shape[COLUMNS]
        first, last = _edges(x, COLUMNS, low, high)
        top = low
        if self.rows.parts > 1:
            above, below = self.rows.exchange(*_edges(x, ROWS, low, high))
            out = _write(_write(out, above, 0, low), below, low + height, low)
            # Columns travel with what has come from above and below them, for the corners.
            around = zip(_edges(above, COLUMNS, low, high), (first, last), _edges(below, COLUMNS, low, high), strict=True)
            first, last = (jnp.concatenate(pieces, ROWS) for pieces in around)
            top = 0
        if self.columns.parts > 1:
            left, right = self.columns.exchange(first, last)
            out = _write(_write(out, left, top, 0), right, top, low + width)
        return out

    def take(self, x: jax.Array, axis: int) -> jax.Array:
        """The part held here of x, whole, with rows at `axis` and columns behind them."""
        return self.columns.cut(self.rows.cut(x, axis), axis + 1)

    def gather(self, x: jax.Array) -> jax.Array:
        """[B, rows, columns, ...] held here -> the true picture, on every device."""
        batch, rows, columns, *rest = x.shape
        true = (self.rows.tokens * self.rows.scale(rows), self.columns.tokens * self.columns.scale(columns))
        # One exchange for both sides, on a leading axis: what arrives is contiguous.
        x = jax.lax.all_gather(x, self.names)
        x = x.reshape(self.rows.parts, self.columns.parts, batch, rows, columns, *rest)
        x = jnp.moveaxis(x, (0, 1), (1, 3)).reshape(batch, self.rows.parts * rows, self.columns.parts * columns, *rest)
        return x[:, : true[0], : true[1]]

    def mean(self, x: jax.Array, over: Sequence[int]) -> jax.Array:
        """Mean of [B, F, Y, X, C] over rows and columns of the true picture."""
        if tuple(over) != (ROWS, COLUMNS):
            raise ValueError(f"a mean over axes {tuple(over)} of a picture on several devices is not defined, only over (2, 3)")
        count = math.prod(
            side.tokens * side.scale(size) for side, size in ((self.rows, x.shape[ROWS]), (self.columns, x.shape[COLUMNS]))
        )
        x = self.columns.without_padding(self.rows.without_padding(x, ROWS), COLUMNS)
        return jax.lax.psum(jnp.sum(x, over, keepdims=True), self.names) / count

    def _true_tokens(self, x: jax.Array, over: Sequence[int], otherwise: float) -> jax.Array:
        """Tokens x [B, N, C] with `otherwise` in place of padding."""
        if tuple(over) != (1,):
            raise ValueError(f"a maximum over axes {tuple(over)} of tokens on several devices is not defined, only over (1,)")
        h, w = self.rows.local, self.columns.local
        valid = jnp.ones((h, w), bool)
        if self.rows.padded:
            valid &= self.rows.valid(h)[:, None]
        if self.columns.padded:
            valid &= self.columns.valid(w)[None, :]
        frames = x.shape[1] // (h * w)
        return jnp.where(jnp.tile(valid.reshape(-1), frames)[None, :, None], x, otherwise)

    # Gathered rather than lax.pmax and lax.pmin, which have no derivative.

    def max(self, x: jax.Array, over: Sequence[int]) -> jax.Array:
        """Maximum of [B, N, C] over all true tokens."""
        here = jnp.max(self._true_tokens(x, over, -jnp.inf), over, keepdims=True)
        return jnp.max(jax.lax.all_gather(here, self.names), 0)

    def min(self, x: jax.Array, over: Sequence[int]) -> jax.Array:
        """Minimum of [B, N, C] over all true tokens."""
        here = jnp.min(self._true_tokens(x, over, jnp.inf), over, keepdims=True)
        return jnp.min(jax.lax.all_gather(here, self.names), 0)
