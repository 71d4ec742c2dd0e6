"""CLIP image tower: transformers, PyTorch's bicubic resize, full size."""

import dataclasses

import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from livetalk_jax.config import CLIPVisionConfig
from livetalk_jax.conversion.clip_vision import hf_table, table
from livetalk_jax.conversion.engine import ConversionError
from livetalk_jax.models.clip_vision import RGB_MEAN, RGB_STD, CLIPVision, resize_bicubic
from tests.models.published import count, error, fill, in_bfloat16, plan, published_shapes

SIZES = CLIPVisionConfig(image_size=28, patch_size=7, dim=32, num_heads=4, num_layers=3, eps=1e-5)

# Compiled once for all tests of one shape.
features = nnx.jit(lambda model, image: model(image))


def random_image(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (batch, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_transformers(prefix):
    torch.manual_seed(0)
    reference = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=SIZES.dim, intermediate_size=4 * SIZES.dim, num_hidden_layers=SIZES.num_layers,
            num_attention_heads=SIZES.num_heads, image_size=SIZES.image_size, patch_size=SIZES.patch_size, hidden_act="gelu",
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0, 0.3)
    model = CLIPVision(SIZES, rngs=nnx.Rngs(0))
    weights = {name.removeprefix("vision_model."): value.detach().numpy() for name, value in reference.state_dict().items()}
    fill(model, hf_table(SIZES, prefix), {prefix + name: value for name, value in weights.items()})
    image = random_image(28, 28, batch=2)
    pixels = torch.tensor((image * 0.5 + 0.5 - RGB_MEAN) / RGB_STD, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = reference(pixel_values=pixels, output_hidden_states=True).hidden_states[-2].numpy()
    assert error(features(model, jnp.asarray(image)), expected) < 1e-5


@pytest.mark.parametrize("height, width, size", [(40, 56, 28), (416, 720, 224), (9, 300, 17), (16, 16, 16), (5, 3, 64)])
def test_bicubic(height, width, size):
    image = random_image(height, width)
    expected = torch.nn.functional.interpolate(
        torch.tensor(image).permute(0, 3, 1, 2), size=(size, size), mode="bicubic", align_corners=False
    )
    assert error(resize_bicubic(jnp.asarray(image), size, size), expected.permute(0, 2, 3, 1).numpy()) < 1e-6


def test_bfloat16_is_close():
    model = CLIPVision(SIZES, rngs=nnx.Rngs(0))
    half = in_bfloat16(model)
    image = jnp.asarray(random_image(40, 56))
    out = features(half, image.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    assert error(out, features(model, image)) < 0.03


def test_full_size_names():
    config = CLIPVisionConfig.vit_h_14()
    model = nnx.eval_shape(lambda: CLIPVision(config, rngs=nnx.Rngs(0)))
    tensors = published_shapes("clip_xlm_roberta_vit_h_14")
    assert len(tensors) == 784
    plan(model, table(config), tensors)
    # All but the last block (19,677,440), post_norm (2,560) and head (1,310,720) of the image tower.
    visual = sum(x.size for name, x in tensors.items() if name.startswith("visual."))
    assert count(model) == visual - 19_677_440 - 2_560 - 1_310_720 == 611_086_080


def test_wrong_number_of_blocks_is_noticed():
    config = dataclasses.replace(CLIPVisionConfig.vit_h_14(), num_layers=31)
    model = nnx.eval_shape(lambda: CLIPVision(config, rngs=nnx.Rngs(0)))
    with pytest.raises(ConversionError, match=r"unknown tensor: visual\.transformer\.31"):
        plan(model, table(config), published_shapes("clip_xlm_roberta_vit_h_14"))
