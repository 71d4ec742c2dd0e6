"""Self-attention over tokens that lie on several devices: Ulysses, ring, and Ulysses inside a ring.

Ulysses (arXiv 2309.14509): devices exchange tokens for heads, each attends with its heads over all tokens, and back. Ring (arXiv
2310.01889): keys and values go round; each device merges what it finds in every block by its log-sum-exp.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from livetalk_jax.parallel.mesh import Names
from livetalk_jax.parallel.plan import Pair, Plan


@dataclasses.dataclass(frozen=True)
class Tails:
    """How the keys of each part of the ring are put in order, true ones first.

    Attributes:
        lengths: int32 [ring], true keys of each part.
        source, target: int32 [ring, moves]: key source[i] goes to place target[i], where padding was.
    """

    lengths: np.ndarray
    source: np.ndarray
    target: np.ndarray


@functools.lru_cache(maxsize=64)
def tails(plan: Plan, token_grid: Pair, frames: int) -> Tails:
    """Where padding stands among the tokens of a Ulysses group, whose devices' tokens [T, h, w] follow one another."""
    h, w = plan.local_tokens(token_grid)
    row, column = np.divmod(np.arange(plan.model_devices), plan.columns)
    valid = ((row * h)[:, None] + np.arange(h) < token_grid[0])[:, :, None] & (
        (column * w)[:, None] + np.arange(w) < token_grid[1]
    )[:, None, :]
    valid = np.broadcast_to(valid[:, None], (plan.model_devices, frames, h, w)).reshape(plan.ring, -1)
    lengths = valid.sum(-1)
    moves = [
        (length + np.flatnonzero(part[length:]), np.flatnonzero(~part[:length]))
        for part, length in zip(valid, lengths, strict=True)
    ]
    # Parts with fewer moves than others repeat one that changes nothing.
    most = max(len(source) for source, _ in moves)
    source, target = (np.stack([np.pad(move[i], (0, most - len(move[i]))) for move in moves]).astype(np.int32) for i in (0, 1))
    return Tails(lengths.astype(np.int32), source, target)


def merge(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Attention over two sets of keys from attention over each: pairs of output [B, N, A, K] and log-sum-exp [B, A, N], float32."""
    (out_a, lse_a), (out_b, lse_b) = a, b
    top = jnp.maximum(lse_a, lse_b)
    top = jnp.where(jnp.isneginf(top), 0.0, top)
    weight_a, weight_b = jnp.exp(lse_a - top), jnp.exp(lse_b - top)
    total = weight_a + weight_b
    share_a, share_b = (jnp.swapaxes(weight / total, 1, 2)[..., None] for weight in (weight_a, weight_b))
    return out_a * share_a + out_b * share_b, top + jnp.log(total)


@dataclasses.dataclass(frozen=True)
class SequenceAttention:
    """`Parallel.attend` for a plan.

    Attributes:
        kernel: attention of one device, as `kernels.attention` specifies it.
        token_grid: (h, w) of the true picture.
        ulysses, ring: mesh axes.
    """

    kernel: Callable[..., jax.Array]
    plan: Plan
    token_grid: Pair
    ulysses: Names
    ring: Names

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, *, key_length: int | None = None) -> jax.Array:
        """q, k, v of the tokens held here, [B, N, A, K] -> [B, N, A, K]; zeros behind the first `key_length` (None: N) of them."""
        rows = q.shape[1]
        out = self._of_tokens(*(x[:, :key_length] for x in (q, k, v)))
        return jnp.pad(out, ((0, 0), (0, rows - out.shape[1]), (0, 0), (0, 0)))

    def _of_tokens(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        h, w = self.plan.local_tokens(self.token_grid)
        order = tails(self.plan, self.token_grid, q.shape[1] // (h * w))
        if self.plan.ulysses == 1:
            return self._attend(q, *self._padding_last(k, v, order), order)
        groups = zip(*(self._by_owner(x) for x in (q, k, v)), strict=True)
        outs = []
        for group in groups:
            q, k, v = map(self._to_heads, group)
            outs.append(self._to_tokens(self._attend(q, *self._padding_last(k, v, order), order)))
        # [groups, owner, B, N, A', K] -> [B, N, owner, group, A', K]: heads in their own order again.
        out = jnp.stack(outs).transpose(2, 3, 1, 0, 4, 5)
        return out.reshape(*out.shape[:2], -1, out.shape[-1])

    def _by_owner(self, x: jax.Array) -> list[jax.Array]:
        """[B, N, A, K] -> for each group of heads [owner, B, N, A', K]."""
        x = x.reshape(*x.shape[:2], self.plan.ulysses, self.plan.head_groups, -1, x.shape[-1])
        return list(x.transpose(3, 2, 0, 1, 4, 5))

    def _exchange(self, x: jax.Array) -> jax.Array:
        # On the leading axis, so that neither side has to be reordered around the exchange.
        return jax.lax.all_to_all(x, self.ulysses, 0, 0, tiled=True)

    def _to_heads(self, x: jax.Array) -> jax.Array:
        """[owner, B, N, A', K] -> [B, member · N, A', K]: all tokens of the group, of the heads that are this device's."""
        x = jnp.moveaxis(self._exchange(x), 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])

    def _to_tokens(self, x: jax.Array) -> jax.Array:
        """[B, member · N, A', K] -> [owner, B, N, A', K]."""
        x = x.reshape(x.shape[0], self.plan.ulysses, -1, *x.shape[2:])
        return self._exchange(jnp.moveaxis(x, 1, 0))

    def _padding_last(self, k: jax.Array, v: jax.Array, order: Tails) -> tuple[jax.Array, jax.Array]:
        if not order.source.shape[1]:
            return k, v
        if self.plan.ring == 1:
            source, target = order.source[0], order.target[0]
        else:
            part = jax.lax.axis_index(self.ring)
            source, target = jnp.asarray(order.source)[part], jnp.asarray(order.target)[part]
        unique = self.plan.ring == 1
        k, v = (x.at[:, target].set(x[:, source], unique_indices=unique) for x in (k, v))
        return k, v

    def _attend(self, q: jax.Array, k: jax.Array, v: jax.Array, order: Tails) -> jax.Array:
        if self.plan.ring == 1:
            only = int(order.lengths[0])
            return self.kernel(q, k, v, key_length=None if only == k.shape[1] else only)
        size = self.plan.ring
        whole = bool((order.lengths == k.shape[1]).all())
        here, lengths = jax.lax.axis_index(self.ring), jnp.asarray(order.lengths)
        onward = [(i, (i + 1) % size) for i in range(size)]
        blocks = []
        for step in range(size):
            # The next block travels while this one is computed.
            following = jax.lax.ppermute((k, v), self.ring, onward) if step + 1 < size else (k, v)
            length = None if whole else lengths[(here - step) % size]
            out, lse = self.kernel(q, k, v, key_length=length, return_lse=True)
            blocks.append((out.astype(jnp.float32), lse))
            k, v = following
        return functools.reduce(merge, blocks)[0].astype(q.dtype)
