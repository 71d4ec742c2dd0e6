"""How much arithmetic training needs, and how much a device could do."""

import jax

from livetalk_jax.config import DiTConfig
from livetalk_jax.shapes import PATCH
from livetalk_jax.training.batch import IMAGE_TOKENS

# Dense bfloat16 products, operations a second, by a part of the device's name: the makers' data sheets.
PEAK = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "H20": 148e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}


def forward_flops(config: DiTConfig, token_grid: tuple[int, int, int], persons: int = 1) -> float:
    """Floating-point operations of one prediction for one row: matrix products and attention, 2 a multiply-add."""
    frames, rows, columns = token_grid
    n, d = frames * rows * columns, config.dim
    context = config.text_len + IMAGE_TOKENS
    audio = persons * config.audio_context_tokens
    products = n * (4 * d * d + 2 * d * d + 2 * d * d + 2 * d * config.ffn_dim)  # self q k v o; text q o; audio q proj; ffn
    keys_values = context * 2 * d * d + frames * audio * 2 * d * config.audio_output_dim
    attention = 2 * n * d * (n + context + audio)
    ends = n * d * PATCH[1] * PATCH[2] * (config.in_channels + config.out_channels)
    return 2.0 * (config.num_layers * (products + keys_values + attention) + ends)


def peak_flops(device: jax.Device, dtype: str) -> float | None:
    """What the device could do in a second; None where it is not known, or for numbers other than bfloat16."""
    if dtype != "bfloat16":
        return None
    return next((peak for name, peak in PEAK.items() if name in device.device_kind), None)
