"""The five networks of one system, made at random or read from a checkpoint, and how they are compiled."""

import collections
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from livetalk_jax import checkpoint
from livetalk_jax.config import ModelConfig
from livetalk_jax.models.clip_vision import CLIPVision
from livetalk_jax.models.dit import DiT
from livetalk_jax.models.keys import Keys
from livetalk_jax.models.umt5 import UMT5Encoder
from livetalk_jax.models.vae import VAE
from livetalk_jax.models.wav2vec2 import Wav2Vec2
from livetalk_jax.nn.quantization import DIT_FP8, quantize
from livetalk_jax.parallel.layout import Layout
from livetalk_jax.parallel.placement import by_path, put

RANDOM_LARGEST = 6.0  # of what a random transformer's layers are given at 14B


class Networks(NamedTuple):
    dit: DiT
    vae: VAE
    text: UMT5Encoder
    clip: CLIPVision
    audio: Wav2Vec2


_CLASSES: dict[str, Callable[..., nnx.Module]] = dict(dit=DiT, vae=VAE, text=UMT5Encoder, clip=CLIPVision, audio=Wav2Vec2)


def network_dtype(name: str, dtype: str):
    """The run's dtype for every network but wav2vec2, which the published code keeps in float32."""
    return jnp.float32 if name == "audio" else jnp.dtype(dtype)


def random_network(model: ModelConfig, name: str, dtype: Any, seed: int) -> Any:
    """One untrained network of the five, with parameters of `dtype`; the same seed gives the same weights."""
    # XLA's own generator: threefry would be compiled anew for every shape of weight, which takes longer than all the rest.
    keys = jax.random.split(jax.random.key(seed, impl="unsafe_rbg"), len(_CLASSES))
    return _CLASSES[name](getattr(model, name), rngs=Keys(keys[list(_CLASSES).index(name)]), dtype=dtype)


def random_networks(model: ModelConfig, dtype: str, seed: int, where: Layout | None = None, linear: str = "native") -> Networks:
    """Untrained networks, each moved to where `where` has its weights (the default device); the same seed gives the same weights.

    linear: "fp8" has the transformer's large matrices in 8 bits with fixed scales, as `livetalk quantize` writes them.
    """

    def made(name: str) -> Any:
        network = random_network(model, name, network_dtype(name, dtype), seed)
        if name == "dit" and linear == "fp8":  # at once, and what it was is forgotten: all five beside it do not fit 80 GB
            network = quantize(network, DIT_FP8, collections.defaultdict(lambda: RANDOM_LARGEST))
        return put(network, where.weight_shardings(network)) if where else network

    return Networks(**{name: made(name) for name in _CLASSES})


def load_network(model: ModelConfig, name: str, dtype: Any, folder: str | os.PathLike, where: Layout | None = None) -> Any:
    """One network of a checkpoint, cast to `dtype` and read straight to where `where` has its weights (the default device).

    A transformer that `livetalk quantize` wrote keeps its 8 bits.

    Raises:
        CheckpointError: the folder is no checkpoint, lacks the network, or holds one of another size.
    """
    short = any(tensor.endswith(".divisor") for tensor in checkpoint.tensors(folder, name))

    def make():
        network = random_network(model, name, dtype, 0)
        return quantize(network, DIT_FP8, collections.defaultdict(float)) if short else network

    graph, state = nnx.split(nnx.eval_shape(make), nnx.Param)
    sharding = by_path(where.weight_shardings(state)) if where else None
    return nnx.merge(graph, checkpoint.load_network(folder, name, state, config=getattr(model, name), sharding=sharding))


def load_networks(model: ModelConfig, dtype: str, folder: str | os.PathLike, where: Layout | None = None) -> Networks:
    """The networks of a checkpoint, cast to the run's dtype; arguments and errors as of `load_network`."""
    return Networks(**{name: load_network(model, name, network_dtype(name, dtype), folder, where) for name in _CLASSES})


# The one place for XLA's options. On an H200 conv3d is a fifth faster channels-last, and cuBLASLt ahead of Triton's matmuls, which
# autotuning would choose for some of these shapes (docs/performance.md).
GPU_OPTIONS = {"xla_gpu_force_conv_nhwc": True, "xla_gpu_enable_triton_gemm": False}


class compiled:
    """`fn(*networks, *args)` as one program, called with args alone.

    The weights are arguments of the program, never constants in it; they are flattened here once, not at every call. `fn` stays as it
    is, for programs that it is a part of.
    """

    def __init__(self, fn: Callable[..., Any], *networks: nnx.Module):
        self.fn = fn
        self._leaves, structure = jax.tree.flatten(networks)
        options = GPU_OPTIONS if jax.default_backend() == "gpu" else {}
        self.program = jax.jit(lambda leaves, *args: fn(*jax.tree.unflatten(structure, leaves), *args), compiler_options=options)

    def __call__(self, *args):
        return self.program(self._leaves, *args)

    def lower(self, *args) -> jax.stages.Lowered:
        """The program for arguments of these shapes and places, to be compiled and read. Calls then find it compiled."""
        return self.program.lower(self._leaves, *args)

    @property
    def programs(self) -> int:
        """How many times it was compiled."""
        return self.program._cache_size()  # type: ignore[attr-defined]
