"""Names of the DiT: Wan2.1-I2V with InfiniteTalk's audio modules, as in SoulX-FlashTalk-14B; and diffusers' names of Wan2.1."""

import numpy as np

from livetalk_jax import shapes

from .table import LINEAR, SAME, Rule, Transform, drop


def _patch_to_ours(x: np.ndarray) -> np.ndarray:
    return np.transpose(x, (2, 3, 4, 1, 0)).reshape(-1, x.shape[0])


def _patch_to_published(x: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    return (np.transpose(x.reshape(*shapes.PATCH, -1, x.shape[1]), (4, 3, 0, 1, 2)),)


# A convolution whose stride is its kernel is a linear layer over patches: [D, C, 1, 2, 2] -> [4C, D].
PATCH = Transform(_patch_to_ours, _patch_to_published)


def _linear(published: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{published}.weight", f"{path}.kernel", LINEAR), Rule(f"{published}.bias", f"{path}.bias", SAME)


def _norm(published: str, path: str) -> tuple[Rule, Rule]:
    return Rule(f"{published}.weight", f"{path}.scale", SAME), Rule(f"{published}.bias", f"{path}.bias", SAME)


_BLOCK, _OURS = "blocks.{i}", "blocks.layers.{i}"

_AUDIO = (
    *_linear(f"{_BLOCK}.audio_cross_attn.q_linear", f"{_OURS}.audio_cross_attn.q_linear"),
    *_linear(f"{_BLOCK}.audio_cross_attn.kv_linear", f"{_OURS}.audio_cross_attn.kv_linear"),
    *_linear(f"{_BLOCK}.audio_cross_attn.proj", f"{_OURS}.audio_cross_attn.proj"),
    *_norm(f"{_BLOCK}.norm_x", f"{_OURS}.norm_x"),
    *_linear("audio_proj.proj1", "audio_proj.proj1"),
    *_linear("audio_proj.proj1_vf", "audio_proj.proj1_vf"),
    *_linear("audio_proj.proj2", "audio_proj.proj2"),
    *_linear("audio_proj.proj3", "audio_proj.proj3"),
    *_norm("audio_proj.norm", "audio_proj.norm"),
)

TABLE = (
    Rule("patch_embedding.weight", "patch_embedding.kernel", PATCH),
    Rule("patch_embedding.bias", "patch_embedding.bias", SAME),
    *_linear("text_embedding.0", "text_embedding.fc1"),
    *_linear("text_embedding.2", "text_embedding.fc2"),
    *_linear("time_embedding.0", "time_embedding.fc1"),
    *_linear("time_embedding.2", "time_embedding.fc2"),
    *_linear("time_projection.1", "time_projection"),
    *_norm("img_emb.proj.0", "img_emb.norm_in"),
    *_linear("img_emb.proj.1", "img_emb.mlp.fc1"),
    *_linear("img_emb.proj.3", "img_emb.mlp.fc2"),
    *_norm("img_emb.proj.4", "img_emb.norm_out"),
    Rule(f"{_BLOCK}.modulation", f"{_OURS}.modulation", drop(0)),
    *(rule for name in "qkvo" for rule in _linear(f"{_BLOCK}.self_attn.{name}", f"{_OURS}.self_attn.{name}")),
    *(Rule(f"{_BLOCK}.self_attn.{n}.weight", f"{_OURS}.self_attn.{n}.scale", SAME) for n in ("norm_q", "norm_k")),
    *_norm(f"{_BLOCK}.norm3", f"{_OURS}.norm3"),
    *(
        rule
        for name in ("q", "k", "v", "o", "k_img", "v_img")
        for rule in _linear(f"{_BLOCK}.cross_attn.{name}", f"{_OURS}.cross_attn.{name}")
    ),
    *(Rule(f"{_BLOCK}.cross_attn.{n}.weight", f"{_OURS}.cross_attn.{n}.scale", SAME) for n in ("norm_q", "norm_k", "norm_k_img")),
    *_linear(f"{_BLOCK}.ffn.0", f"{_OURS}.ffn.fc1"),
    *_linear(f"{_BLOCK}.ffn.2", f"{_OURS}.ffn.fc2"),
    Rule("head.modulation", "head.modulation", drop(0)),
    *_linear("head.head", "head.head"),
    *_AUDIO,
)

# diffusers' WanTransformer3DModel has no audio modules; InfiniteTalk's file, in its own names, supplies them.
DIFFUSERS_TABLE = (
    Rule("patch_embedding.weight", "patch_embedding.kernel", PATCH),
    Rule("patch_embedding.bias", "patch_embedding.bias", SAME),
    *_linear("condition_embedder.text_embedder.linear_1", "text_embedding.fc1"),
    *_linear("condition_embedder.text_embedder.linear_2", "text_embedding.fc2"),
    *_linear("condition_embedder.time_embedder.linear_1", "time_embedding.fc1"),
    *_linear("condition_embedder.time_embedder.linear_2", "time_embedding.fc2"),
    *_linear("condition_embedder.time_proj", "time_projection"),
    *_norm("condition_embedder.image_embedder.norm1", "img_emb.norm_in"),
    *_linear("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.mlp.fc1"),
    *_linear("condition_embedder.image_embedder.ff.net.2", "img_emb.mlp.fc2"),
    *_norm("condition_embedder.image_embedder.norm2", "img_emb.norm_out"),
    Rule(f"{_BLOCK}.scale_shift_table", f"{_OURS}.modulation", drop(0)),
    *(
        rule
        for theirs, ours in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
        for rule in _linear(f"{_BLOCK}.attn1.{theirs}", f"{_OURS}.self_attn.{ours}")
    ),
    *(Rule(f"{_BLOCK}.attn1.{n}.weight", f"{_OURS}.self_attn.{n}.scale", SAME) for n in ("norm_q", "norm_k")),
    *_norm(f"{_BLOCK}.norm2", f"{_OURS}.norm3"),
    *(
        rule
        for theirs, ours in (
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "o"),
            ("add_k_proj", "k_img"),
            ("add_v_proj", "v_img"),
        )
        for rule in _linear(f"{_BLOCK}.attn2.{theirs}", f"{_OURS}.cross_attn.{ours}")
    ),
    *(
        Rule(f"{_BLOCK}.attn2.{theirs}.weight", f"{_OURS}.cross_attn.{ours}.scale", SAME)
        for theirs, ours in (("norm_q", "norm_q"), ("norm_k", "norm_k"), ("norm_added_k", "norm_k_img"))
    ),
    *_linear(f"{_BLOCK}.ffn.net.0.proj", f"{_OURS}.ffn.fc1"),
    *_linear(f"{_BLOCK}.ffn.net.2", f"{_OURS}.ffn.fc2"),
    Rule("scale_shift_table", "head.modulation", drop(0)),
    *_linear("proj_out", "head.head"),
    *_AUDIO,
)
