import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from livetalk_jax.conversion.__main__ import run

from . import published
from .published import BF16, TINY

RANK = 4
RNG = np.random.default_rng(0)
DIM, FFN = TINY.dit.dim, TINY.dit.ffn_dim


def normal(*shape) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A DiT alone, in bfloat16, one file."""
    folder = tmp_path_factory.mktemp("dit")
    tensors = published.network_tensors("dit", "soulx", BF16)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(published.WAN_JSON))
    return folder, tensors


def merge(base, tmp_path, *files: dict[str, np.ndarray], scales=(0.5,)) -> dict[str, np.ndarray]:
    """Import with LoRA files, export, read."""
    arguments = []
    for i, (file, scale) in enumerate(zip(files, scales, strict=True)):
        save_file(file, tmp_path / f"lora{i}.safetensors")
        arguments += ["--lora", f"{tmp_path / f'lora{i}.safetensors'}:{scale}"]
    assert run(["import", "--from", str(base), "--to", str(tmp_path / "ours"), *arguments]) == 0
    assert run(["export", "--from", str(tmp_path / "ours"), "--to", str(tmp_path / "back")]) == 0
    return load_file(tmp_path / "back/diffusion_pytorch_model.safetensors")


def check(merged, tensors, deltas: dict[str, np.ndarray]) -> None:
    """W + delta in float32, rounded once to the file's dtype; everything else as it was."""
    for name, array in tensors.items():
        expected = array if name not in deltas else (array.astype(np.float32) + deltas[name]).astype(BF16)
        assert merged[name].dtype == BF16
        if name in deltas:
            np.testing.assert_allclose(merged[name].astype(np.float32), expected.astype(np.float32), rtol=2**-7, atol=1e-6)
            assert (merged[name] == expected).mean() > 0.999  # the order of a sum may turn a last bit
        else:
            assert merged[name].tobytes() == expected.tobytes(), name


def test_names_of_infinitetalk_with_alpha_and_differences(base, tmp_path):
    folder, tensors = base
    down, up, bias, norm = normal(RANK, DIM), normal(FFN, RANK), normal(FFN), normal(DIM)
    small_down, small_up = normal(2, DIM), normal(DIM, 2)
    merged = merge(
        folder,
        tmp_path,
        {
            "diffusion_model.blocks.1.ffn.0.lora_down.weight": down,
            "diffusion_model.blocks.1.ffn.0.lora_up.weight": up,
            "diffusion_model.blocks.1.ffn.0.alpha": np.array(8.0, np.float32),
            "diffusion_model.blocks.1.ffn.0.diff_b": bias,
            "diffusion_model.blocks.2.norm3.diff": norm,
            "diffusion_model.blocks.0.self_attn.q.lora_down.weight": small_down,
            "diffusion_model.blocks.0.self_attn.q.lora_up.weight": small_up,
        },
    )
    check(
        merged,
        tensors,
        {
            "blocks.1.ffn.0.weight": 0.5 * 8 / RANK * up @ down,
            "blocks.1.ffn.0.bias": 0.5 * bias,
            "blocks.2.norm3.weight": 0.5 * norm,
            "blocks.0.self_attn.q.weight": 0.5 * small_up @ small_down,
        },
    )


def test_names_of_diffusers_and_kohya_one_after_the_other(base, tmp_path):
    folder, tensors = base
    down, up, patch, wide = normal(RANK, DIM), normal(DIM, RANK), normal(RANK, 36, 1, 2, 2), normal(DIM, RANK, 1, 1, 1)
    merged = merge(
        folder,
        tmp_path,
        {
            "transformer.blocks.0.attn1.to_q.lora_A.weight": down,
            "transformer.blocks.0.attn1.to_q.lora_B.weight": up,
            "transformer.patch_embedding.lora_A.weight": patch,
            "transformer.patch_embedding.lora_B.weight": wide,
        },
        {
            "lora_unet_blocks_0_self_attn_q.lora_down.weight": down,
            "lora_unet_blocks_0_self_attn_q.lora_up.weight": up,
            "lora_unet_blocks_0_self_attn_q.alpha": np.array(1.0, np.float32),
        },
        scales=(2.0, -1.0),
    )
    convolution = np.einsum("or,rcijk->ocijk", wide[..., 0, 0, 0], patch)
    deltas = {"blocks.0.self_attn.q.weight": (2.0 - 1 / RANK) * up @ down, "patch_embedding.weight": 2.0 * convolution}
    check(merged, tensors, deltas)


def test_what_does_not_fit_is_in_the_report(base, tmp_path, capsys):
    folder, _ = base
    lora = {
        "diffusion_model.blocks.99.ffn.0.diff_b": normal(FFN),
        "diffusion_model.blocks.0.ffn.0.strange": normal(3),
        "diffusion_model.blocks.0.ffn.0.diff_b": normal(FFN + 1),
        "diffusion_model.blocks.0.ffn.2.lora_down.weight": normal(RANK, FFN),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    arguments = ["import", "--from", str(folder), "--to", str(tmp_path / "ours"), "--lora"]
    assert run([*arguments, f"{tmp_path / 'lora.safetensors'}:1"]) == 2
    report = capsys.readouterr().err
    assert "4 problems, nothing written" in report
    for name in list(lora)[:2]:
        assert f"unknown tensor in a LoRA file: {name}" in report
    for name in ("blocks.0.ffn.0.bias", "blocks.0.ffn.2.weight"):
        assert f"LoRA does not fit the tensor: {name}" in report
    for value in (str(tmp_path / "lora.safetensors"), "lora.safetensors:much"):
        assert run([*arguments, value]) == 2
        assert "must be FILE:SCALE" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
