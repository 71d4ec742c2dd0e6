"""The VAE in rows and columns: exactly one device's with halos, exactly the published tiles with overlap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from livetalk_jax.kernels.attention import reference
from livetalk_jax.models.vae import VAE as Network
from livetalk_jax.parallel.layout import WHOLE
from livetalk_jax.parallel.plan import Plan

from .small import EVEN, UNEVEN, VAE, error, lay, random


@pytest.fixture(scope="module")
def vae() -> Network:
    network = Network(VAE, rngs=nnx.Rngs(0))
    seeds = iter(range(10_000))
    nnx.update(network, jax.tree.map(lambda x: x + 0.05 * random(next(seeds), *x.shape), nnx.state(network, nnx.Param)))
    return network


def video_and_latents(token_grid):
    h, w = token_grid
    return np.tanh(random(0, 1, 5, 16 * h, 16 * w, 3)), random(1, 1, 2, 2 * h, 2 * w, 16)


def both(plan: Plan, token_grid, vae, video, latents):
    """Latents of the video and video of the latents, which on several devices is decoded in two pieces, as streaming does."""
    layout = lay(plan, token_grid)
    parallel = layout.parallel(reference.attention)

    def run(vae, video, latents):
        split = layout.vae(vae)
        encoded, latents = split.encode(parallel.take_spatial(video, 2), parallel=parallel), parallel.take_spatial(latents, 2)
        if plan.devices == 1:
            return encoded, split.decode(latents, parallel=parallel)
        first, cache = split.decode_first(latents[:, :1], parallel=parallel)
        others, _ = split.decode_next(latents[:, 1:], cache, parallel=parallel)
        return encoded, jnp.concatenate([first, others], 1)

    encoded, decoded = layout.spread(run, (WHOLE,) * 3, (layout.cut(2),) * 2)(vae, video, latents)
    h, w = token_grid
    return encoded[:, :, : 2 * h, : 2 * w], decoded[:, :, : 16 * h, : 16 * w]


@pytest.fixture(scope="module")
def on_one_device(vae):
    @functools.cache
    def run(token_grid):
        return jax.jit(functools.partial(both, Plan(), token_grid))(vae, *video_and_latents(token_grid))

    return run


@pytest.mark.parametrize(
    ("plan", "token_grid"),
    [
        (Plan(ulysses=8, rows=4, columns=2), UNEVEN),
        (Plan(ulysses=8, rows=2, columns=4), UNEVEN[::-1]),
        (Plan(ulysses=8, rows=8, columns=1), (15, 1)),
        (Plan(ulysses=4, rows=1, columns=4), EVEN[::-1]),
    ],
    ids=["4x2-of-7x3", "2x4-of-3x7", "8x1-of-15x1", "1x4-of-2x4"],
)
def test_halos_are_exact(vae, on_one_device, plan, token_grid):
    ours = jax.jit(functools.partial(both, plan, token_grid))(vae, *video_and_latents(token_grid))
    for mine, theirs in zip(ours, on_one_device(token_grid), strict=True):
        assert error(mine, theirs) < 1e-5


def published(compute, x, rows: int, columns: int, margin: int, unit: int, out_unit: int):
    """Every device's tile as the published `decode_dist_2d` and `encode_dist_2d` cut it, put together."""

    def tile(part, parts, size):
        keep = size // parts
        if parts == 1:
            return 0, size, 0, keep
        start = {0: 0, parts - 1: size - keep - 2 * margin}.get(part, part * keep - margin)
        return start, start + keep + 2 * margin, part * keep - start, keep

    out = []
    for row in range(rows):
        y0, y1, skip_y, keep_y = (n * unit for n in tile(row, rows, x.shape[2] // unit))
        line = []
        for column in range(columns):
            x0, x1, skip_x, keep_x = (n * unit for n in tile(column, columns, x.shape[3] // unit))
            done = compute(x[:, :, y0:y1, x0:x1])
            top, left, tall, wide = (n // unit * out_unit for n in (skip_y, skip_x, keep_y, keep_x))
            line.append(done[:, :, top : top + tall, left : left + wide])
        out.append(np.concatenate(line, 3))
    return np.concatenate(out, 2)


def test_overlap_is_the_published_one(vae):
    """Seven token rows are cut in the middle of a token, where nothing else of ours is; columns have tiles with both neighbours."""
    plan, token_grid = Plan(ulysses=8, rows=2, columns=4, vae_split="overlap"), (7, 8)
    video, latents = video_and_latents(token_grid)
    encoded, decoded = jax.jit(functools.partial(both, plan, token_grid))(vae, video, latents)

    decode = jax.jit(lambda z: jnp.clip(vae.decode(z), -1, 1))
    assert error(decoded, published(decode, latents, 2, 4, 2, 1, 8)) < 1e-5
    encode = jax.jit(vae.encode)
    assert error(encoded, published(encode, video, 2, 4, 1, 8, 1)) < 1e-5


def test_overlap_is_not_exact(vae, on_one_device):
    """That is why it is not the default."""
    plan = Plan(ulysses=2, rows=2, vae_split="overlap")
    decoded = jax.jit(functools.partial(both, plan, UNEVEN))(vae, *video_and_latents(UNEVEN))[1]
    assert error(decoded, np.clip(on_one_device(UNEVEN)[1], -1, 1)) > 1e-4
