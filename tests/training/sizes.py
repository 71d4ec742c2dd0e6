"""The published settings of both stages at a size whose programs compile in seconds: `--config tests/training/sizes.py:stage1`."""

from ml_collections import ConfigDict

from livetalk_jax.configs import stage1_14b, stage2_14b, tiny

HEIGHT = WIDTH = 32


def get_config(stage: str) -> ConfigDict:
    config = {"stage1": stage1_14b, "stage2": stage2_14b}[stage].get_config()
    small = tiny.get_config()
    config.model, config.stream, config.runtime = small.model, small.stream, small.runtime
    config.sampler.update(steps=8 if stage == "stage1" else 4, negative_prompt="")
    config.execution.update(scan=False, remat="none")
    config.model.dit.update(
        dim=32, ffn_dim=48, num_heads=2, num_layers=2, freq_dim=16, text_dim=16, text_len=8, clip_dim=16, audio_blocks=2,
        audio_channels=16, audio_intermediate_dim=16, audio_output_dim=16, audio_context_tokens=4,
    )  # fmt: skip
    config.model.vae.update(dim=4, dim_mult=(1, 2, 4, 4))
    config.model.text.update(dim=16, dim_attn=16, dim_ffn=16, num_layers=1)
    config.model.clip.update(dim=16, num_layers=2)
    config.model.audio.update(hidden_size=16, num_layers=2, intermediate_size=16, conv_dim=16)
    config.stream.update(buckets=((HEIGHT, WIDTH),), frames=9)
    config.data.update(source="synthetic", batch=2, chunks=1 if stage == "stage1" else 2)
    config.loop.update(steps=6, log_every=1, save_every=2, sample_every=0, sample_chunks=1 if stage == "stage1" else 2)
    if stage == "stage1":
        config.student.update(learning_rate=1e-3, warmup_steps=5)
    return config
