"""base.py NETS.npz OUT: the shipped checkpoint with the VAE and the speech encoder of NETS (bfloat16 as uint16)."""
import sys
import ml_dtypes
import numpy as np
from livetalk_jax import checkpoint
shipped = checkpoint.SHIPPED / "tiny"
nets = np.load(sys.argv[1])
with checkpoint.Writer(sys.argv[2], checkpoint.read_manifest(shipped)) as writer:
    for network in ("dit", "vae", "text", "clip", "audio"):
        for name, array in checkpoint.read(shipped, network):
            key = f"{network}/{name}"
            writer.add(network, name, nets[key].view(ml_dtypes.bfloat16) if key in nets else np.asarray(array))
