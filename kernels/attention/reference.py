"""Softmax attention in plain JAX: the specification that every kernel of this folder must meet."""

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, key_length: jax.Array | int | None = None, return_lse: bool = False):
    """softmax(q·kᵀ / √K)·v in float32, returned in q's dtype.

    Args:
        q: [B, N, A, K].
        k, v: [B, L, A, K].
        key_length: keys from this index on are masked; None: all are valid.
        return_lse: return the log-sum-exp too, natural logarithm, float32 [B, A, N]; −inf where no key is valid.

    Returns:
        [B, N, A, K], zeros in rows without a valid key; with `return_lse` a pair.
    """
    scale = q.shape[-1] ** -0.5
    logits = jnp.einsum("bnak,blak->banl", q, k, preferred_element_type=jnp.float32) * scale
    if key_length is not None:
        logits = jnp.where(jnp.arange(k.shape[1]) < key_length, logits, -jnp.inf)
    top = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - jnp.where(jnp.isneginf(top), 0.0, top))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total == 0.0, 1.0, total)
    out = jnp.einsum("banl,blak->bnak", weights.astype(v.dtype), v, preferred_element_type=jnp.float32).astype(q.dtype)
    if not return_lse:
        return out
    return out, (jnp.log(total) + top)[..., 0]
