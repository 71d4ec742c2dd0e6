"""A chunk as stages of work and exchanges, and the memory that it takes."""

import math
from typing import Literal, NamedTuple

from livetalk_jax.benchmarks.cost.convolutions import decoder_convs, encoder_convs, vae_work
from livetalk_jax.benchmarks.cost.exchanges import Exchange, gather, halo_exchanges, halo_strips, partners, sequence_exchanges
from livetalk_jax.benchmarks.cost.machines import Chip
from livetalk_jax.benchmarks.cost.rates import Rates, exchange_seconds, work_seconds
from livetalk_jax.benchmarks.cost.work import BF16, FLOAT32, IMAGE_TOKENS, Work, audio_work, step_work
from livetalk_jax.config import ModelConfig, RunConfig, VAEConfig
from livetalk_jax.parallel.plan import Pair, Plan
from livetalk_jax.shapes import PATCH, Geometry, latent_frames


class Stage(NamedTuple):
    """One call of a stage on one device."""

    work: list[Work]
    exchanges: list[Exchange]

    def seconds(self, chip: Chip, rates: Rates, slower: float = 1.0) -> float:
        """`slower`: how many times as long as ours another code's work takes."""
        waiting = sum(exchange_seconds(exchange, chip, rates) for exchange in self.exchanges)
        return slower * work_seconds(self.work, chip, rates) + waiting

    def traffic(self) -> dict[str, tuple[float, float]]:
        """{kind: (how many, bytes that leave the busiest device)}."""
        kinds: dict[str, tuple[float, float]] = {}
        for exchange in self.exchanges:
            count, sent = kinds.get(exchange.kind, (0.0, 0.0))
            kinds[exchange.kind] = count + exchange.times, sent + exchange.sent
        return kinds


def latents_held(plan: Plan, geometry: Geometry) -> Pair:
    """Rows and columns of latents on a device, padding included."""
    h, w = plan.local_tokens(geometry.token_grid[1:])
    return h * PATCH[1], w * PATCH[2]


DECODE_MARGIN, ENCODE_MARGIN = 2, 1  # latents around a tile of the published split


def vae_stage(
    config: VAEConfig, part: Literal["decode", "encode"], frames: int, plan: Plan, geometry: Geometry, per_host: int
) -> tuple[list[Work], list[Exchange]]:
    """Work and exchanges of one call."""
    local, (_, *grid) = latents_held(plan, geometry), geometry.latent_grid
    whole = (grid[0], grid[1])
    latents = latent_frames(frames)
    if plan.model_devices == 1:
        return vae_work(config, part, frames, whole, whole), []
    if plan.vae_split == "overlap":
        margin = DECODE_MARGIN if part == "decode" else ENCODE_MARGIN
        kept = whole[0] // plan.rows, whole[1] // plan.columns
        tile = kept[0] + 2 * margin * (plan.rows > 1), kept[1] + 2 * margin * (plan.columns > 1)
        # Latents and pixels of one row and column of latents.
        before, after = latents * config.z_dim, frames * 64 * 3
        before, after = (before, after) if part == "decode" else (after, before)
        sizes = before * math.prod(local), after * math.prod(kept)
        return vae_work(config, part, frames, tile, tile), [gather(plan, BF16 * size, per_host) for size in sizes]
    convs = list(decoder_convs(config, frames) if part == "decode" else encoder_convs(config, frames))
    dim = config.dim * config.dim_mult[-1]
    keys_values = gather(plan, BF16 * latents * math.prod(local) * 2 * dim, per_host)
    halos = halo_exchanges(convs, plan, local, per_host)
    return [*vae_work(config, part, frames, local, whole), *halo_strips(halos)], [*halos, keys_values]


def rest_of_chunk(config: RunConfig, plan: Plan, geometry: Geometry, per_host: int) -> tuple[list[Work], list[Exchange]]:
    """Audio keys and values, the colour match, the way of the frames to every device, and what a decode in two pieces exchanges more
    than one of the whole."""
    pixels = math.prod(latents_held(plan, geometry)) * 64
    # Means, deviations and the match itself, in float32: three reads of the video, one write.
    colours = Work("memory", 0.0, 4.0 * FLOAT32 * 3 * geometry.frames * pixels)
    work = [*audio_work(config.model.dit, geometry), colours]
    if plan.model_devices == 1:
        return work, []
    here, away = partners(plan.model_devices, per_host)
    means = Exchange("all-reduce", 2, 2 * FLOAT32 * 3 * geometry.frames / plan.model_devices, here, away)
    exchanges = [means, gather(plan, 3 * geometry.new_frames * pixels, per_host)]
    if geometry.first_latents < geometry.latent_grid[0] and plan.vae_split == "halo":
        # Causal convolutions of the second piece read the last two frames of the first, and their halos, again.
        again = [conv._replace(read_frames=2) for conv in decoder_convs(config.model.vae, geometry.frames) if conv.time > 1]
        exchanges += halo_exchanges(again, plan, latents_held(plan, geometry), per_host)
    return work, exchanges


def stages(config: RunConfig, plan: Plan, geometry: Geometry, per_host: int) -> dict[str, Stage]:
    """All that a chunk is made of; of "DiT step" it has several."""
    dit, vae, stream = config.model.dit, config.model.vae, config.stream
    return {
        "DiT step": Stage(step_work(dit, plan, geometry), sequence_exchanges(dit, plan, geometry, per_host)),
        "VAE decode": Stage(*vae_stage(vae, "decode", stream.frames, plan, geometry, per_host)),
        "VAE encode": Stage(*vae_stage(vae, "encode", stream.motion_frames, plan, geometry, per_host)),
        "rest": Stage(*rest_of_chunk(config, plan, geometry, per_host)),
    }


def chunk_traffic(config: RunConfig, plan: Plan, geometry: Geometry, per_host: int) -> dict[str, tuple[float, float]]:
    """Of a whole chunk: {kind: (how many, bytes that leave the busiest device)}."""
    total: dict[str, tuple[float, float]] = {}
    for name, stage in stages(config, plan, geometry, per_host).items():
        times = config.sampler.steps if name == "DiT step" else 1
        for kind, (count, sent) in stage.traffic().items():
            before = total.get(kind, (0.0, 0.0))
            total[kind] = before[0] + times * count, before[1] + times * sent
    return total


def weight_bytes(model: ModelConfig) -> float:
    """Transformer and VAE in bf16; norms and biases are left out."""
    dit, vae = model.dit, model.vae
    d = dit.dim
    block = 12 * d * d + 2 * d * dit.ffn_dim + 2 * dit.audio_output_dim * d
    window = dit.audio_blocks * dit.audio_channels * dit.audio_intermediate_dim
    audio = window * (2 * dit.audio_window + 3) + dit.audio_intermediate_dim * dit.audio_context_tokens * dit.audio_output_dim
    ends = d * (dit.text_dim + dit.freq_dim + 8 * d + dit.clip_dim + 4 * (dit.in_channels + dit.out_channels)) + dit.clip_dim**2
    convs = [*encoder_convs(vae, 5), *decoder_convs(vae, 5)]
    return BF16 * (dit.num_layers * block + audio + ends + sum(c.time * c.space**2 * c.in_dim * c.out_dim for c in convs))


def peak_bytes(config: RunConfig, plan: Plan, geometry: Geometry) -> float:
    """Weights, conditions, and two of the VAE's largest activations: twice the channels of the last level at full size."""
    dit = config.model.dit
    context = BF16 * dit.num_layers * 2 * (dit.text_len + IMAGE_TOKENS) * dit.dim
    pixels = math.prod(latents_held(plan, geometry)) * 64
    return weight_bytes(config.model) + context + 2 * BF16 * geometry.frames * pixels * 2 * config.model.vae.dim
