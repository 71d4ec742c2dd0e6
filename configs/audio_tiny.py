"""The speech encoder of `tiny`, from random weights, on drawn persons' speech and mouths.

--config.data.path=DIR,DIR   of `livetalk data procedural --chunks`
--config.checkpoint=DIR      the other networks, for the checkpoint that is written: the VAE's run
"""

from ml_collections import ConfigDict

from livetalk_jax.configs import vae_tiny


def get_config() -> ConfigDict:
    config = vae_tiny.get_config()
    config.stage = "speech"
    config.data.batch = 64
    config.loop.update(steps=1000, save_every=500, sample_every=0)
    config.optimizer.update(b2=0.98, weight_decay=0.01)
    del config.autoencoding
    config.listening = dict(spoilt=0.6, filter_db=12.0, noise_db=8.0)
    return config
