"""Stage 1 of `tiny`, from a random transformer, on drawn persons: the teacher, who needs many guided steps.

    --config.checkpoint=DIR      with the trained VAE and speech encoder: the run of audio_tiny
    --config.data.path=DIR,DIR   of `livetalk data encode`

`stage1_tiny:synthetic` needs neither: twenty steps on random numbers, which run on any CPU.

There is no teacher to begin with, so all rates are those of training from nothing. Noise is shifted less than at the published sizes:
at 128×128 a latent stands more alone. Prompts tell nothing apart here, so text has no guidance, and speech has.
The small VAE blurs what it is given again and again; the teacher learns to go on sharply from motion latents that were handed over,
and from its own errors of up to five chunks, without which a face moves away from its portrait (docs/ablations.md). The rate falls to
0 over all 5,000 steps of eight updates.
"""

from ml_collections import ConfigDict

from livetalk_jax.configs import stage1_14b, tiny

SHIFT = 3.0


def synthetic(config: ConfigDict) -> ConfigDict:
    """The same on random numbers, to see it run."""
    config.runtime.dtype = "float32"
    config.data.update(source="synthetic", batch=2)
    config.sampler.steps = min(config.sampler.steps, 8)
    config.loop.update(steps=20, log_every=1, save_every=10, sample_every=20)
    return config


def get_config(data: str = "") -> ConfigDict:
    """data: "synthetic" for random numbers."""
    if data not in ("", "synthetic"):
        raise ValueError(f"stage1_tiny has no data {data!r}; it has 'synthetic'")
    config = stage1_14b.get_config()
    small = tiny.get_config()
    config.model, config.stream = small.model, small.stream
    config.runtime = {**small.runtime, "dtype": "bfloat16"}
    config.sampler.update(
        steps=40, shift=SHIFT, text_guidance=1.0, audio_guidance=2.0, prompt=small.sampler.prompt, negative_prompt=""
    )
    config.data.update(source="drawn", batch=64)
    config.execution.update(scan=False, remat="none", fsdp=1)  # small enough for a copy on each GPU
    config.loop.update(steps=5000, log_every=10, save_every=500, keep_last=1, keep_best=0, sample_every=1000)
    config.student.update(learning_rate=1e-3, warmup_steps=500, decay_steps=40_000, b2=0.99, ema_decay=0.9995)
    config.flow_matching.update(
        timestep_shift=SHIFT, cold_start=0.2, cold_start_latent="portrait", movement_weight=0.5, lasting_weight=2.0, handed_over=0.1,
        handovers=3, recycled=0.8, recyclings=5, disturbed=0.3, disturbance=0.6,
    )  # fmt: skip
    config.updates = 1 if data else 8
    return synthetic(config) if data else config
