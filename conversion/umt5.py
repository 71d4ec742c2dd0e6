"""umT5 encoder: `TABLE` for `models_t5_umt5-xxl-enc-bf16.pth`, `HF_TABLE` for transformers' UMT5EncoderModel (diffusers)."""

from .table import LINEAR, SAME, Rule, Unused

TABLE = (
    Rule("token_embedding.weight", "token_embedding", SAME),
    Rule("blocks.{i}.norm1.weight", "blocks.{i}.norm1.scale", SAME),
    Rule("blocks.{i}.attn.q.weight", "blocks.{i}.attn.q.kernel", LINEAR),
    Rule("blocks.{i}.attn.k.weight", "blocks.{i}.attn.k.kernel", LINEAR),
    Rule("blocks.{i}.attn.v.weight", "blocks.{i}.attn.v.kernel", LINEAR),
    Rule("blocks.{i}.attn.o.weight", "blocks.{i}.attn.o.kernel", LINEAR),
    Rule("blocks.{i}.pos_embedding.embedding.weight", "blocks.{i}.pos_embedding", SAME),
    Rule("blocks.{i}.norm2.weight", "blocks.{i}.norm2.scale", SAME),
    Rule("blocks.{i}.ffn.gate.0.weight", "blocks.{i}.ffn.gate.kernel", LINEAR),
    Rule("blocks.{i}.ffn.fc1.weight", "blocks.{i}.ffn.fc1.kernel", LINEAR),
    Rule("blocks.{i}.ffn.fc2.weight", "blocks.{i}.ffn.fc2.kernel", LINEAR),
    Rule("norm.weight", "norm.scale", SAME),
)

HF_TABLE = (
    Rule("shared.weight", "token_embedding", SAME),
    Rule("encoder.block.{i}.layer.0.layer_norm.weight", "blocks.{i}.norm1.scale", SAME),
    Rule("encoder.block.{i}.layer.0.SelfAttention.q.weight", "blocks.{i}.attn.q.kernel", LINEAR),
    Rule("encoder.block.{i}.layer.0.SelfAttention.k.weight", "blocks.{i}.attn.k.kernel", LINEAR),
    Rule("encoder.block.{i}.layer.0.SelfAttention.v.weight", "blocks.{i}.attn.v.kernel", LINEAR),
    Rule("encoder.block.{i}.layer.0.SelfAttention.o.weight", "blocks.{i}.attn.o.kernel", LINEAR),
    Rule("encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight", "blocks.{i}.pos_embedding", SAME),
    Rule("encoder.block.{i}.layer.1.layer_norm.weight", "blocks.{i}.norm2.scale", SAME),
    Rule("encoder.block.{i}.layer.1.DenseReluDense.wi_0.weight", "blocks.{i}.ffn.gate.kernel", LINEAR),
    Rule("encoder.block.{i}.layer.1.DenseReluDense.wi_1.weight", "blocks.{i}.ffn.fc1.kernel", LINEAR),
    Rule("encoder.block.{i}.layer.1.DenseReluDense.wo.weight", "blocks.{i}.ffn.fc2.kernel", LINEAR),
    Rule("encoder.final_layer_norm.weight", "norm.scale", SAME),
    Unused("encoder.embed_tokens.weight"),  # some releases of transformers write the tied embedding twice
)
