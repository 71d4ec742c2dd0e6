"""umT5 text encoder as Wan2.1 uses it (`wan/modules/t5.py`; umT5: arXiv 2304.09151).

T5's encoder with a table of relative positions in every block, attention without the usual 1/√K, a gated GELU feed-forward and no
biases. It runs once a prompt, so it holds its weights and tokens whole on every device.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livetalk_jax.config import UMT5Config
from livetalk_jax.nn.layers import Linear, RMSNorm, gelu_tanh

# Neither is in the published configuration: every T5 has them.
EPS = 1e-6
MAX_DISTANCE = 128


def relative_buckets(length: int, num_buckets: int) -> np.ndarray:
    """Bucket of each (query, key) pair, int32 [L, L]: half of the buckets for keys to the right, of those half for exact distances.

    The logarithm is rounded in float32 as PyTorch does: at distances that are powers of two the bucket depends on it.
    """
    position = np.arange(length)
    distance = position[None, :] - position[:, None]
    side = num_buckets // 2
    exact = side // 2
    far = np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(exact)
    steps = np.log(far) / np.float32(np.log(MAX_DISTANCE / exact)) * np.float32(side - exact)
    bucket = np.where(np.abs(distance) < exact, np.abs(distance), np.minimum(exact + steps.astype(np.int32), side - 1))
    return (bucket + side * (distance > 0)).astype(np.int32)


class Attention(nnx.Module):
    """Self-attention with a bias a head; logits and softmax in float32."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs, dtype):
        self.num_heads = config.num_heads
        self.q, self.k, self.v = (Linear(config.dim, config.dim_attn, use_bias=False, rngs=rngs, dtype=dtype) for _ in range(3))
        self.o = Linear(config.dim_attn, config.dim, use_bias=False, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, mask: jax.Array, bias: jax.Array) -> jax.Array:
        q, k, v = (layer(x).reshape(*x.shape[:2], self.num_heads, -1) for layer in (self.q, self.k, self.v))
        logits = jnp.einsum("bnak,blak->banl", q, k, preferred_element_type=jnp.float32) + bias
        logits = jnp.where(mask[:, None, None, :] != 0, logits, jnp.finfo(jnp.float32).min)
        out = jnp.einsum("banl,blak->bnak", jax.nn.softmax(logits).astype(x.dtype), v)
        return self.o(out.reshape(*x.shape[:2], -1))


class FeedForward(nnx.Module):
    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs, dtype):
        self.gate, self.fc1 = (Linear(config.dim, config.dim_ffn, use_bias=False, rngs=rngs, dtype=dtype) for _ in range(2))
        self.fc2 = Linear(config.dim_ffn, config.dim, use_bias=False, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(self.fc1(x) * gelu_tanh(self.gate(x)))


class Block(nnx.Module):
    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs, dtype):
        self.norm1 = RMSNorm(config.dim, eps=EPS, dtype=dtype)
        self.attn = Attention(config, rngs=rngs, dtype=dtype)
        self.pos_embedding = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (config.num_buckets, config.num_heads), dtype))
        self.norm2 = RMSNorm(config.dim, eps=EPS, dtype=dtype)
        self.ffn = FeedForward(config, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, mask: jax.Array, buckets: np.ndarray) -> jax.Array:
        bias = jnp.transpose(self.pos_embedding[...].astype(jnp.float32)[buckets], (2, 0, 1))
        x = x + self.attn(self.norm1(x), mask, bias)
        return x + self.ffn(self.norm2(x))


class UMT5Encoder(nnx.Module):
    """Token ids to text features.

    Args:
        config: sizes; `UMT5Config.xxl()` is the published one (5.68 B parameters).
        rngs: draws the initial weights.
        dtype: of the parameters; the encoder computes in it, norms and softmax in float32.
    """

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        self.token_embedding = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (config.vocab_size, config.dim), dtype))
        self.blocks = nnx.List([Block(config, rngs=rngs, dtype=dtype) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.dim, eps=EPS, dtype=dtype)

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """ids [B, L] int below `vocab_size`, mask [B, L] (1: token, 0: padding) -> [B, L, dim].

        Rows of padding hold numbers that mean nothing: the caller cuts or zeroes them.
        """
        # `take` answers NaN for an id outside the vocabulary, where plain indexing would quietly use the last row.
        x = jnp.take(self.token_embedding[...], ids, axis=0)
        buckets = relative_buckets(ids.shape[1], self.config.num_buckets)
        for block in self.blocks:
            x = block(x, mask, buckets)
        return self.norm(x)
