"""Linear layers of numbers in e4m3: `linear` runs on every platform, on Hopper by cuBLASLt's 8-bit matmuls."""

from .cublaslt import linear as linear
from .reference import LARGEST as LARGEST
from .reference import power_of_two as power_of_two
from .reference import quantize as quantize
from .reference import scale_of as scale_of
from .reference import to_e4m3 as to_e4m3
