"""umT5: transformers, full size."""

import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.umt5.modeling_umt5 import UMT5Attention

from livetalk_jax.config import UMT5Config
from livetalk_jax.conversion import umt5 as names
from livetalk_jax.models.umt5 import UMT5Encoder, relative_buckets
from tests.models.published import count, error, fill, in_bfloat16, plan, published_shapes

# Compiled once for all tests of one shape.
encode = nnx.jit(lambda model, ids, mask: model(ids, mask))


def hugging_face(sizes: UMT5Config) -> transformers.UMT5EncoderModel:
    torch.manual_seed(0)
    model = transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=sizes.vocab_size, d_model=sizes.dim, d_kv=sizes.dim_attn // sizes.num_heads, d_ff=sizes.dim_ffn,
            num_layers=sizes.num_layers, num_heads=sizes.num_heads, relative_attention_num_buckets=sizes.num_buckets,
            feed_forward_proj="gated-gelu",
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


SIZES = UMT5Config(vocab_size=60, dim=24, dim_attn=32, dim_ffn=40, num_heads=4, num_layers=2, num_buckets=16)


def test_transformers():
    reference = hugging_face(SIZES)
    model = UMT5Encoder(SIZES, rngs=nnx.Rngs(0))
    weights = {name: value.detach().numpy() for name, value in reference.state_dict().items() if "embed_tokens" not in name}
    fill(model, names.HF_TABLE, weights)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, SIZES.vocab_size, (3, 150))
    mask = (np.arange(150) < np.array([[150], [7], [40]])).astype(np.int32)
    with torch.no_grad():
        expected = reference(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.numpy()
    ours = np.asarray(encode(model, jnp.asarray(ids), jnp.asarray(mask)))
    assert error(ours[mask == 1], expected[mask == 1]) < 1e-5


def test_padding_does_not_reach_tokens():
    model = UMT5Encoder(SIZES, rngs=nnx.Rngs(0))
    ids = jnp.arange(12)[None]
    mask = (jnp.arange(12) < 5).astype(jnp.int32)[None]
    short = encode(model, ids[:, :5], mask[:, :5])
    assert error(encode(model, ids, mask)[:, :5], short) < 1e-6


@pytest.mark.parametrize("num_buckets", [8, 16, 32])
def test_buckets(num_buckets):
    config = transformers.UMT5Config(d_model=8, d_kv=4, num_heads=2, relative_attention_num_buckets=num_buckets)
    attention = UMT5Attention(config, has_relative_attention_bias=True)
    position = torch.arange(600)
    expected = attention._relative_position_bucket(position[None, :] - position[:, None]).numpy()
    np.testing.assert_array_equal(relative_buckets(600, num_buckets), expected)


def test_id_outside_the_vocabulary_is_not_silent():
    model = UMT5Encoder(SIZES, rngs=nnx.Rngs(0))
    assert bool(jnp.isnan(encode(model, jnp.array([[SIZES.vocab_size]]), jnp.ones((1, 1), jnp.int32))).all())


def test_bfloat16_is_close():
    model = UMT5Encoder(SIZES, rngs=nnx.Rngs(0))
    half = in_bfloat16(model)
    ids, mask = jnp.arange(20)[None], jnp.ones((1, 20), jnp.int32)
    out = encode(half, ids, mask)
    assert out.dtype == jnp.bfloat16
    assert error(out, encode(model, ids, mask)) < 0.03


def test_full_size_names():
    model = nnx.eval_shape(lambda: UMT5Encoder(UMT5Config.xxl(), rngs=nnx.Rngs(0)))
    tensors = published_shapes("umt5_xxl_encoder")
    assert len(tensors) == 242
    plan(model, names.TABLE, tensors)
    assert count(model) == sum(x.size for x in tensors.values()) == 5_680_910_336
