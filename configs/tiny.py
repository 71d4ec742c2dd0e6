"""The whole system at a size that streams on a laptop's CPU: the model that this project trains and ships (docs/small_model.md).

It has one size of picture. Its noise is shifted by 3 where the published models have 5, and it takes two steps where they take four:
lips close more often so, and a chunk takes two cores an eighth less (docs/performance.md).
"""

import dataclasses

from ml_collections import ConfigDict

from livetalk_jax.config import ModelConfig


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.model = dataclasses.asdict(ModelConfig.tiny())
    config.stream = dict(
        buckets=((128, 128),),
        frames=33,
        motion_frames=5,
        fps=25,
        sample_rate=16_000,
        audio_context_seconds=8,
        audio_mode="stream",
        reference="all",
        color_strength=1.0,
    )
    config.sampler = dict(
        method="renoise",
        steps=2,
        shift=3.0,
        text_guidance=1.0,
        audio_guidance=1.0,
        apg=False,
        apg_momentum=-0.75,
        apg_norm_threshold=55.0,
        prompt="A person is talking.",
        negative_prompt="",
    )
    config.runtime = dict(dtype="float32", attention="auto", linear="native", text_encoder="device")
    config.parallel = dict(devices=1, sequence="auto", grid="auto", weights="whole", head_groups=1, vae_split="halo")
    return config
