"""wav2vec2: transformers' names in the forms that files have, told apart by `table_for`.

chinese-wav2vec2-base is published in pre-training form (`TABLE`): names begin with `wav2vec2.`, a quantizer stands beside the
encoder, and the positional convolution's weight norm is `weight_g` and `weight_v`. Newer PyTorch writes that norm as a
parametrization (`PARAMETRIZED_TABLE`), and an encoder saved alone has no prefix.
"""

from collections.abc import Iterable

from .table import CONV1D, LINEAR, SAME, Rule, Unused

PREFIX = "wav2vec2."
WEIGHT_NORM = ("weight_g", "weight_v")
PARAMETRIZED_WEIGHT_NORM = ("parametrizations.weight.original0", "parametrizations.weight.original1")


def table(prefix: str, weight_norm: tuple[str, str]) -> tuple[Rule | Unused, ...]:
    """The table for names that begin with `prefix` and end in `weight_norm` (scale, direction) at the positional convolution."""
    position = prefix + "encoder.pos_conv_embed.conv."
    layer = prefix + "encoder.layers.{i}."
    return (
        Rule(prefix + "feature_extractor.conv_layers.{i}.conv.weight", "convs.{i}.kernel", CONV1D),
        Rule(prefix + "feature_extractor.conv_layers.0.layer_norm.weight", "conv_norm.scale", SAME),
        Rule(prefix + "feature_extractor.conv_layers.0.layer_norm.bias", "conv_norm.bias", SAME),
        Rule(prefix + "feature_projection.layer_norm.weight", "projection_norm.scale", SAME),
        Rule(prefix + "feature_projection.layer_norm.bias", "projection_norm.bias", SAME),
        Rule(prefix + "feature_projection.projection.weight", "projection.kernel", LINEAR),
        Rule(prefix + "feature_projection.projection.bias", "projection.bias", SAME),
        Rule(position + weight_norm[0], "pos_conv.weight_g", CONV1D),
        Rule(position + weight_norm[1], "pos_conv.weight_v", CONV1D),
        Rule(position + "bias", "pos_conv.bias", SAME),
        Rule(prefix + "encoder.layer_norm.weight", "norm.scale", SAME),
        Rule(prefix + "encoder.layer_norm.bias", "norm.bias", SAME),
        Rule(layer + "attention.q_proj.weight", "layers.{i}.q.kernel", LINEAR),
        Rule(layer + "attention.q_proj.bias", "layers.{i}.q.bias", SAME),
        Rule(layer + "attention.k_proj.weight", "layers.{i}.k.kernel", LINEAR),
        Rule(layer + "attention.k_proj.bias", "layers.{i}.k.bias", SAME),
        Rule(layer + "attention.v_proj.weight", "layers.{i}.v.kernel", LINEAR),
        Rule(layer + "attention.v_proj.bias", "layers.{i}.v.bias", SAME),
        Rule(layer + "attention.out_proj.weight", "layers.{i}.out.kernel", LINEAR),
        Rule(layer + "attention.out_proj.bias", "layers.{i}.out.bias", SAME),
        Rule(layer + "layer_norm.weight", "layers.{i}.norm.scale", SAME),
        Rule(layer + "layer_norm.bias", "layers.{i}.norm.bias", SAME),
        Rule(layer + "feed_forward.intermediate_dense.weight", "layers.{i}.mlp.fc1.kernel", LINEAR),
        Rule(layer + "feed_forward.intermediate_dense.bias", "layers.{i}.mlp.fc1.bias", SAME),
        Rule(layer + "feed_forward.output_dense.weight", "layers.{i}.mlp.fc2.kernel", LINEAR),
        Rule(layer + "feed_forward.output_dense.bias", "layers.{i}.mlp.fc2.bias", SAME),
        Rule(layer + "final_layer_norm.weight", "layers.{i}.final_norm.scale", SAME),
        Rule(layer + "final_layer_norm.bias", "layers.{i}.final_norm.bias", SAME),
        # Only pre-training needs these: masked inputs, and the quantised targets.
        Unused(prefix + "masked_spec_embed"),
        Unused("quantizer.{name}"),
        Unused("project_hid.{name}"),
        Unused("project_q.{name}"),
    )


TABLE = table(PREFIX, WEIGHT_NORM)
PARAMETRIZED_TABLE = table(PREFIX, PARAMETRIZED_WEIGHT_NORM)


def table_for(names: Iterable[str]) -> tuple[Rule | Unused, ...]:
    """The table for a file that holds these names."""
    names = set(names)
    prefix = PREFIX if any(name.startswith(PREFIX) for name in names) else ""
    parametrized = f"{prefix}encoder.pos_conv_embed.conv.{PARAMETRIZED_WEIGHT_NORM[0]}" in names
    return table(prefix, PARAMETRIZED_WEIGHT_NORM if parametrized else WEIGHT_NORM)
