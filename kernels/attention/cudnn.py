"""cuDNN's fused attention: float16 or bfloat16 on an NVIDIA GPU."""

import jax
import jax.numpy as jnp
from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention


@jax.custom_vjp
def _forward_only(lse: jax.Array) -> jax.Array:
    return lse


def _refuse(_, cotangent):
    raise NotImplementedError("cuDNN attention cannot be differentiated through its log-sum-exp: train with Ulysses and no ring")


# The call below would leave the log-sum-exp's part of the gradient out without a word.
_forward_only.defvjp(lambda lse: (lse, None), _refuse)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array | None) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths, implementation="cudnn")


def _attend_even(q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array | None) -> jax.Array:
    queries, keys = q.shape[1], k.shape[1]
    if keys % 2 and lengths is None:
        lengths = jnp.full((q.shape[0],), keys, jnp.int32)
    q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
    return _attend(q, k, v, lengths)[:, :queries]


@jax.custom_vjp
def _attend_odd(q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """JAX differentiates even lengths only: padding where gradients are taken, and no padding where they are not."""
    return _attend(q, k, v, lengths)


def _forward(q, k, v, lengths):
    return jax.vjp(lambda q, k, v: _attend_even(q, k, v, lengths), q, k, v)


_attend_odd.defvjp(_forward, lambda pull, gradient: (*pull(gradient), None))


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, key_length: jax.Array | int | None = None, return_lse: bool = False):
    """`reference.attention` by cuDNN.

    JAX's public call returns the log-sum-exp in the output's dtype, too coarse to merge blocks with, so the call below it is used
    (JAX 0.10 and 0.11), which cannot be differentiated through the log-sum-exp.

    Raises:
        NotImplementedError: for other dtypes, heads wider than 256 or not a multiple of 8.
    """
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"cuDNN attention takes bfloat16 or float16, not {q.dtype}")
    if q.shape[-1] > 256 or q.shape[-1] % 8:
        raise NotImplementedError(f"cuDNN attention takes heads of a multiple of 8 up to 256, not {q.shape[-1]}")
    lengths = None if key_length is None else jnp.full((q.shape[0],), key_length, jnp.int32)
    if not return_lse:
        odd = q.shape[1] % 2 or k.shape[1] % 2
        return (_attend_odd if odd else _attend)(q, k, v, lengths)
    scale = q.shape[-1] ** -0.5
    if lengths is None:
        out, lse = dot_product_attention(q, k, v, scale=scale, return_residual=True)
    else:
        every = jnp.full((q.shape[0],), q.shape[1], jnp.int32)
        out, lse = dot_product_attention(
            q, k, v, q_seqlen=every, kv_seqlen=lengths, scale=scale, mask_type=MaskType.PADDING, return_residual=True
        )
        # Without a valid key cuDNN returns 0, and a part that is all padding would count where parts are merged.
        lse = jnp.where(lengths[:, None, None] == 0, -jnp.inf, lse)
    return out, _forward_only(lse)
