"""cuDNN's fused attention: float16 or bfloat16 on an NVIDIA GPU."""

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, key_length: jax.Array | int | None = None, return_lse: bool = False):
    """`reference.attention` by cuDNN.

    Raises:
        NotImplementedError: for other dtypes, heads wider than 256 or not a multiple of 8, or a requested log-sum-exp, which JAX's
            public call returns only in the output's dtype.
    """
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"cuDNN attention takes bfloat16 or float16, not {q.dtype}")
    if q.shape[-1] > 256 or q.shape[-1] % 8:
        raise NotImplementedError(f"cuDNN attention takes heads of a multiple of 8 up to 256, not {q.shape[-1]}")
    if return_lse:
        raise NotImplementedError("cuDNN attention does not return a float32 log-sum-exp through JAX's public call")
    lengths = None if key_length is None else jnp.full((q.shape[0],), key_length, jnp.int32)
    return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths, implementation="cudnn")
