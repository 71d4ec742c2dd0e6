"""InfiniteTalk-14B, the teacher: 81 frames with 9 carried over, 40 Euler steps, guidance by text (5) and audio (4).

The part after a colon chooses the published set of sizes: `infinitetalk_14b` or `infinitetalk_14b:480`, and `infinitetalk_14b:720`.
"""

import dataclasses

from ml_collections import ConfigDict

from livetalk_jax.config import ModelConfig

# (height, width) and timestep shift, as published with InfiniteTalk.
SIZES = {
    "480": (
        (
            (320, 1216), (384, 1024), (448, 896), (512, 768), (576, 704), (640, 640), (704, 576), (768, 512), (832, 448),
            (896, 448), (960, 384), (1088, 384), (1152, 320), (1216, 320), (1280, 320),
        ),
        7.0,
    ),
    "720": (
        (
            (448, 2048), (512, 1792), (576, 1600), (640, 1408), (704, 1280), (768, 1216), (832, 1088), (896, 1024), (960, 960),
            (1024, 896), (1088, 832), (1152, 768), (1216, 768), (1280, 704), (1344, 704), (1408, 640), (1472, 640), (1536, 576),
            (1664, 576), (1856, 512), (1920, 512),
        ),
        11.0,
    ),
}  # fmt: skip

NEGATIVE_PROMPT = (
    "bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, overall gray, worst "
    "quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, poorly drawn faces, "
    "deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, three legs, many people in the "
    "background, walking backwards"
)


def get_config(size: str = "480") -> ConfigDict:
    if size not in SIZES:
        raise ValueError(f"infinitetalk_14b has no size {size!r}; it has {', '.join(SIZES)}")
    buckets, shift = SIZES[size]
    config = ConfigDict()
    config.model = dataclasses.asdict(ModelConfig.wan_14b())
    config.stream = dict(
        buckets=buckets,
        frames=81,
        motion_frames=9,
        fps=25,
        sample_rate=16_000,
        audio_context_seconds=8,
        audio_mode="once",
        reference="first",
        color_strength=0.0,
    )
    config.sampler = dict(
        method="euler",
        steps=40,
        shift=shift,
        text_guidance=5.0,
        audio_guidance=4.0,
        apg=False,
        apg_momentum=-0.75,
        apg_norm_threshold=55.0,
        prompt="A person is talking. Only the foreground characters are moving, the background remains static.",
        negative_prompt=NEGATIVE_PROMPT,
    )
    config.runtime = dict(dtype="bfloat16", attention="auto", linear="native", text_encoder="device")
    config.parallel = dict(devices=0, sequence="auto", grid="auto", weights="whole", head_groups=1, vae_split="halo")
    return config
