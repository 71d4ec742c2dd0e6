"""SoulX-FlashTalk-14B as published: 4 steps, no guidance, chunks of 33 frames with 5 carried over.

The part after a colon chooses the size: `soulx_14b` or `soulx_14b:720x416`, and `soulx_14b:768x448`; both orientations of it
are buckets, and the portrait's aspect ratio chooses.
"""

import dataclasses

from ml_collections import ConfigDict

from livetalk_jax.config import ModelConfig

SIZES = {"720x416": (720, 416), "768x448": (768, 448)}


def get_config(size: str = "720x416") -> ConfigDict:
    if size not in SIZES:
        raise ValueError(f"soulx_14b has no size {size!r}; it has {', '.join(SIZES)}")
    long, short = SIZES[size]
    config = ConfigDict()
    config.model = dataclasses.asdict(ModelConfig.wan_14b())
    config.stream = dict(
        buckets=((long, short), (short, long)),
        frames=33,
        motion_frames=5,
        fps=25,
        sample_rate=16_000,
        audio_context_seconds=8,
        audio_mode="stream",
        reference="first",
        color_strength=1.0,
    )
    config.sampler = dict(
        method="renoise",
        steps=4,
        shift=5.0,
        text_guidance=1.0,
        audio_guidance=1.0,
        apg=False,
        apg_momentum=-0.75,
        apg_norm_threshold=55.0,
        prompt="A person is talking. Only the foreground characters are moving, the background remains static.",
        negative_prompt="",
    )
    config.runtime = dict(dtype="bfloat16", attention="auto", linear="native", text_encoder="device")
    config.parallel = dict(devices=0, sequence="auto", grid="auto", weights="whole", head_groups=1, vae_split="halo")
    return config
