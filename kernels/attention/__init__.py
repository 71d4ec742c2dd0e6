"""Attention: `attention` is the reference; `select` names the implementation for a platform, and the caller logs it once."""

from collections.abc import Callable

import jax

from . import cudnn, reference
from .reference import attention as attention

IMPLEMENTATIONS: dict[str, Callable] = {"reference": reference.attention, "cudnn": cudnn.attention}


def select(name: str, dtype: str) -> tuple[str, Callable]:
    """The implementation called `name`; "auto" is cuDNN for 16-bit numbers on a GPU and the reference otherwise.

    Raises:
        ValueError: unknown name, or cuDNN where there is no GPU.
    """
    gpu = jax.default_backend() == "gpu"
    if name == "auto":
        name = "cudnn" if gpu and dtype in ("bfloat16", "float16") else "reference"
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"unknown attention {name!r}; choose auto, {', '.join(IMPLEMENTATIONS)}")
    if name == "cudnn" and not gpu:
        raise ValueError("attention 'cudnn' needs an NVIDIA GPU; choose 'reference' here")
    return name, IMPLEMENTATIONS[name]
