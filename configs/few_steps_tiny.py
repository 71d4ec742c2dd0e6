"""`tiny` goes on from stage 1 at the timesteps of four steps alone, guided by speech; pictures_tiny goes on from this.

    --config.checkpoint=DIR      of the run of stage1_tiny
    --config.data.path=DIR,DIR   of `livetalk data encode`

It is no distillation: the network still learns from clips, so it keeps to the portrait as its teacher in few steps does, which a
student of stage 2 does not (docs/ablations.md). `few_steps_tiny:synthetic` is to stage1_tiny:synthetic as this is to stage1_tiny.
"""

from ml_collections import ConfigDict

from livetalk_jax.configs import stage1_tiny, tiny

STEPS = 900


def get_config(data: str = "") -> ConfigDict:
    """data: "synthetic" for random numbers."""
    config = stage1_tiny.get_config(data)
    config.sampler = {**tiny.get_config().sampler, "steps": 4, "negative_prompt": ""}
    if not data:
        config.loop.steps = STEPS
    config.student.update(learning_rate=4e-4, warmup_steps=200, decay_steps=STEPS * config.updates)
    config.flow_matching.update(timestep_steps=config.sampler.steps, audio_guidance=1.5)
    return config
