"""H200s that can be compiled for without being there, by the GPU compiler in the wheels jax-cuda13-pjrt and jax-cuda13-plugin.

`make sharding-aot` and `make memory` unpack them and put them on PYTHONPATH; installing them would make JAX look for a GPU.
"""

import re
from importlib import resources

import jax
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies

from livetalk_jax import flags

PER_HOST = 8


def absent_devices(count: int) -> list[jax.Device]:
    """H200s in hosts of 8, or `count` of one host.

    Raises:
        UsageError: without the compiler, or for a count that hosts of 8 do not make up.
    """
    hosts, per_host = (1, count) if count <= PER_HOST else (count // PER_HOST, PER_HOST)
    if hosts * per_host != count:
        raise flags.UsageError(
            f"{count} GPUs are not a number of hosts of {PER_HOST}; choose up to {PER_HOST}, or a multiple of it"
        )
    target = (resources.files("livetalk_jax.benchmarks") / "h200.txtpb").read_text()
    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=target, topology=f"1x{hosts}x{per_host}")
    except Exception as error:
        raise flags.UsageError(
            f"JAX's CUDA plugin cannot be loaded; run make sharding-aot or make memory, which fetch it ({error})"
        ) from error
    # JAX asks the cuDNN that is installed for its version; here that is the target's.
    major, minor, patch = (int(n) for n in re.search(r'dnn_version: "(\d+)\.(\d+)\.(\d+)"', target).groups())  # type: ignore[union-attr]
    fused_attention_stablehlo.check_cudnn_version = lambda: 10_000 * major + 100 * minor + patch
    # Which line of Python asked for what takes XLA a quarter of its time, and nobody looks at it; names of operations stay.
    jax.config.update("jax_traceback_in_locations_limit", 0)
    return list(topology.devices)
