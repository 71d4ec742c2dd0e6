"""Linear layers of the 14 B transformer at 720×416 (tokens, in, out); tests, benchmarks and docs read them here."""

SPECS = {
    "attention_720x416": (10_530, 5120, 5120),
    "ffn_up_720x416": (10_530, 5120, 13_824),
    "ffn_down_720x416": (10_530, 13_824, 5120),
}
