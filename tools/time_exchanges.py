"""How long the exchanges of a 14B DiT step and of the VAE's halos take between the GPUs of this machine, under several XLA options.

    python tools/time_exchanges.py                       NCCL's own settings are environment variables:
    NCCL_MIN_P2P_NCHANNELS=32 NCCL_MAX_P2P_NCHANNELS=32 python tools/time_exchanges.py

Each exchange runs COUNT times in one program, each on what the one before brought.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

COUNT = 40
TOKENS, HEADS, WIDTH = 10_530, 40, 128
OPTIONS = {
    "as XLA has it": {},
    "copy engines": {"xla_gpu_use_memcpy_local_p2p": True},
    "registered buffers": {"xla_gpu_enable_nccl_user_buffers": True},
    "32 channels": {"xla_gpu_nccl_p2p_max_nchannels": 32},
}


def main() -> None:
    devices = jax.devices()
    count = len(devices)
    mesh = Mesh(np.asarray(devices), ("x",))
    held = TOKENS // count
    ring = [(i, (i + 1) % count) for i in range(count)]

    def swap(x):
        return jax.lax.all_to_all(x, "x", 0, 0, tiled=True)

    def pass_on(x):
        return jax.lax.ppermute(x, "x", ring)

    exchanges = {
        "queries or result, all-to-all": (swap, (count, 1, held, HEADS // count, WIDTH), (count - 1) / count),
        "keys and values, all-to-all": (swap, (count, 2, 1, held, HEADS // count, WIDTH), (count - 1) / count),
        "keys, passed on": (pass_on, (1, held, HEADS, WIDTH), 1.0),
        "a column of 720 pixels, 96 channels": (pass_on, (1, 35, 720, 1, 96), 1.0),
        "a column of 90 latents, 384 channels": (pass_on, (1, 11, 90, 1, 384), 1.0),
    }
    print(f"{count} × {devices[0].device_kind}, jax {jax.__version__}")
    for title, options in OPTIONS.items():
        print(title, options or "")
        for name, (exchange, shape, share) in exchanges.items():

            def run(x, exchange=exchange):
                return jax.lax.fori_loop(0, COUNT, lambda _, x: exchange(x), x)

            spread = jax.jit(
                jax.shard_map(run, mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x"), check_vma=False),
                compiler_options=options if devices[0].platform == "gpu" else {},
            )
            x = jax.device_put(jnp.zeros((count * shape[0], *shape[1:]), jnp.bfloat16), NamedSharding(mesh, PartitionSpec("x")))
            try:
                jax.block_until_ready(spread(x))
            except Exception as error:  # an option that this XLA does not have: the others still count
                print(f"  {name:40} {str(error).splitlines()[0][:90]}")
                continue
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                jax.block_until_ready(spread(x))
                times.append((time.perf_counter() - begin) / COUNT)
            seconds = statistics.median(times)
            sent = share * np.prod(shape) * 2
            print(f"  {name:40} {1e6 * seconds:8.1f} µs {sent / 1e6:8.1f} MB sent {sent / seconds / 1e9:8.1f} GB/s")


if __name__ == "__main__":
    main()
