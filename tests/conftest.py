"""Shared by all tests: those that need a GPU are skipped elsewhere."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # for tests/parallel; everything else runs on the first


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and jax.default_backend() != "gpu":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
