"""The few places where devices must talk, each an identity on one device.

Networks are written for "the tokens and pixels that I hold" and call these; they never see a mesh. Plans that spread one model over
several devices replace the fields (`design.md`, section 2), the network code stays as it is.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from livetalk_jax.kernels.attention import attention
from livetalk_jax.kernels.norm_rope import norm_rope


def _pad_zeros(x, low: int, high: int):
    return jnp.pad(x, ((0, 0), (0, 0), (low, high), (low, high), (0, 0)))


@dataclasses.dataclass(frozen=True)
class Parallel:
    """One device by default.

    Attributes:
        attend: self-attention over all video tokens. q, k, v: [B, N, A, K], the tokens held here; returns [B, N, A, K]. With
            `row_multiple`, `key_length` tells how many of them are tokens.
        attend_local: attention whose keys and values are whole on every device (text, image, audio). Same shapes, any key length.
        norm_rope: norm and rotary positions of self-attention's queries and keys, as `kernels.norm_rope` specifies it.
        pad_spatial: (x, low, high) pads rows and columns of x [B, F, Y, X, C] by what the neighbours hold, zeros at the edge.
        gather_spatial: [B, rows, columns, ...] held here -> the whole picture.
        take_spatial: (x, axis) the part held here of x, which is whole, with rows at `axis` and columns behind them.
        row_multiple: tokens are padded to a multiple of this, which matrix products want (8 in bfloat16, 16 in 8 bits); without it
            XLA copies every operand of every linear layer to pad it.
        mean: of a video [B, F, Y, X, C] over axes (2, 3), the whole picture's rows and columns.
        max, min: of tokens [B, N, C] over axis 1, all tokens.
    """

    attend: Callable[..., jax.Array] = attention
    attend_local: Callable[..., jax.Array] = attention
    norm_rope: Callable[..., jax.Array] = norm_rope
    pad_spatial: Callable[[jax.Array, int, int], jax.Array] = _pad_zeros
    gather_spatial: Callable[[jax.Array], jax.Array] = lambda x: x
    take_spatial: Callable[[jax.Array, int], jax.Array] = lambda x, axis: x
    row_multiple: int = 1
    mean: Callable[[jax.Array, Sequence[int]], jax.Array] = lambda x, axes: jnp.mean(x, axes, keepdims=True)
    max: Callable[[jax.Array, Sequence[int]], jax.Array] = lambda x, axes: jnp.max(x, axes, keepdims=True)
    min: Callable[[jax.Array, Sequence[int]], jax.Array] = lambda x, axes: jnp.min(x, axes, keepdims=True)


ONE_DEVICE = Parallel()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Part:
    """A weight of which this device holds a part: consecutive rows. Nothing can be computed with it before `gather_weights`.

    Attributes:
        rows: the part.
        axes: mesh axes of the devices that hold the others, in the order of the rows.
    """

    rows: jax.Array
    axes: tuple[str, ...] = dataclasses.field(metadata={"static": True})


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whole(rows: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.all_gather(rows, axes, axis=0, tiled=True)


def _whole_forward(rows: jax.Array, axes: tuple[str, ...]) -> tuple[jax.Array, None]:
    # Not `_whole` again: `nn.stack` knows what not to keep by the primitive, which would be hidden in it.
    return jax.lax.all_gather(rows, axes, axis=0, tiled=True), None


def _whole_backward(axes: tuple[str, ...], _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # A sum of 16-bit numbers loses what is small beside the rest, the more the more devices there are.
    summed = jax.lax.psum_scatter(gradient.astype(jnp.float32), axes, scatter_dimension=0, tiled=True)
    return (summed.astype(gradient.dtype),)


_whole.defvjp(_whole_forward, _whole_backward)


def gather_weights(tree: Any) -> Any:
    """A tree of weights with every `Part` whole. Its transpose sums gradients over devices, in float32, and leaves each its rows."""

    def whole(x):
        return _whole(x.rows, x.axes) if isinstance(x, Part) else x

    return jax.tree.map(whole, tree, is_leaf=lambda x: isinstance(x, Part))
