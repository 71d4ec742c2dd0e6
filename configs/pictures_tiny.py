"""The end of `tiny`: few steps go on with decoded pictures in the loss, for faces nearer to their portrait (docs/ablations.md). What is
shipped is made by this.

    --config.checkpoint=DIR      of the run of few_steps_tiny
    --config.data.path=DIR,DIR   of `livetalk data encode`

`pictures_tiny:synthetic` is to stage1_tiny:synthetic as this is to stage1_tiny.
"""

from ml_collections import ConfigDict

from livetalk_jax.configs import few_steps_tiny

STEPS = 700


def get_config(data: str = "") -> ConfigDict:
    """data: "synthetic" for random numbers."""
    config = few_steps_tiny.get_config(data)
    if not data:
        config.data.batch, config.loop.steps = 32, STEPS  # decoding takes longer than the transformer
    config.student.update(learning_rate=3e-4, decay_steps=STEPS * config.updates)
    config.flow_matching.picture_weight = 6.0
    return config
