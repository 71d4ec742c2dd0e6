"""A DiT step of every plan against one device, with one and two persons, and its gradients; and what the program sends."""

import collections
import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from livetalk_jax.kernels.attention import reference
from livetalk_jax.kernels.norm_rope import norm_rope
from livetalk_jax.models.dit import DiT
from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.parallel.layout import ROW_MULTIPLE, WHOLE
from livetalk_jax.parallel.plan import Plan

from .small import DIT, EVEN, UNEVEN, error, lay, plans, random

FRAMES = 2  # latent frames
CASES = [
    *((plan, UNEVEN, 2) for devices in (2, 4, 8) for plan in plans(devices, UNEVEN)),
    *((plan, (9, 3), 2) for plan in plans(5, (9, 3))),
    (plans(8, EVEN)[0], EVEN, 1),
    (dataclasses.replace(plans(4, UNEVEN)[0], head_groups=2), UNEVEN, 1),
]


@pytest.fixture(scope="module")
def network() -> DiT:
    network = DiT(DIT, rngs=nnx.Rngs(0))
    # As made, gains are one and biases zero: what is mixed up there would not show.
    seeds = iter(range(10_000))
    state = nnx.state(network, nnx.Param)
    nnx.update(network, jax.tree.map(lambda x: x + 0.1 * random(next(seeds), *x.shape), state))
    return network


def inputs(token_grid, persons: int) -> dict:
    h, w = token_grid
    masks = np.zeros((3, h, w), np.float32)
    masks[0, : h // 2, :1], masks[1, h // 2 :, 1:] = 1, 1
    masks[2] = 1 - masks[:2].max(0)
    return {
        "latents": random(0, 1, FRAMES, 2 * h, 2 * w, 16),
        "condition": random(1, 1, FRAMES, 2 * h, 2 * w, 20),
        "text": random(2, 1, DIT.text_len, DIT.text_dim),
        "image": random(3, 1, 3, DIT.clip_dim),
        "windows": random(4, 1, persons, 4 * FRAMES - 3, DIT.audio_window, DIT.audio_blocks, DIT.audio_channels),
        "masks": masks.reshape(3, -1) if persons == 2 else None,
    }


def velocity(plan: Plan, token_grid, network: DiT, given: dict) -> jax.Array:
    """Of the true picture, [1, T, H, W, 16]."""
    layout = lay(plan, token_grid)
    parallel = layout.parallel(reference.attention)

    def step(network, given):
        tables = (jnp.asarray(t).reshape(FRAMES, *token_grid, -1) for t in rotary_3d((FRAMES, *token_grid), DIT.head_dim))
        return network(
            parallel.take_spatial(given["latents"], 2),
            parallel.take_spatial(given["condition"], 2),
            jnp.array([700.0]),
            rope=tuple(parallel.take_spatial(table, 1) for table in tables),
            context=network.context(given["text"], given["image"]),
            audio=network.audio(given["windows"]),
            masks=given["masks"],
            parallel=parallel,
        )

    out = layout.spread(step, (WHOLE, WHOLE), layout.cut(2))(network, given)
    return out[:, :, : 2 * token_grid[0], : 2 * token_grid[1]]


@pytest.mark.parametrize("plan", [Plan(), Plan(ulysses=2, columns=2)], ids=lambda plan: plan.name)
def test_queries_and_keys_take_the_norm_that_is_chosen(plan):
    """In every layer, with the tokens that a device holds, padded as matrix products want them."""
    seen = []

    def norm(x, weight, cos, sin, *, eps):
        seen.append((x.shape[1:], cos.shape[0], sin.shape[0], eps))
        return norm_rope(x, weight, cos, sin, eps=eps)

    layout = lay(plan, EVEN)
    parallel = layout.parallel(reference.attention, norm)
    network = nnx.eval_shape(lambda: DiT(DIT, rngs=nnx.Rngs(0)))
    held = FRAMES * math.prod(EVEN) // plan.devices

    def step(network, given):
        x, condition = (parallel.take_spatial(given[name], 2) for name in ("latents", "condition"))
        tables = (jnp.asarray(t).reshape(FRAMES, *EVEN, -1) for t in rotary_3d((FRAMES, *EVEN), DIT.head_dim))
        rope = tuple(parallel.take_spatial(table, 1) for table in tables)
        context, audio = network.context(given["text"], given["image"]), network.audio(given["windows"])
        return network(x, condition, jnp.ones(1), rope=rope, context=context, audio=audio, parallel=parallel)

    jax.eval_shape(layout.spread(step, in_specs=(WHOLE, WHOLE), out_specs=layout.cut(2)), network, inputs(EVEN, 1))
    rows = -(-held // ROW_MULTIPLE) * ROW_MULTIPLE
    assert seen == [((rows, DIT.dim), rows, rows, DIT.eps)] * (2 * DIT.num_layers)


@pytest.fixture(scope="module")
def on_one_device(network):
    @functools.cache
    def run(token_grid, persons: int):
        return np.asarray(jax.jit(functools.partial(velocity, Plan(), token_grid))(network, inputs(token_grid, persons)))

    return run


@pytest.mark.parametrize(
    ("plan", "token_grid", "persons"), CASES, ids=[f"{plan.name}-on-{grid[0]}x{grid[1]}-{persons}" for plan, grid, persons in CASES]
)
def test_step_equals_one_device(network, on_one_device, plan, token_grid, persons):
    ours = jax.jit(functools.partial(velocity, plan, token_grid))(network, inputs(token_grid, persons))
    assert error(ours, on_one_device(token_grid, persons)) < 1e-5


def test_gradients_equal_one_device(network):
    given = inputs(UNEVEN, 2)
    weights = random(9, 1, FRAMES, 2 * UNEVEN[0], 2 * UNEVEN[1], 16)
    plan = next(plan for plan in plans(8, UNEVEN) if plan.ulysses > 1 and plan.ring > 1)

    def gradients(plan):
        def loss(network, latents):
            return jnp.sum(velocity(plan, UNEVEN, network, {**given, "latents": latents}) * weights)

        by_network, by_latents = jax.jit(jax.grad(loss, (0, 1)))(network, given["latents"])
        return {"latents": by_latents, **{jax.tree_util.keystr(k): g for k, g in jax.tree_util.tree_leaves_with_path(by_network)}}

    ours, theirs = gradients(plan), gradients(Plan())
    assert len(theirs) > 50
    # Some gradients are sums that cancel (keys' biases): they are compared with the size of the rest.
    scale = np.sqrt(np.mean([np.mean(np.square(g)) for g in theirs.values()]))
    for name, gradient in theirs.items():
        difference = np.linalg.norm(ours[name] - gradient)
        assert difference < 1e-4 * max(np.linalg.norm(gradient), 0.01 * scale * gradient.size**0.5), name


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (Plan(ulysses=2, columns=2), {"all-to-all": 4}),
        (Plan(ulysses=2, columns=2, head_groups=4), {"all-to-all": 16}),
        (Plan(ring=2, columns=2), {"collective-permute": 2}),
        (Plan(ulysses=2, ring=2, rows=2, columns=2), {"all-to-all": 4, "collective-permute": 2}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_a_step_sends(network, plan, expected):
    """Nothing but the exchanges of self-attention, where the picture lies as it came in and goes out."""
    layout = lay(plan, EVEN)
    parallel = layout.parallel(reference.attention)
    given = inputs(EVEN, 1)
    rope = [jnp.asarray(table).reshape(FRAMES, *EVEN, -1) for table in rotary_3d((FRAMES, *EVEN), DIT.head_dim)]
    context, audio = network.context(given["text"], given["image"]), network.audio(given["windows"])

    def step(network, latents, condition, rope, context, audio):
        return network(latents, condition, jnp.array([1.0]), rope=rope, context=context, audio=audio, parallel=parallel)

    grid = layout.cut(2)
    program = jax.jit(layout.spread(step, (WHOLE, grid, grid, layout.cut(1), WHOLE, WHOLE), grid))
    text = program.lower(network, given["latents"], given["condition"], rope, context, audio).compile().as_text()
    sent = re.findall(r" (all-to-all|all-gather|all-reduce|collective-permute|reduce-scatter)(?:-start)?\(", text)
    assert collections.Counter(sent) == expected
