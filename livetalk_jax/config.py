"""Frozen configurations: architectures, stream, sampler, run time; and the way in from ml_collections.

Architectures carry no defaults: each released size is one constructor, `tiny` is the size that streams on a CPU.
`RunConfig.from_config_dict` turns a `configs/*.py` file into these once, at the edge; unknown keys are errors. Those of training are
`training/config.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Audio-conditioned Wan2.1 image-to-video transformer (InfiniteTalk, SoulX-FlashTalk)."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    freq_dim: int
    text_dim: int
    text_len: int
    clip_dim: int
    in_channels: int
    out_channels: int
    audio_window: int
    audio_blocks: int
    audio_channels: int
    audio_intermediate_dim: int
    audio_output_dim: int
    audio_context_tokens: int
    eps: float

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @classmethod
    def wan_14b(cls) -> Self:
        """Wan2.1-I2V-14B with InfiniteTalk's audio modules: 18.88 B parameters."""
        return cls(
            dim=5120, ffn_dim=13_824, num_heads=40, num_layers=40, freq_dim=256, text_dim=4096, text_len=512, clip_dim=1280,
            in_channels=36, out_channels=16, audio_window=5, audio_blocks=12, audio_channels=768, audio_intermediate_dim=512,
            audio_output_dim=768, audio_context_tokens=32, eps=1e-6,
        )  # fmt: skip

    @classmethod
    def wan_1b3(cls) -> Self:
        """The widths and depth of Wan2.1-1.3B with image and audio modules, not published like this: 1.9 B parameters."""
        return cls(
            dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, freq_dim=256, text_dim=4096, text_len=512, clip_dim=1280,
            in_channels=36, out_channels=16, audio_window=5, audio_blocks=12, audio_channels=768, audio_intermediate_dim=512,
            audio_output_dim=768, audio_context_tokens=32, eps=1e-6,
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> Self:
        """5.4 M parameters, chosen for four steps of a 128×128 chunk in half of its 1.12 s on two CPU cores."""
        return cls(
            dim=192, ffn_dim=640, num_heads=6, num_layers=6, freq_dim=64, text_dim=32, text_len=64, clip_dim=64,
            in_channels=36, out_channels=16, audio_window=5, audio_blocks=4, audio_channels=96, audio_intermediate_dim=128,
            audio_output_dim=64, audio_context_tokens=8, eps=1e-6,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Causal 3D VAE of Wan2.1: 4×8×8 compression."""

    dim: int
    z_dim: int
    dim_mult: tuple[int, ...]
    num_res_blocks: int
    temporal_downsample: tuple[bool, ...]
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]

    # Statistics of Wan2.1's latents, as published with its VAE.
    WAN_MEAN = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )  # fmt: skip
    WAN_STD = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )  # fmt: skip

    @classmethod
    def wan21(cls, dim: int = 96, num_res_blocks: int = 2) -> Self:
        return cls(
            dim=dim, z_dim=16, dim_mult=(1, 2, 4, 4), num_res_blocks=num_res_blocks, temporal_downsample=(False, True, True),
            latent_mean=cls.WAN_MEAN, latent_std=cls.WAN_STD,
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> Self:
        """Narrow where pixels are many, wide where they are few. Training makes its latents have the published statistics."""
        return dataclasses.replace(cls.wan21(dim=8, num_res_blocks=1), dim_mult=(1, 2, 4, 8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class UMT5Config:
    """umT5 text encoder; every block has its own relative position table."""

    vocab_size: int
    dim: int
    dim_attn: int
    dim_ffn: int
    num_heads: int
    num_layers: int
    num_buckets: int

    @classmethod
    def xxl(cls) -> Self:
        return cls(vocab_size=256_384, dim=4096, dim_attn=4096, dim_ffn=10_240, num_heads=64, num_layers=24, num_buckets=32)

    @classmethod
    def tiny(cls) -> Self:
        """Byte-level vocabulary: 256 bytes, 3 special tokens and 125 spare ones, as ByT5Tokenizer numbers them."""
        return cls(vocab_size=384, dim=32, dim_attn=32, dim_ffn=64, num_heads=2, num_layers=1, num_buckets=8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig:
    """Image tower of CLIP (open-clip XLM-RoBERTa ViT-H/14); features are taken before the last block."""

    image_size: int
    patch_size: int
    dim: int
    num_heads: int
    num_layers: int
    eps: float

    @property
    def tokens(self) -> int:
        """Pieces of the picture, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @classmethod
    def vit_h_14(cls) -> Self:
        return cls(image_size=224, patch_size=14, dim=1280, num_heads=16, num_layers=32, eps=1e-5)

    @classmethod
    def tiny(cls) -> Self:
        """The portrait's 8×8 pieces of 16×16 pixels, at 128×128 as they are."""
        return cls(image_size=128, patch_size=16, dim=64, num_heads=4, num_layers=2, eps=1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wav2Vec2Config:
    """Speech encoder; the convolutional feature extractor's kernels and strides are those of every wav2vec 2.0."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    conv_dim: int
    pos_conv_kernel: int
    pos_conv_groups: int
    eps: float

    CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
    CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)

    @classmethod
    def base(cls) -> Self:
        """chinese-wav2vec2-base."""
        return cls(
            hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072, conv_dim=512, pos_conv_kernel=128,
            pos_conv_groups=16, eps=1e-5,
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            hidden_size=96, num_layers=4, num_heads=4, intermediate_size=256, conv_dim=64, pos_conv_kernel=16, pos_conv_groups=4,
            eps=1e-5,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The five networks of one system."""

    dit: DiTConfig
    vae: VAEConfig
    text: UMT5Config
    clip: CLIPVisionConfig
    audio: Wav2Vec2Config
    tokenizer: str  # a name or folder for transformers.AutoTokenizer, or "bytes"

    @classmethod
    def wan_14b(cls) -> Self:
        return cls(
            dit=DiTConfig.wan_14b(), vae=VAEConfig.wan21(), text=UMT5Config.xxl(), clip=CLIPVisionConfig.vit_h_14(),
            audio=Wav2Vec2Config.base(), tokenizer="google/umt5-xxl",
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            dit=DiTConfig.tiny(), vae=VAEConfig.tiny(), text=UMT5Config.tiny(), clip=CLIPVisionConfig.tiny(),
            audio=Wav2Vec2Config.tiny(), tokenizer="bytes",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """What a stream looks like: sizes in pixels, frames and seconds.

    `buckets` are the (height, width) pairs a portrait may be fitted to; the one nearest in aspect ratio is taken.
    `audio_mode`: "stream" encodes the last `audio_context_seconds` of speech for every chunk, as live use must; "once" encodes
    the whole recording before the first chunk. `reference`: the portrait is the "first" frame of the reference video, which is blank
    behind it (published), or "all" of its frames, so that what stays where it is can be copied in place.
    """

    buckets: tuple[tuple[int, int], ...]
    frames: int
    motion_frames: int
    fps: int
    sample_rate: int
    audio_context_seconds: int
    audio_mode: Literal["stream", "once"]
    reference: Literal["first", "all"]
    color_strength: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How noise becomes latents.

    `method`: "renoise" predicts x0 and adds fresh noise for the next step (the distilled student); "euler" integrates the flow
    (the teacher). A guidance scale of 1 switches that guidance off. `apg_*`: adaptive projected guidance (arXiv 2410.02416).
    """

    method: Literal["renoise", "euler"]
    steps: int
    shift: float
    text_guidance: float
    audio_guidance: float
    apg: bool
    apg_momentum: float
    apg_norm_threshold: float
    prompt: str
    negative_prompt: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Where numbers live and what computes with them.

    `dtype` of weights and activations. `attention`: the kernel, "auto" is the fastest that is exact, "mosaic_fp8" the one in 8 bits
    (`kernels.attention`). `linear`: "fp8" keeps the transformer's large matrices in 8 bits (`nn.quantization.DIT_FP8`), with a scale
    a token unless the checkpoint has them in 8 bits already. `text_encoder`: "host" keeps its weights off the devices but for the
    moment when a session begins, 11 GB less at 14B.
    """

    dtype: Literal["float32", "bfloat16"]
    attention: Literal["auto", "reference", "cudnn", "mosaic", "mosaic_fp8"]
    linear: Literal["native", "fp8"]
    text_encoder: Literal["device", "host"] = "device"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How one model is spread over devices; see `parallel.plan`.

    `devices`: how many are used, 0 for all that there are. `sequence` (Ulysses × ring) and `grid` (rows × columns of every frame) are
    "auto" or such as "4x2". `weights`: "whole" on every device, or "cut", a part on each and gathered block by block, for those that
    do not fit one. `head_groups`: pieces in which heads are exchanged. `vae_split`: exact "halo" or the published "overlap".
    """

    devices: int = 1
    sequence: str = "auto"
    grid: str = "auto"
    weights: Literal["whole", "cut"] = "whole"
    head_groups: int = 1
    vae_split: Literal["halo", "overlap"] = "halo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that one run is told."""

    model: ModelConfig
    stream: StreamConfig
    sampler: SamplerConfig
    runtime: RuntimeConfig
    parallel: ParallelConfig = ParallelConfig()

    def with_steps(self, steps: int) -> Self:
        return dataclasses.replace(self, sampler=dataclasses.replace(self.sampler, steps=steps))

    def with_devices(self, devices: int) -> Self:
        return dataclasses.replace(self, parallel=dataclasses.replace(self.parallel, devices=devices))

    @classmethod
    def from_config_dict(cls, config: ConfigDict) -> Self:
        """Build the dataclasses from a `configs/*.py` ConfigDict.

        Raises:
            ValueError: unknown or missing keys, or a value of the wrong kind; all of them are named in one message.
        """
        return read_config(cls, config)


def read_config(kind: type[Kind], config: ConfigDict) -> Kind:
    """A dataclass of that kind; errors as of `RunConfig.from_config_dict`."""
    problems: list[str] = []
    value = _build(kind, config.to_dict(), "config", problems)
    if problems:
        raise ValueError("; ".join(problems))
    return value


def _build(annotation: Any, value: Any, path: str, problems: list[str]) -> Any:
    """`value` as `annotation` says, recursively; what does not fit is added to `problems`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        if not isinstance(value, Mapping):
            problems.append(f"{path} must be a group of keys, not {value!r}")
            return None
        hints = get_type_hints(annotation)
        fields = {field.name: hints[field.name] for field in dataclasses.fields(annotation)}
        problems += [f"unknown key {path}.{key} (known: {', '.join(fields)})" for key in value if key not in fields]
        problems += [f"missing key {path}.{name}" for name in fields if name not in value]
        built = {name: _build(kind, value[name], f"{path}.{name}", problems) for name, kind in fields.items() if name in value}
        if problems:
            return None
        try:
            return annotation(**built)
        except ValueError as error:
            problems.append(f"{path}: {error}")
            return None
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            problems.append(f"{path} must be a tuple, not {value!r}")
            return None
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(kinds) != len(value):
            problems.append(f"{path} must have {len(kinds)} entries, not {value!r}")
            return None
        return tuple(_build(kind, item, f"{path}[{i}]", problems) for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))
    if origin is Literal:
        if value not in arguments:
            problems.append(f"{path} must be one of {', '.join(map(repr, arguments))}, not {value!r}")
        return value
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, annotation) or (isinstance(value, bool) and annotation is not bool):
        problems.append(f"{path} must be {annotation.__name__}, not {value!r}")
    return value
