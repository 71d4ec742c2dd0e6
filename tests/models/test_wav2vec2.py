"""wav2vec2: transformers, interpolation, full size."""

import dataclasses

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from livetalk_jax.config import Wav2Vec2Config
from livetalk_jax.conversion.wav2vec2 import PARAMETRIZED_TABLE, TABLE, table_for
from livetalk_jax.models.wav2vec2 import Wav2Vec2, interpolate_frames, normalize_waveform
from tests.models.published import count, error, fill, in_bfloat16, plan, published_shapes

SIZES = Wav2Vec2Config(
    hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, conv_dim=16, pos_conv_kernel=16, pos_conv_groups=4, eps=1e-5
)

# Compiled once for all tests of one shape.
encode = nnx.jit(lambda model, values, frames: model(values, frames), static_argnums=2)


def hugging_face(kernel: int) -> transformers.Wav2Vec2Model:
    torch.manual_seed(0)
    model = transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            hidden_size=SIZES.hidden_size, num_hidden_layers=SIZES.num_layers, num_attention_heads=SIZES.num_heads,
            intermediate_size=SIZES.intermediate_size, conv_dim=(SIZES.conv_dim,) * 7, num_conv_pos_embeddings=kernel,
            num_conv_pos_embedding_groups=SIZES.pos_conv_groups,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def older_name(name: str) -> str:
    return name.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")


@pytest.mark.parametrize(
    "old, prefix, kernel",
    [(True, "wav2vec2.", 16), (False, "wav2vec2.", 16), (True, "", 16), (False, "", 16), (False, "", 7)],
)
def test_transformers(old, prefix, kernel):
    reference = hugging_face(kernel)
    weights = {
        prefix + (older_name(name) if old else name): value.detach().numpy() for name, value in reference.state_dict().items()
    }
    model = Wav2Vec2(dataclasses.replace(SIZES, pos_conv_kernel=kernel), rngs=nnx.Rngs(0))
    names = table_for(weights)
    if prefix:
        assert names == (TABLE if old else PARAMETRIZED_TABLE)
    fill(model, names, weights)
    wave = np.random.default_rng(0).normal(size=(2, 8000)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(wave), output_hidden_states=True).hidden_states[1:]
    ours = encode(model, jnp.asarray(wave), expected[0].shape[1])
    assert error(ours, torch.stack(expected, 2).numpy()) < 1e-5


@pytest.mark.parametrize("length, frames", [(49, 25), (399, 200), (1849, 925), (10, 33), (1, 4), (5, 1)])
def test_interpolation(length, frames):
    x = np.random.default_rng(0).normal(size=(2, length, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.tensor(x).transpose(1, 2), size=frames, mode="linear", align_corners=True)
    assert error(interpolate_frames(jnp.asarray(x), frames), expected.transpose(1, 2).numpy()) < 1e-6


def test_waveform_normalisation():
    wave = np.random.default_rng(0).normal(0.3, 0.01, 16000)
    wave[:4000] = 0
    expected = transformers.Wav2Vec2FeatureExtractor()(wave, sampling_rate=16000).input_values[0]
    assert error(normalize_waveform(wave), expected) < 1e-5
    assert not np.isnan(normalize_waveform(np.zeros(400))).any()


def test_too_short():
    model = Wav2Vec2(SIZES, rngs=nnx.Rngs(0))
    assert jax.eval_shape(lambda: model(jnp.ones((1, 400)), 1)).shape == (1, 1, 2, 32)
    with pytest.raises(ValueError, match="399 samples is too short for wav2vec2: it needs at least 400"):
        model(jnp.ones((1, 399)), 1)


def test_bfloat16_is_close():
    model = Wav2Vec2(SIZES, rngs=nnx.Rngs(0))
    half = in_bfloat16(model)
    wave = normalize_waveform(np.random.default_rng(0).normal(size=(1, 8000)))
    reference = encode(model, wave, 12)
    out = encode(half, wave.astype(jnp.bfloat16), 12)
    assert out.dtype == jnp.bfloat16
    assert error(out, reference) < 0.03
    # Speech in float32 is computed in float32, whatever the weights are kept in.
    out = encode(half, wave, 12)
    assert out.dtype == jnp.float32
    assert error(out, reference) < 0.01


def test_full_size_names():
    model = nnx.eval_shape(lambda: Wav2Vec2(Wav2Vec2Config.base(), rngs=nnx.Rngs(0)))
    tensors = published_shapes("chinese_wav2vec2_base")
    assert len(tensors) == 218
    assert table_for(tensors) == TABLE
    plan(model, TABLE, tensors)
    encoder = sum(x.size for name, x in tensors.items() if name.startswith("wav2vec2."))
    assert count(model) == encoder - 768 == 94_370_944  # without masked_spec_embed
