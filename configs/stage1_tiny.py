"""Stage 1 at a size that trains on a laptop's CPU, on random numbers unless it is given data."""

from ml_collections import ConfigDict

from livetalk_jax.configs import stage1_14b, tiny


def get_config() -> ConfigDict:
    config = stage1_14b.get_config()
    small = tiny.get_config()
    config.model, config.stream, config.runtime = small.model, small.stream, small.runtime
    config.sampler.update(steps=8, negative_prompt="")
    config.data.update(source="synthetic", batch=2)
    config.execution.update(scan=False, remat="none")
    config.loop.update(steps=20, save_every=10, sample_every=20)
    config.student.update(learning_rate=1e-3, warmup_steps=5)
    return config
