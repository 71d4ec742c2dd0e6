"""pack.py STUDENT OUT: the shipped checkpoint with the transformer of STUDENT, bfloat16."""
import sys
import ml_dtypes, numpy as np
from livetalk_jax import checkpoint
shipped = checkpoint.SHIPPED / "tiny"
dit = dict(checkpoint.read(sys.argv[1], "dit"))
with checkpoint.Writer(sys.argv[2], checkpoint.read_manifest(shipped)) as writer:
    for network in ("dit", "vae", "text", "clip", "audio"):
        for name, array in checkpoint.read(shipped, network):
            if network == "dit": array = np.asarray(dit.pop(name)).astype(ml_dtypes.bfloat16)
            writer.add(network, name, np.asarray(array))
assert not dit, list(dit)
