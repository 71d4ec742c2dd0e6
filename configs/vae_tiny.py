"""The VAE of `tiny`, from random weights, on drawn persons.

--config.data.path=DIR,DIR   of `livetalk data procedural --chunks`
--config.autoencoding.decoder_alone=True --config.checkpoint=DIR   goes on with the decoder when others have begun to use the latents
"""

from ml_collections import ConfigDict

from livetalk_jax.configs import stage1_tiny


def get_config() -> ConfigDict:
    config = stage1_tiny.get_config()
    for name in ("sampler", "execution", "lora", "flow_matching", "student"):
        del config[name]
    config.stage = "autoencoder"
    config.data.batch, config.updates = 8, 8
    config.loop.update(steps=4000, log_every=10, save_every=500, sample_every=500)
    config.optimizer = dict(
        learning_rate=2e-3, warmup_steps=200, decay_steps=0, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, clip_norm=1.0, accumulate=1,
        ema_decay=0.999,
    )  # fmt: skip
    # As many as a chunk has: trained on 17, colours were wrong from the twentieth frame on.
    config.autoencoding = dict(
        frames=config.stream.frames, mouth_weight=10.0, closed_weight=2.0, edge_weight=1.0, kl_weight=3e-4, decoder_alone=False
    )
    return config
