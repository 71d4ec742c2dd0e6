"""Stage 1 of the 14B model: InfiniteTalk becomes a streamer of 33-frame chunks. 1,000 steps at 32 clips a step.

Known from SoulX-FlashTalk's paper: steps, batch, aspect buckets, full fine-tune, input. Ours, where it is silent: the learning rate
and its warm-up (MultiTalk's constant 2e-5 halved), AdamW's settings, the list of buckets, and all that
`config.FlowMatchingConfig` names. Samples are made as the teacher makes videos, in 40 guided steps.
"""

from ml_collections import ConfigDict

from livetalk_jax.configs import infinitetalk_14b, soulx_14b

BUCKETS = ((720, 416), (416, 720), (768, 448), (448, 768), (640, 480), (480, 640), (544, 544))


def get_config() -> ConfigDict:
    config = soulx_14b.get_config()
    del config.parallel
    config.stage = "adaptation"
    config.checkpoint = ""
    config.stream.buckets = BUCKETS
    config.sampler.update(
        method="euler", steps=40, text_guidance=5.0, audio_guidance=4.0, negative_prompt=infinitetalk_14b.NEGATIVE_PROMPT
    )
    config.data = dict(source="cache", path="", batch=32, chunks=1, workers=0)
    config.execution = dict(fsdp=0, sequence="1x1", grid="auto", scan=True, remat="full")
    config.lora = dict(rank=0, alpha=16.0, pattern=r"blocks\..*kernel$")
    config.loop = dict(
        steps=1000, minutes=0.0, seed=0, log_every=1, save_every=100, keep_last=2, keep_best=1, sample_every=250, sample_chunks=1
    )  # fmt: skip
    config.student = dict(
        learning_rate=1e-5, warmup_steps=100, decay_steps=0, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=1.0, accumulate=1,
        ema_decay=0.0,
    )  # fmt: skip
    config.flow_matching = dict(
        timestep_shift=5.0,
        timestep_steps=0,
        weighting="uniform",
        drop_text=0.1,
        drop_audio=0.1,
        audio_guidance=1.0,
        cold_start=0.1,
        cold_start_latent="first_frame",
        temporal_weight=0.0,
        movement_weight=0.0,
        picture_weight=0.0,
        lasting_weight=0.0,
        handed_over=0.0,
        handovers=1,
        recycled=0.0,
        recyclings=1,
        disturbed=0.0,
        disturbance=0.0,
    )
    config.updates = 1
    return config
