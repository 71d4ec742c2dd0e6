"""Shared by all tests: those that need a GPU are skipped elsewhere, and commands keep their programs apart from the user's."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)  # for tests/parallel; everything else runs on the first


def pytest_collection_modifyitems(items):
    # The slowest files first: where tests run in several processes, none is left alone with them in the end.
    items.sort(key=lambda item: item.path.parent.name not in ("training", "parallel", "benchmarks"))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and jax.default_backend() != "gpu":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session", autouse=True)
def kept_programs(tmp_path_factory):
    """Commands that tests start in processes of their own find each other's programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(request):
    """Compilation is nearly all of these folders' time, and what it optimises does not matter for programs so small."""
    quick = request.path.parent.name in ("benchmarks", "models", "nn", "parallel", "stream", "training")
    jax.config.update("jax_disable_most_optimizations", quick)
