"""Keys for initial weights."""

import itertools

import jax


class Keys:
    """The keys of `nnx.Rngs(key)`, counted in Python.

    Flax counts in an array, and where only shapes are traced JAX looks through the whole trace at every count: 20 s for 14B.
    """

    def __init__(self, key: jax.Array):
        self._key, self._count = key, itertools.count()

    def params(self) -> jax.Array:
        return jax.random.fold_in(self._key, next(self._count))
