"""The optimiser against PyTorch's AdamW, averages, accumulation and LoRA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from livetalk_jax.parallel.seams import Part
from livetalk_jax.training import lora
from livetalk_jax.training.config import LoRAConfig, OptimizerConfig
from livetalk_jax.training.optimizer import SecondMoment, adamw, learning_rate
from livetalk_jax.training.state import Template, learn, materialize, new_learner

CONFIG = OptimizerConfig(
    learning_rate=1e-2,
    warmup_steps=0,
    decay_steps=0,
    b1=0.0,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.01,
    clip_norm=1.0,
    accumulate=1,
    ema_decay=0.0,
)
WEIGHTS = {"a.kernel": np.arange(12, dtype=np.float32).reshape(3, 4) / 10, "b": np.ones(5, np.float32)}


def changed(**fields):
    return dataclasses.replace(CONFIG, **fields)


def weights():
    return jax.tree.map(jnp.asarray, WEIGHTS)


def gradients(step):
    """Some of them over the clipping norm."""
    rng = np.random.default_rng(step)
    return {name: rng.standard_normal(w.shape).astype(np.float32) * (step + 1) / 5 for name, w in WEIGHTS.items()}


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_against_torch(b1):
    config = changed(b1=b1)
    learner = new_learner(weights(), config)
    theirs = {name: torch.nn.Parameter(torch.tensor(w)) for name, w in WEIGHTS.items()}
    optimizer = torch.optim.AdamW(theirs.values(), lr=1e-2, betas=(b1, 0.999), eps=1e-8, weight_decay=0.01)
    for step in range(5):
        for name, gradient in gradients(step).items():
            theirs[name].grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        optimizer.step()
        learner = learn(learner, jax.tree.map(jnp.asarray, gradients(step)), config)
    for name in WEIGHTS:
        np.testing.assert_allclose(learner.weights[name], theirs[name].detach().numpy(), rtol=1e-5)


def test_no_first_moment_is_kept():
    """With b1 = 0 the state is one array a weight; with b1 > 0 it is two."""
    arrays = [sum(x.size for x in jax.tree.leaves(adamw(changed(b1=b1)).init(weights()))) for b1 in (0.0, 0.9)]
    numbers = sum(w.size for w in WEIGHTS.values())
    assert [n // numbers for n in arrays] == [1, 2]
    assert any(isinstance(part, SecondMoment) for part in adamw(CONFIG).init(weights()))


def test_warm_up():
    """The n-th of 4 updates moves by n/4 of the whole rate, and none after that by more."""
    config = changed(warmup_steps=4, weight_decay=0.0, clip_norm=1e9)
    learner, moves = new_learner(weights(), config), []
    ones = jax.tree.map(jnp.ones_like, weights())
    for _ in range(6):
        before = learner.weights["b"][0]
        learner = learn(learner, ones, config)
        moves.append(float(before - learner.weights["b"][0]))
    np.testing.assert_allclose(moves, [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01], rtol=1e-4)


def test_decay():
    """Half of the rate in the middle of the updates, none behind the last."""
    rate = learning_rate(changed(decay_steps=100))
    np.testing.assert_allclose([rate(n) for n in (0, 50, 100, 150)], [0.01, 0.005, 0.0, 0.0], atol=1e-8)
    assert rate(25) > rate(26), "it falls all the time"


def test_accumulated_batches_are_one_update():
    parts = [jax.tree.map(jnp.asarray, gradients(step)) for step in range(3)]
    mean = jax.tree.map(lambda *g: sum(g) / 3, *parts)
    config = changed(accumulate=3, ema_decay=0.5)
    learner = new_learner(weights(), config)
    for part in parts:
        for name in WEIGHTS:
            np.testing.assert_array_equal(learner.weights[name], WEIGHTS[name])
            np.testing.assert_array_equal(learner.average[name], WEIGHTS[name])
        learner = learn(learner, part, config)
    whole = learn(new_learner(weights(), changed(ema_decay=0.5)), mean, changed(ema_decay=0.5))
    for name in WEIGHTS:
        np.testing.assert_allclose(learner.weights[name], whole.weights[name], rtol=1e-5)
        np.testing.assert_allclose(learner.average[name], whole.average[name], rtol=1e-5)


def test_average():
    config = changed(ema_decay=0.75)
    learner, mean = new_learner(weights(), config), WEIGHTS["b"]
    for step in range(3):
        learner = learn(learner, jax.tree.map(jnp.asarray, gradients(step)), config)
        mean = 0.75 * mean + 0.25 * np.asarray(learner.weights["b"])
    np.testing.assert_allclose(learner.average["b"], mean, rtol=1e-6)
    assert learner.best is learner.average
    assert new_learner(weights(), CONFIG).average == {}


LORA = LoRAConfig(rank=2, alpha=4.0, pattern=r"\.kernel$")


def test_lora_begins_with_no_change():
    factors = lora.factors(jax.random.key(0), weights(), LORA)
    assert {name: f.shape for name, f in factors.items()} == {"a.kernel.a": (3, 2), "a.kernel.b": (2, 4)}
    for name, w in materialize(factors, weights(), LORA).items():
        np.testing.assert_array_equal(w, WEIGHTS[name])


def test_lora_change():
    factors = {"a.kernel.a": jnp.ones((3, 2)), "a.kernel.b": jnp.full((2, 4), 0.5)}
    merged = materialize(factors, weights(), LORA)
    np.testing.assert_allclose(merged["a.kernel"], WEIGHTS["a.kernel"] + 2.0 * np.ones((3, 4)), rtol=1e-6)
    np.testing.assert_array_equal(merged["b"], WEIGHTS["b"])


def test_lora_pattern_that_finds_nothing():
    with pytest.raises(ValueError, match=r"finds no matrix; their names look like 'a\.kernel'"):
        lora.factors(jax.random.key(0), weights(), dataclasses.replace(LORA, pattern="nowhere"))


def test_weights_are_cast_where_a_network_is_built():
    trained = {"kernel": Part(jnp.ones((3, 4)), ("x",)), "bias": jnp.ones(4), "of another network": jnp.ones(2)}
    assert materialize(trained, {}, dataclasses.replace(LORA, rank=0)) is trained
    cast = Template(lambda: nnx.Linear(3, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))).cast(trained)
    assert set(cast) == {"kernel", "bias"}
    assert isinstance(cast["kernel"], Part)
    assert {x.dtype for x in jax.tree.leaves(cast)} == {jnp.bfloat16.dtype}


def test_an_update_takes_a_batch():
    with pytest.raises(ValueError, match="accumulate is 0: an update takes at least one batch"):
        adamw(changed(accumulate=0))
