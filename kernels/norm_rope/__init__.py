"""RMS norm with rotary positions: `norm_rope` is the reference, which XLA fuses into two kernels; `triton.norm_rope` is one, for
which `without_triton` must have no reason. `select` names the one for a platform, and the caller logs it once."""

import ctypes
import re
from collections.abc import Callable
from importlib import metadata

import jax

from .reference import norm_rope as norm_rope


def select(dtype: str, attention: str, device: jax.Device) -> tuple[str, Callable]:
    """The implementation for `device` and for what comes behind it, without a gradient: "triton" or "xla".

    Triton's on Hopper, where a step was measured with either (docs/performance.md).

    Args:
        attention: the implementation that takes q and k. 8-bit attention quantises them, which XLA does in the same pass as the norm.
    """
    hopper = device.platform == "gpu" and device.compute_capability == "9.0"
    if not hopper or dtype != "bfloat16" or attention == "mosaic_fp8" or without_triton():
        return "xla", norm_rope
    from . import triton

    return "triton", triton.norm_rope


def without_triton() -> str | None:
    """Why `triton.norm_rope` cannot run here, None if it can: jax-triton, or what it requires, is not installed or too old, or this
    process has no GPU: it asks the driver what it compiles for, also where programs are compiled for GPUs that are not here.

    PyTorch keeps an older Triton than jax-triton may want, and that fails only when a kernel is called: jax-triton 0.4.1 wants 3.7,
    takes 3.6 for one without NVIDIA's part and ends in an AttributeError; jax-triton 0.3.1 is content with 3.6.
    """
    try:
        version, requirements = metadata.version("jax-triton"), metadata.requires("jax-triton") or []
    except metadata.PackageNotFoundError:
        return "jax-triton is not installed"
    for requirement in requirements:
        if ";" in requirement:  # for its own tests
            continue
        name, least = re.split(r"[^\w.-]", requirement)[0], requirement.partition(">=")[2]
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            return f"jax-triton {version} wants {requirement}, which is not installed"
        if _release(installed) < _release(least):
            return f"jax-triton {version} wants {requirement}, not {name} {installed}"
    return None if _has_gpu() else f"jax-triton {version} wants a GPU, of which the NVIDIA driver shows this process none"


def _has_gpu() -> bool:
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:  # no driver
        return False


def _release(version: str) -> list[int]:
    """The numbers that a version begins with."""
    return [int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version.strip())[0])]
