"""Every network with seeded weights against what the published PyTorch network gave for them, or against transformers."""

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from livetalk_jax.conversion.engine import ConversionError, load, parameters
from livetalk_jax.evaluation.networks import amt, i3d, inception, s3fd, syncnet, vit
from tests.evaluation.networks.seeded import apply, error, golden, network, picture
from tests.models.published import count

ENOUGH = 2e-5


def unit(frames: np.ndarray) -> np.ndarray:
    return frames / np.float32(255)


def test_syncnet():
    model, expected = network(syncnet.SyncNet, syncnet.TABLE), golden("syncnet")
    faces = picture("faces", (1, 7, 224, 224, 3)).astype(np.float32)
    assert error(apply(model.lips, faces)[0], expected["lips"]) < ENOUGH
    windows = np.stack([expected["mfcc"][4 * k : 4 * k + 20] for k in range(3)])
    assert error(apply(model.audio, windows), expected["audio"]) < ENOUGH


def test_s3fd():
    model, expected = network(s3fd.S3FD, s3fd.TABLE, gain=1.0), golden("s3fd")
    scores, boxes = apply(model, picture("face", (1, 96, 128, 3)).astype(np.float32))
    assert error(scores[0], expected["scores"][0, :, 1]) < ENOUGH
    priors, offsets = expected["priors"], expected["offsets"][0]
    centre = priors[:, :2] + 0.1 * offsets[:, :2] * priors[:, 2:]
    half = priors[:, 2:] * np.exp(0.2 * offsets[:, 2:]) / 2
    assert error(boxes[0], np.concatenate([centre - half, centre + half], 1) * [128, 96, 128, 96]) < ENOUGH


def test_inception():
    model = network(inception.Inception, inception.TABLE)
    assert error(apply(model, unit(picture("pictures", (2, 139, 155, 3)))), golden("inception")["features"]) < ENOUGH


def test_i3d():
    model = network(i3d.I3D, i3d.TABLE)
    clip = i3d.preprocess(picture("clip", (1, 10, 224, 224, 3)))
    assert error(apply(model, clip), golden("i3d")["logits"]) < ENOUGH


@pytest.mark.parametrize(("preprocess", "side"), [(inception.preprocess, 299), (i3d.preprocess, 224)])
def test_frames_are_stretched_like_pytorch(preprocess, side):
    frames = picture("frames", (3, 350, 70, 3))
    theirs = torch.nn.functional.interpolate(torch.tensor(frames).permute(0, 3, 1, 2).float(), (side, side), mode="bilinear")
    unit = theirs.permute(0, 2, 3, 1).numpy() / 255
    assert error(preprocess(frames), unit if preprocess is inception.preprocess else 2 * unit - 1) < ENOUGH


def test_a_clip_too_short():
    model = nnx.eval_shape(lambda: i3d.I3D(rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="clips of 8 frames are too short for I3D: it needs at least 9"):
        model(np.zeros((1, 8, 224, 224, 3), np.float32))


def test_amt():
    model = network(amt.AMT, amt.TABLE, gain=0.7)
    before, after = (unit(picture(name, (2, 128, 144, 3))) for name in ("before", "after"))
    assert error(apply(model, before, after)[:, ::4, ::4], golden("amt")["middle"]) < ENOUGH


@pytest.mark.parametrize(("rows", "columns"), [(128, 120), (112, 128)])
def test_pictures_that_amt_does_not_take(rows, columns):
    model = nnx.eval_shape(lambda: amt.AMT(rngs=nnx.Rngs(0)))
    pictures = np.zeros((1, rows, columns, 3), np.float32)
    with pytest.raises(ValueError, match=f"{rows}×{columns} does not fit AMT: both must be multiples of 16 and at least 128"):
        model(pictures, pictures)


def test_dino():
    config = vit.ViTConfig(patch_size=16, dim=48, num_heads=3, num_layers=2, eps=1e-6, clip=False, out_dim=None)
    model, expected = network(lambda rngs: vit.ViT(config, rngs=rngs), vit.DINO_TABLE), golden("dino")
    for name, rows in (("square", 224), ("tall", 387)):
        assert error(apply(model, unit(picture(name, (2, rows, 224, 3)))), expected[name]) < ENOUGH


def openai_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of transformers' CLIPVisionModelWithProjection under the names of OpenAI's file."""
    state = {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}
    renamed = {
        "visual.conv1.weight": state["embeddings.patch_embedding.weight"],
        "visual.class_embedding": state["embeddings.class_embedding"],
        "visual.positional_embedding": state["embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
    }
    pairs = [("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")]
    for layer in range(2):
        ours, theirs = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = [state[f"{theirs}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            renamed[f"visual.{ours}attn.in_proj_{kind}"] = np.concatenate(parts)
        pairs += [(f"{ours}ln_{k}", f"{theirs}layer_norm{k}") for k in (1, 2)]
        pairs += [(f"{ours}attn.out_proj", f"{theirs}self_attn.out_proj")]
        pairs += [(f"{ours}mlp.c_fc", f"{theirs}mlp.fc1"), (f"{ours}mlp.c_proj", f"{theirs}mlp.fc2")]
    return renamed | {f"visual.{ours}.{kind}": state[f"{theirs}.{kind}"] for ours, theirs in pairs for kind in ("weight", "bias")}


def test_clip():
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = transformers.CLIPVisionConfig(**sizes, image_size=64, patch_size=16, projection_dim=24, hidden_act="quick_gelu")
    theirs = transformers.CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3)
    config = vit.ViTConfig(image_size=64, patch_size=16, dim=48, num_heads=3, num_layers=2, eps=1e-5, clip=True, out_dim=24)
    model = vit.ViT(config, rngs=nnx.Rngs(0))
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    load(
        model,
        openai_names(tensors) | {"logit_scale": np.zeros(()), "transformer.resblocks.0.ln_1.bias": np.zeros(3)},
        vit.CLIP_TABLE,
    )
    pictures = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(pixel_values=torch.tensor(pictures).permute(0, 3, 1, 2)).image_embeds
    assert error(apply(model, pictures), expected.numpy()) < ENOUGH


@pytest.mark.parametrize(("height", "width", "shape"), [(720, 416, (387, 224)), (100, 300, (224, 672)), (224, 224, (224, 224))])
def test_preprocessing_for_vbench(height, width, shape):
    """torchvision's Resize of the shorter side without antialias, and its CenterCrop, in PyTorch's own operations."""
    frames = picture("frames", (1, height, width, 3))
    pixels = torch.tensor(frames).permute(0, 3, 1, 2).float()

    def check(found, expected, mean, std):
        normal = (expected.permute(0, 2, 3, 1).numpy() / 255 - mean) / std
        assert error(found, normal) < ENOUGH

    linear = torch.nn.functional.interpolate(pixels, shape, mode="bilinear")
    check(vit.preprocess_dino(frames), linear, vit.IMAGENET_MEAN, vit.IMAGENET_STD)
    cubic = torch.nn.functional.interpolate(pixels, shape, mode="bicubic")
    top, left = (round((side - 224) / 2) for side in shape)
    check(vit.preprocess_clip(frames), cubic[..., top : top + 224, left : left + 224], vit.RGB_MEAN, vit.RGB_STD)


@pytest.mark.parametrize(("build", "numbers"), [(vit.dino_b16, 85_798_656), (vit.clip_b32, 87_849_216)])
def test_full_size(build, numbers):
    assert count(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0)))) == numbers


def test_a_file_of_another_network():
    model = nnx.eval_shape(lambda: vit.dino_b16(rngs=nnx.Rngs(0)))
    tensors = {"cls_token": np.zeros((1, 1, 384), np.float32), "head.weight": np.zeros((2, 2), np.float32)}
    with pytest.raises(ConversionError, match=r"unknown tensor: head.weight"):
        load(model, tensors, vit.DINO_TABLE)
    assert isinstance(parameters(model)["token"].get_value(), jax.ShapeDtypeStruct)
