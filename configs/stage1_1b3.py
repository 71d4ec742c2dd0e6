"""Stage 1 at the widths and depth of Wan2.1-1.3B, for one GPU of 80 GB or more. No such weights are published."""

import dataclasses

from ml_collections import ConfigDict

from livetalk_jax.config import DiTConfig
from livetalk_jax.configs import stage1_14b


def get_config() -> ConfigDict:
    config = stage1_14b.get_config()
    config.model.dit = dataclasses.asdict(DiTConfig.wan_1b3())
    config.data.batch = 1
    return config
