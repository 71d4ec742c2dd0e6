"""AdamW as both stages use it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from livetalk_jax.training.config import OptimizerConfig


class SecondMoment(NamedTuple):
    """Updates so far, and the running mean of squared gradients."""

    updates: jax.Array
    nu: optax.Updates


def scale_by_second_moment(b2: float, eps: float) -> optax.GradientTransformation:
    """Adam with b1 = 0, whose first moment is the gradient itself: nothing of it is kept, 4 bytes a parameter less."""

    def init(params):
        return SecondMoment(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        del params
        number = state.updates + 1
        nu = jax.tree.map(lambda g, nu: b2 * nu + (1.0 - b2) * jnp.square(g), gradients, state.nu)
        correction = 1.0 - b2 ** number.astype(jnp.float32)
        return jax.tree.map(lambda g, nu: g / (jnp.sqrt(nu / correction) + eps), gradients, nu), SecondMoment(number, nu)

    return optax.GradientTransformation(init, update)


Norm = Callable[[optax.Updates], jax.Array]


def clip_by_norm(most: float, norm: Norm) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm(most)` with a norm that knows where gradients lie."""

    def update(gradients, state, params=None):
        del params
        size = norm(gradients)
        return jax.tree.map(lambda g: jnp.where(size < most, g, g / size * most), gradients), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """A linear warm-up, whose first update already moves; constant, or falling to 0 along half a wave of the cosine."""

    falling = optax.cosine_decay_schedule(config.learning_rate, config.decay_steps) if config.decay_steps else None

    def rate(count):
        risen = jnp.minimum(1.0, (count + 1) / max(config.warmup_steps, 1))
        return risen * (falling(count) if falling else config.learning_rate)

    return rate


def adamw(config: OptimizerConfig, norm: Norm = optax.tree.norm) -> optax.GradientTransformation:
    """Clip by the global norm, AdamW, and several batches an update where the configuration says so.

    Raises:
        ValueError: an update has no batches.
    """
    if config.accumulate < 1:
        raise ValueError(f"accumulate is {config.accumulate}: an update takes at least one batch")
    second = scale_by_second_moment(config.b2, config.eps)
    chain = optax.chain(
        clip_by_norm(config.clip_norm, norm),
        second if config.b1 == 0.0 else optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(learning_rate(config)),
    )
    if config.accumulate == 1:
        return chain
    return optax.MultiSteps(chain, config.accumulate).gradient_transformation()
