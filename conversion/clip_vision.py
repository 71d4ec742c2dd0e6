"""CLIP's image tower: `table` for `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`, `hf_table` for transformers' names.

Functions of the configuration, because the last block, which our network does not build, is told by its number alone.
"""

from livetalk_jax.config import CLIPVisionConfig

from .table import CONV2D, LINEAR, SAME, Rule, Unused, concat, drop


def table(config: CLIPVisionConfig) -> tuple[Rule | Unused, ...]:
    """Published names: the image tower is `visual.`, the text tower `textual.`."""
    return (
        Rule("visual.patch_embedding.weight", "patch_embedding", CONV2D),
        Rule("visual.cls_embedding", "cls_embedding", drop(0, 1)),
        Rule("visual.pos_embedding", "pos_embedding", drop(0)),
        Rule("visual.pre_norm.weight", "pre_norm.scale", SAME),
        Rule("visual.pre_norm.bias", "pre_norm.bias", SAME),
        Rule("visual.transformer.{i}.norm1.weight", "blocks.{i}.norm1.scale", SAME),
        Rule("visual.transformer.{i}.norm1.bias", "blocks.{i}.norm1.bias", SAME),
        Rule("visual.transformer.{i}.attn.to_qkv.weight", "blocks.{i}.to_qkv.kernel", LINEAR),
        Rule("visual.transformer.{i}.attn.to_qkv.bias", "blocks.{i}.to_qkv.bias", SAME),
        Rule("visual.transformer.{i}.attn.proj.weight", "blocks.{i}.proj.kernel", LINEAR),
        Rule("visual.transformer.{i}.attn.proj.bias", "blocks.{i}.proj.bias", SAME),
        Rule("visual.transformer.{i}.norm2.weight", "blocks.{i}.norm2.scale", SAME),
        Rule("visual.transformer.{i}.norm2.bias", "blocks.{i}.norm2.bias", SAME),
        Rule("visual.transformer.{i}.mlp.0.weight", "blocks.{i}.mlp.fc1.kernel", LINEAR),
        Rule("visual.transformer.{i}.mlp.0.bias", "blocks.{i}.mlp.fc1.bias", SAME),
        Rule("visual.transformer.{i}.mlp.2.weight", "blocks.{i}.mlp.fc2.kernel", LINEAR),
        Rule("visual.transformer.{i}.mlp.2.bias", "blocks.{i}.mlp.fc2.bias", SAME),
        Unused(f"visual.transformer.{config.num_layers - 1}.{{name}}"),
        Unused("visual.post_norm.{name}"),
        Unused("visual.head"),
        Unused("textual.{name}"),
        Unused("log_scale"),
    )


def hf_table(config: CLIPVisionConfig, prefix: str = "vision_model.") -> tuple[Rule | Unused, ...]:
    """Names of transformers' CLIPVisionModel (diffusers' `image_encoder`); releases from 5 on write them without the prefix."""
    layer = prefix + "encoder.layers.{i}."
    projections = tuple(f"{layer}self_attn.{name}_proj" for name in "qkv")
    return (
        Rule(prefix + "embeddings.patch_embedding.weight", "patch_embedding", CONV2D),
        Rule(prefix + "embeddings.class_embedding", "cls_embedding", SAME),
        Rule(prefix + "embeddings.position_embedding.weight", "pos_embedding", SAME),
        Rule(prefix + "pre_layrnorm.weight", "pre_norm.scale", SAME),
        Rule(prefix + "pre_layrnorm.bias", "pre_norm.bias", SAME),
        Rule(layer + "layer_norm1.weight", "blocks.{i}.norm1.scale", SAME),
        Rule(layer + "layer_norm1.bias", "blocks.{i}.norm1.bias", SAME),
        Rule(tuple(f"{name}.weight" for name in projections), "blocks.{i}.to_qkv.kernel", concat(0, LINEAR)),
        Rule(tuple(f"{name}.bias" for name in projections), "blocks.{i}.to_qkv.bias", concat(0)),
        Rule(layer + "self_attn.out_proj.weight", "blocks.{i}.proj.kernel", LINEAR),
        Rule(layer + "self_attn.out_proj.bias", "blocks.{i}.proj.bias", SAME),
        Rule(layer + "layer_norm2.weight", "blocks.{i}.norm2.scale", SAME),
        Rule(layer + "layer_norm2.bias", "blocks.{i}.norm2.bias", SAME),
        Rule(layer + "mlp.fc1.weight", "blocks.{i}.mlp.fc1.kernel", LINEAR),
        Rule(layer + "mlp.fc1.bias", "blocks.{i}.mlp.fc1.bias", SAME),
        Rule(layer + "mlp.fc2.weight", "blocks.{i}.mlp.fc2.kernel", LINEAR),
        Rule(layer + "mlp.fc2.bias", "blocks.{i}.mlp.fc2.bias", SAME),
        Unused(f"{prefix}encoder.layers.{config.num_layers - 1}.{{name}}"),
        Unused(prefix + "post_layernorm.{name}"),
    )
