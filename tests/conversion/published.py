"""Small checkpoints as they are published, written by safetensors' and PyTorch's own functions."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors.numpy import save_file

from livetalk_jax.config import ModelConfig
from livetalk_jax.conversion import forms
from livetalk_jax.conversion.engine import published_shapes, steps

TINY = ModelConfig.tiny()
BF16 = np.dtype(ml_dtypes.bfloat16)

WAN_JSON = {
    "_class_name": "WanModel", "_diffusers_version": "0.30.0", "model_type": "i2v", "dim": TINY.dit.dim, "eps": 1e-06,
    "ffn_dim": TINY.dit.ffn_dim, "freq_dim": TINY.dit.freq_dim, "in_dim": 36, "num_heads": TINY.dit.num_heads,
    "num_layers": TINY.dit.num_layers, "out_dim": 16, "text_len": TINY.dit.text_len,
}  # fmt: skip
WAV2VEC2_JSON = {
    "model_type": "wav2vec2", "hidden_size": TINY.audio.hidden_size, "num_hidden_layers": TINY.audio.num_layers,
    "num_attention_heads": TINY.audio.num_heads, "intermediate_size": TINY.audio.intermediate_size,
    "conv_dim": [TINY.audio.conv_dim] * 7, "num_conv_pos_embeddings": TINY.audio.pos_conv_kernel,
    "num_conv_pos_embedding_groups": TINY.audio.pos_conv_groups, "layer_norm_eps": 1e-5,
}  # fmt: skip

Tensors = dict[str, np.ndarray]


def random_tensors(shapes: dict[str, tuple[int, ...]], dtype, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32).astype(dtype) for name, shape in shapes.items()}


def network_tensors(network: str, form: str, dtype=np.float32, config=None) -> Tensors:
    """Random tensors under the published names of a tiny network. (That the names are right is tested at full size.)"""
    config = config or getattr(TINY, network)
    ours = forms.abstract_parameters(network, config)
    shapes = {}
    for step in steps(forms.form(network, form).table(config), ours)[0]:
        shapes |= published_shapes(step, ours[step.path].shape)
    return random_tensors(shapes, dtype)


def clip_tensors() -> Tensors:
    """With what our network does not use: the last block, the head and the text tower."""
    tensors = network_tensors("clip", "wan", np.float16)
    last = TINY.clip.num_layers - 1
    more = {
        name.replace(".transformer.0.", f".transformer.{last}."): array.shape
        for name, array in tensors.items()
        if ".transformer.0." in name
    }
    more |= {"visual.post_norm.weight": (64,), "visual.head": (64, 32), "textual.blocks.0.attn.q.weight": (8, 8), "log_scale": ()}
    return tensors | random_tensors(more, np.float16, 1)


def wav2vec2_tensors(form: str = "pretraining") -> Tensors:
    more = {"quantizer.codevectors": (1, 8, 4), "project_q.weight": (4, 4)} if form.startswith("pretraining") else {}
    prefix = "wav2vec2." if form.startswith("pretraining") else ""
    return network_tensors("audio", form) | random_tensors(more | {f"{prefix}masked_spec_embed": (64,)}, np.float32, 1)


def write_torch(path: Path, tensors: Tensors, nested: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: torch.from_numpy(array.view(np.int16)).view(torch.bfloat16) if array.dtype == BF16 else torch.from_numpy(array)
        for name, array in tensors.items()
    }
    torch.save({nested: state} if nested else state, path)


def write_shards(folder: Path, stem: str, tensors: Tensors, count: int) -> None:
    """Tensors dealt out to shards like cards, so that no order helps; and the index."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for i in range(count):
        file = f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors"
        shard = dict(list(tensors.items())[i::count])
        save_file(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_common(folder: Path) -> dict[str, Tensors]:
    """All of a Wan2.1 or SoulX folder but the DiT's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "Wan2.1_VAE.pth": network_tensors("vae", "wan"),
        "models_t5_umt5-xxl-enc-bf16.pth": network_tensors("text", "wan", BF16),
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth": clip_tensors(),
    }
    for name, tensors in files.items():
        write_torch(folder / name, tensors)
    (folder / "config.json").write_text(json.dumps(WAN_JSON))
    for name in ("google/umt5-xxl/spiece.model", "xlm-roberta-large/tokenizer.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    return files


def write_soulx(folder: Path, dtype=BF16) -> dict[str, Tensors]:
    files = write_common(folder)
    dit = network_tensors("dit", "soulx", dtype)
    dit["head.head.bias"] = dit["head.head.bias"].astype(np.float32)  # files may mix dtypes
    write_shards(folder, "diffusion_pytorch_model", dit, 3)
    return {"dit": dit, **files}


def write_wav2vec2(folder: Path, form: str = "pretraining") -> Tensors:
    tensors = wav2vec2_tensors(form)
    write_torch(folder / "pytorch_model.bin", tensors)
    (folder / "config.json").write_text(json.dumps(WAV2VEC2_JSON))
    (folder / "preprocessor_config.json").write_text("{}")
    return tensors


def read_torch(path: Path) -> Tensors:
    state = torch.load(path, weights_only=True)
    return {
        name: tensor.view(torch.int16).numpy().view(BF16) if tensor.dtype == torch.bfloat16 else tensor.numpy()
        for name, tensor in state.items()
    }


def assert_same(a: Tensors, b: Tensors) -> None:
    assert sorted(a) == sorted(b)
    for name, array in a.items():
        assert array.dtype == b[name].dtype and array.shape == b[name].shape, name
        assert array.tobytes() == b[name].tobytes(), name
