"""grow.py CHECKPOINT OUT [TIMES]: the transformer with each block followed by TIMES − 1 of its kind that add nothing yet (their output maps are 0)."""
import dataclasses, re, sys
import numpy as np
from livetalk_jax import checkpoint
source, out, times = sys.argv[1], sys.argv[2], int((sys.argv[3:] or ["2"])[0])
manifest = checkpoint.read_manifest(source)
dit = dict(manifest.configurations["dit"]); depth = dit["num_layers"]; dit["num_layers"] = depth * times
manifest = dataclasses.replace(manifest, configurations={**manifest.configurations, "dit": dit})
SILENT = re.compile(r"(self_attn\.o|cross_attn\.o|audio_cross_attn\.proj|ffn\.fc2)\.(kernel|bias)$")
with checkpoint.Writer(out, manifest) as writer:
    for network in manifest.configurations:
        for name, array in checkpoint.read(source, network):
            array = np.asarray(array)
            found = re.match(r"blocks\.layers\.(\d+)\.(.*)", name)
            if network != "dit" or not found:
                writer.add(network, name, array); continue
            for k in range(times):
                writer.add(network, f"blocks.layers.{int(found[1]) * times + k}.{found[2]}", np.zeros_like(array) if k and SILENT.search(found[2]) else array)
