"""Stage 2 of the 14B model: the teacher of stage 1 becomes a student of 4 steps that corrects its own errors. 200 steps.

Known: steps, batch 32, up to 5 chunks, 1:5 updates, three networks from stage 1, student without guidance. Near certain, from the
same authors and Self-Forcing: both learning rates, AdamW's settings, clipping. Ours, where the paper is silent: all that
`config.DistributionMatchingConfig` names, and no average of the weights (Self-Forcing's begins at step 200, so it never acts).

    --config.checkpoint=DIR   the student of stage 1
"""

from ml_collections import ConfigDict

from livetalk_jax.configs import soulx_14b, stage1_14b


def get_config() -> ConfigDict:
    config = stage1_14b.get_config()
    config.stage = "distillation"
    sampler = soulx_14b.get_config().sampler
    config.sampler.update({**sampler, "negative_prompt": config.sampler.negative_prompt})
    config.data.chunks = 5
    config.loop.update(steps=200, save_every=20, sample_every=20, sample_chunks=5)
    config.student = dict(
        learning_rate=2e-6, warmup_steps=0, decay_steps=0, b1=0.0, b2=0.999, eps=1e-8, weight_decay=0.01, clip_norm=10.0, accumulate=1,
        ema_decay=0.0,
    )  # fmt: skip
    config.fake_score = {**config.student, "learning_rate": 4e-7}
    del config.flow_matching, config.updates
    config.distribution_matching = dict(
        schedule="self_forcing",
        fake_updates=5,
        rollout="random",
        early_exit="last_chunk",
        cold_start=0.1,
        handover_color=0.0,
        text_guidance=5.0,
        audio_guidance=4.0,
        score_shift=5.0,
        timestep_min=20.0,
        timestep_max=980.0,
        motion_latents="predicted",
        motion_noise="same_t",
        small_sigma=0.02,
        motion_in_loss=False,
    )
    return config
