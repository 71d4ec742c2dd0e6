"""What one GPU holds while it serves: weights, and each program's peak, compiled for an H200 on a machine without a GPU.

    PYTHONPATH=build/aot/plugin JAX_PLATFORMS=cpu python tools/serving_memory.py --config soulx_14b [--config.runtime.linear=fp8 …]

`make sharding-aot` or `make memory` fetch XLA's GPU compiler into build/aot. Nothing is run. XLA's sums are exact; what CUDA, cuDNN
and cuBLAS take for themselves, about 1 GiB, is not in them.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from livetalk_jax import flags
from livetalk_jax.benchmarks.absent import absent_devices
from livetalk_jax.benchmarks.aot import shapes_of_networks
from livetalk_jax.benchmarks.memory import bytes_held
from livetalk_jax.diffusion.sampler import Motion
from livetalk_jax.nn.quantization import DIT_FP8, quantize
from livetalk_jax.stream.networks import GPU_OPTIONS
from livetalk_jax.stream.session import Pipeline
from livetalk_jax.tokenizer import load_tokenizer


class Largest(dict):
    """A scale for every layer: which one does not matter here."""

    def __missing__(self, path: str) -> float:
        return 1.0


def shapes(tree: Any, where) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where.whole), tree)


def main(argv: list[str]) -> None:
    _, config = flags.parse(lambda _: None, argv, __doc__ or "")
    size, stream, dit = config.stream.buckets[0], config.stream, config.model.dit
    networks = shapes_of_networks(config.model, config.runtime.dtype)
    if config.runtime.linear == "fp8":
        networks = networks._replace(dit=nnx.eval_shape(lambda dit: quantize(dit, DIT_FP8, Largest()), networks.dit))
    pipeline = Pipeline(networks, config, size, load_tokenizer("bytes", dit.text_len), absent_devices(1))
    where, dtype = pipeline.layout, pipeline.dtype

    def array(*shape: int, kind: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, kind, sharding=where.whole)

    ids = array(2, dit.text_len, kind=jnp.int32)
    picture = array(1, 1, *size, 3, kind=dtype)
    text = array(1, dit.text_len, config.model.text.dim, kind=dtype)
    samples = stream.audio_context_seconds * stream.sample_rate
    windows = array(1, 1, stream.frames, dit.audio_window, dit.audio_blocks, dit.audio_channels)
    conditions, motion = shapes(pipeline._prepare.lower(picture, text, None, None).out_info, where)
    key = shapes(jax.eval_shape(lambda: jax.random.key(0)), where)
    calls = {
        "text": (pipeline._encode_text, (ids, ids)),
        "conditions": (pipeline._prepare, (picture, text, None, None)),
        "speech": (pipeline.chunk_windows, (array(1, samples),)),
    }
    begun = (conditions, windows, key, array(kind=jnp.uint32), Motion(*motion))
    _, rest = shapes(pipeline.first_frames.lower(*begun).out_info, where)
    calls |= {
        "a chunk's first frames": (pipeline.first_frames, begun),
        "the others": (pipeline.other_frames, (conditions.color, rest)),
    }
    held = {name: bytes_held(shapes(network, where)) for name, network in pipeline.networks._asdict().items()}
    visiting = held.pop("text") if config.runtime.text_encoder == "host" else 0
    held["a session"] = bytes_held((conditions, motion))
    peaks = {}
    for name, (program, args) in calls.items():
        memory = program.lower(*args).compile(compiler_options=dict(GPU_OPTIONS)).memory_analysis()
        peaks[name] = memory.temp_size_in_bytes + memory.output_size_in_bytes
    peaks["the others"] += bytes_held(rest)
    runtime = config.runtime
    print(f"{size[1]}x{size[0]}, {runtime.dtype}, linear {runtime.linear}, text encoder on the {runtime.text_encoder}")
    for title, table in (("held", held), ("a program takes beside it", peaks)):
        print(f"  {title}: " + ", ".join(f"{name} {amount / 2**30:.2f}" for name, amount in table.items()) + " GiB")
    print(f"  peak: {(sum(held.values()) + max(peaks['text'] + visiting, *peaks.values())) / 2**30:.1f} GiB")


if __name__ == "__main__":
    flags.run(main, ["tools/serving_memory.py", *sys.argv[1:]])
