"""`reference.norm_rope` as one Triton kernel through jax-triton: x is read once and written once.

Import it where `without_triton` of this folder has no reason against it.
"""

import functools

import jax
import jax.numpy as jnp
import jax_triton
import triton
import triton.language as tl


@triton.jit
def _kernel(
    x_ptr, weight_ptr, cos_ptr, sin_ptr, tokens, out_ptr,
    DIM: tl.constexpr, HALF: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < DIM
    x = tl.load(x_ptr + row.to(tl.int64) * DIM + columns, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(x * x, 0) / DIM + EPS)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(x * weight * factor, (BLOCK // 2, 2)))
    place = (row % tokens) * HALF + tl.arange(0, BLOCK // 2) % HALF
    cos, sin = tl.load(cos_ptr + place), tl.load(sin_ptr + place)
    out = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (BLOCK,))
    tl.store(out_ptr + row.to(tl.int64) * DIM + columns, out.to(out_ptr.dtype.element_ty), mask=inside)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def _run(x: jax.Array, weight: jax.Array, cos: jax.Array, sin: jax.Array, eps: float, warps: int) -> jax.Array:
    batch, tokens, dim = x.shape
    half = cos.shape[-1]
    out = jax_triton.triton_call(
        x, weight, cos, sin, tokens,
        kernel=_kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), grid=(batch * tokens,), num_warps=warps,
        DIM=dim, HALF=half, EPS=eps, BLOCK=triton.next_power_of_2(dim),
    )  # fmt: skip
    return jnp.reshape(out, (batch, tokens, dim // (2 * half), 2 * half))


@_run.defjvp
def _no_gradient(*_):
    raise NotImplementedError("Triton's norm with rotary positions has no gradient; train with the reference, which XLA compiles")


def norm_rope(x: jax.Array, weight: jax.Array, cos: jax.Array, sin: jax.Array, *, eps: float, warps: int = 8) -> jax.Array:
    """As `reference.norm_rope`; `warps` a program.

    Raises:
        NotImplementedError: under differentiation.
    """
    return _run(x, weight, cos, sin, eps, warps)
