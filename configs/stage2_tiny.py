"""Stage 2 of `tiny`: a student of 4 steps, who corrects its own errors over up to five chunks.

    --config.checkpoint=DIR      of the run of stage1_tiny
    --config.data.path=DIR,DIR   of `livetalk data encode`, five chunks a clip

`stage2_tiny:synthetic` is to stage1_tiny:synthetic as this is to stage1_tiny, with clips of two chunks. Rates are higher than the
published ones, as for a small network whose stage 1 was short, and the average of the student's weights is what is kept. Scores see
motion latents clean: a teacher trained from nothing has seen no others, and tells nonsense of noised ones. The real score sees those of
the clip, not of the student, who keeps to the portrait then and holds the head stiller (all: docs/ablations.md).
"""

from ml_collections import ConfigDict

from livetalk_jax.configs import few_steps_tiny, stage1_tiny, stage2_14b


def get_config(data: str = "") -> ConfigDict:
    """data: "synthetic" for random numbers."""
    config = stage2_14b.get_config()
    first = stage1_tiny.get_config(data)
    config.model, config.stream, config.runtime, config.execution = first.model, first.stream, first.runtime, first.execution
    config.sampler = few_steps_tiny.get_config(data).sampler
    config.data = {**first.data, "batch": 32, "chunks": 5}
    config.loop.update(steps=5000, log_every=50, save_every=500, keep_last=1, keep_best=0, sample_every=1000)
    config.student.update(learning_rate=5e-5, ema_decay=0.99)
    config.fake_score.update(learning_rate=1e-4)
    config.distribution_matching.update(
        cold_start=0.3, handover_color=1.0, text_guidance=1.0, audio_guidance=2.0, score_shift=stage1_tiny.SHIFT, motion_noise="none",
        motion_latents="ground_truth",
    )  # fmt: skip
    if data:
        config = stage1_tiny.synthetic(config)
        config.data.chunks = config.loop.sample_chunks = 2
    return config
