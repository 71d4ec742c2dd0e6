"""One of several processes that stream two chunks together: python -m tests.parallel.worker FOLDER, with LIVETALK_* set."""

import sys
from pathlib import Path

import jax
import numpy as np

from livetalk_jax.parallel.distributed import initialize

from .small import UNEVEN, run_config, stream

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    initialize()
    pipeline, frames, latents = stream(run_config().with_devices(8), UNEVEN, persons=1)
    out = Path(sys.argv[1]) / f"{jax.process_index()}.npz"
    np.savez(out, frames=frames, latents=latents, plan=pipeline.layout.plan.name, programs=pipeline.chunk_programs)
