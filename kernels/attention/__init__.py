"""Attention: `attention` is the reference; `select` names the implementation for a platform, and the caller logs it once."""

from collections.abc import Callable

import jax

from . import cudnn, mosaic_gpu, reference
from .reference import attention as attention

IMPLEMENTATIONS: dict[str, Callable] = {
    "reference": reference.attention,
    "cudnn": cudnn.attention,
    "mosaic": mosaic_gpu.attention,
}


def select(name: str, dtype: str, device: jax.Device | None = None) -> tuple[str, Callable]:
    """The implementation called `name`; "auto" is cuDNN for 16-bit numbers on a GPU and the reference otherwise.

    Args:
        device: one that it is to run on; the first of all by default.

    Raises:
        ValueError: unknown name, or one that does not run on this device or in this dtype.
    """
    gpu, short = (jax.default_backend() if device is None else device.platform) == "gpu", dtype in ("bfloat16", "float16")
    if name == "auto":
        name = "cudnn" if gpu and short else "reference"
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"unknown attention {name!r}; choose auto, {', '.join(IMPLEMENTATIONS)}")
    if name != "reference" and not gpu:
        raise ValueError(f"attention {name!r} needs an NVIDIA GPU; choose 'reference' here")
    if name == "cudnn" and not short:
        raise ValueError(f"attention 'cudnn' takes bfloat16 or float16, not {dtype}; choose 'reference'")
    if name == "mosaic" and dtype != "bfloat16":
        raise ValueError(f"attention 'mosaic' takes bfloat16, not {dtype}; choose 'reference'")
    device = device or jax.devices()[0]
    if name == "mosaic" and device.compute_capability != "9.0":
        raise ValueError(f"attention 'mosaic' is for Hopper, not {device.device_kind}; choose 'cudnn'")
    return name, IMPLEMENTATIONS[name]
