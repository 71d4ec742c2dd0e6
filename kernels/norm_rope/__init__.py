"""RMS norm with rotary positions: `norm_rope` is the reference, which XLA fuses into two kernels; `triton.norm_rope` is one."""

from .reference import norm_rope as norm_rope
