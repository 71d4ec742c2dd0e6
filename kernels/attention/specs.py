"""Shapes that attention really meets (q tokens, key tokens, heads, head width); tests, benchmarks and tuning read them here."""

SPECS = {
    "self_720x416": (10_530, 10_530, 40, 128),
    "self_768x448": (12_096, 12_096, 40, 128),
    "text_720x416": (10_530, 512, 40, 128),
    "image_720x416": (10_530, 257, 40, 128),
    "audio_720x416": (1_170, 32, 40, 128),
    "self_tiny": (576, 576, 6, 32),
}
