"""Compilation is nearly all of these tests' time, and what it optimises does not matter for sizes this small."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
