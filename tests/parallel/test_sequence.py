"""Self-attention of every plan against attention on one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from livetalk_jax.kernels.attention import reference
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.parallel.sequence import merge, tails

from .small import EVEN, HEADS, UNEVEN, error, lay, plans, random

FRAMES, WIDTH = 2, 4
CASES = [
    *((plan, UNEVEN) for devices in (2, 4, 8) for plan in plans(devices, UNEVEN)),
    *((plan, (9, 3)) for plan in plans(5, (9, 3))),
    *((plan, EVEN) for plan in plans(8, EVEN)),
    (dataclasses.replace(plans(4, UNEVEN)[0], head_groups=5), UNEVEN),
    (dataclasses.replace(plans(4, UNEVEN)[-1], head_groups=2), UNEVEN),
]


def tokens(seed: int, token_grid, frames: int = FRAMES) -> np.ndarray:
    """[1, T, h, w, A, K]"""
    return random(seed, 1, frames, *token_grid, HEADS, WIDTH)


def attend(plan: Plan, token_grid, q, k, v):
    layout = lay(plan, token_grid)
    parallel = layout.parallel(reference.attention)
    cut = PartitionSpec(None, None, layout.axes.rows or None, layout.axes.columns or None)

    def local(*whole):
        held = [parallel.take_spatial(x, 2) for x in whole]
        out = parallel.attend(*(x.reshape(1, -1, HEADS, WIDTH) for x in held))
        return out.reshape(held[0].shape)

    out = layout.spread(local, (PartitionSpec(),) * 3, cut)(q, k, v)
    return out[:, :, : token_grid[0], : token_grid[1]]


def whole(token_grid, q, k, v):
    return reference.attention(*(x.reshape(1, -1, HEADS, WIDTH) for x in (q, k, v))).reshape(q.shape)


@pytest.mark.parametrize(("plan", "token_grid"), CASES, ids=[f"{p.name}-on-{g[0]}x{g[1]}" for p, g in CASES])
def test_equals_one_device(plan, token_grid):
    q, k, v = (tokens(seed, token_grid) for seed in range(3))
    ours = jax.jit(functools.partial(attend, plan, token_grid))(q, k, v)
    assert error(ours, whole(token_grid, q, k, v)) < 1e-6


def test_the_published_grid_equals_one_device():
    """720×416 on eight, Ulysses in a ring; neither rows nor columns divide."""
    plan, token_grid = Plan(ulysses=4, ring=2, rows=2, columns=4), (45, 26)
    assert plan.problem(HEADS, token_grid) is None
    q, k, v = (tokens(seed, token_grid, frames=1) for seed in range(3))
    assert error(jax.jit(functools.partial(attend, plan, token_grid))(q, k, v), whole(token_grid, q, k, v)) < 1e-6


@pytest.mark.parametrize("plan", [plans(8, UNEVEN)[1]], ids=lambda plan: plan.name)
def test_gradients_of_ulysses_in_a_ring(plan):
    assert plan.ulysses > 1 and plan.ring > 1
    inputs = [tokens(seed, UNEVEN) for seed in range(3)]
    weights = tokens(3, UNEVEN)

    def gradients(call):
        return jax.jit(jax.grad(lambda *x: jnp.sum(call(UNEVEN, *x) * weights), (0, 1, 2)))(*inputs)

    for ours, theirs in zip(gradients(functools.partial(attend, plan)), gradients(whole), strict=True):
        assert error(ours, theirs) < 1e-5


def test_merge_is_attention_over_both():
    q, k, v = (random(seed, 2, 5, 3, 4) for seed in range(3))
    parts = [reference.attention(q, k[:, part], v[:, part], return_lse=True) for part in (slice(0, 2), slice(2, 5))]
    out, lse = merge(*parts)
    expected, expected_lse = reference.attention(q, k, v, return_lse=True)
    assert error(out, expected) < 1e-6
    assert error(lse, expected_lse) < 1e-6


def test_padding_goes_last_with_few_moves():
    """Only as many keys move as padding stood before the tail."""
    plan = Plan(ulysses=8, rows=4, columns=2)
    order = tails(plan, (45, 26), 9)
    assert order.lengths.tolist() == [45 * 26 * 9]
    padded = 48 * 26 * 9
    assert order.source.shape[1] <= padded - order.lengths[0]
    assert (order.source >= order.lengths[0]).all() and (order.target < order.lengths[0]).all()
    assert len(set(order.target[0].tolist())) == order.target.shape[1]


def test_nothing_moves_where_tokens_divide():
    order = tails(Plan(ulysses=2, columns=2), (45, 26), 9)
    assert order.source.shape == (1, 0)
