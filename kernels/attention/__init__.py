"""Attention: `attention` is the reference; `select` names the implementation for a platform, and the caller logs it once."""

import functools
from collections.abc import Callable

import jax

from . import cudnn, mosaic_fp8, mosaic_gpu, reference
from .reference import attention as attention

IMPLEMENTATIONS: dict[str, Callable] = {
    "reference": reference.attention,
    "cudnn": cudnn.attention,
    "mosaic": mosaic_gpu.attention,
}


# Not exact (`eight_bit` says how far off), so never chosen by "auto".
EIGHT_BIT: dict[str, Callable] = {"mosaic_fp8": mosaic_fp8.attention}
# From how many keys on ours is used: on an H200 it is ahead of cuDNN's with 10,530 and not with 512 (docs/performance.md). Above a
# frame's tokens, so that 8 bits never decide which person a token belongs to.
MANY_KEYS = 2048


def _beside_cudnn(kernel: Callable) -> Callable:
    """`kernel` where it serves and is ahead: many keys and its width of heads; cuDNN for text, sound and the image encoder."""

    @functools.wraps(kernel)
    def attention(q: jax.Array, k: jax.Array, v: jax.Array, **options):
        many = q.shape[-1] == mosaic_gpu.HEAD_DIM and k.shape[1] >= MANY_KEYS
        return (kernel if many else cudnn.attention)(q, k, v, **options)

    return attention


def select(name: str, dtype: str, device: jax.Device | None = None, *, gradients: bool = False) -> tuple[str, Callable]:
    """The implementation called `name`; "auto" is the fastest: "mosaic" on Hopper, "cudnn" on other GPUs, both for 16-bit numbers,
    else the reference.

    Args:
        device: one that it is to run on; the first of all by default.
        gradients: whether they will be taken; "auto" is then "cudnn" on Hopper too.

    Raises:
        ValueError: unknown name, or one that does not run on this device or in this dtype.
    """
    device = device or jax.devices()[0]
    gpu, short = device.platform == "gpu", dtype in ("bfloat16", "float16")
    hopper = gpu and device.compute_capability == "9.0"
    if name == "auto":
        ours = hopper and dtype == "bfloat16" and not gradients
        name = "mosaic" if ours else "cudnn" if gpu and short else "reference"
    kernel = (IMPLEMENTATIONS | EIGHT_BIT).get(name)
    if kernel is None:
        raise ValueError(f"unknown attention {name!r}; choose auto, {', '.join(IMPLEMENTATIONS | EIGHT_BIT)}")
    if name != "reference" and not gpu:
        raise ValueError(f"attention {name!r} needs an NVIDIA GPU; choose 'reference' here")
    if name == "cudnn" and not short:
        raise ValueError(f"attention 'cudnn' takes bfloat16 or float16, not {dtype}; choose 'reference'")
    if name in ("reference", "cudnn"):
        return name, kernel
    if dtype != "bfloat16":
        raise ValueError(f"attention {name!r} takes bfloat16, not {dtype}; choose 'reference'")
    if not hopper:
        raise ValueError(f"attention {name!r} is for Hopper, not {device.device_kind}; choose 'cudnn'")
    return name, _beside_cudnn(kernel)
