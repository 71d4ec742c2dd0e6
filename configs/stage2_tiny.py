"""Stage 2 at a size that trains on a laptop's CPU, on random numbers unless it is given data."""

from ml_collections import ConfigDict

from livetalk_jax.configs import stage1_tiny, stage2_14b


def get_config() -> ConfigDict:
    config = stage2_14b.get_config()
    small = stage1_tiny.get_config()
    config.model, config.stream, config.runtime = small.model, small.stream, small.runtime
    config.sampler.negative_prompt = ""
    config.execution = small.execution
    config.data.update(source="synthetic", batch=2, chunks=2)
    config.loop.update(steps=10, save_every=5, sample_every=10, sample_chunks=2)
    return config
