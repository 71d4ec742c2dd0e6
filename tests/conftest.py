"""Shared by all tests: those that need a GPU are skipped elsewhere, and commands keep their programs apart from the user's."""

import os

import jax
import pytest

from livetalk_jax.programs import keep_programs

# XLA's older code generator compiles twice as fast, and a program in one piece takes a quarter less than in several at once; JAX
# 0.11 has that generator no more, and ends where it is asked for. Commands that tests start in processes of their own take this over.
if jax.__version_info__ < (0, 11):
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of those commands; for this process it is too late
jax.config.update("jax_num_cpu_devices", 8)  # for tests/parallel; everything else runs on the first

# Folders with the slowest files, the slowest first.
SLOW = ("training", "parallel", "benchmarks", "models", "nn", "stream")


def pytest_collection_modifyitems(items):
    # The slowest first: where tests run in several processes, none is left alone with them in the end.
    rank = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.parent.name, len(SLOW)))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and jax.default_backend() != "gpu":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session", autouse=True)
def kept_programs(tmp_path_factory):
    """What one test compiled, others find, in whichever process, and so do commands that they start in processes of their own."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # its folder is one of those of the run
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        keep_programs()
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(request):
    """What compilation optimises does not matter for programs so small; kernels are compiled as users have them."""
    quick = request.path.parent.name != "kernels"
    if quick != jax.config.values["jax_disable_most_optimizations"]:
        jax.config.update("jax_disable_most_optimizations", quick)
        jax.clear_caches()  # JAX does not look at this setting when it reuses a program, and the two round differently
