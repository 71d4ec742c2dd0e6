"""How fast work and exchanges are: shares of a datasheet, fitted on one H200 and between two."""

import dataclasses
import functools
import math
from collections.abc import Iterable

from livetalk_jax.benchmarks.cost.convolutions import vae_work
from livetalk_jax.benchmarks.cost.exchanges import Exchange
from livetalk_jax.benchmarks.cost.machines import CHIPS, Chip
from livetalk_jax.benchmarks.cost.work import Work, attention, step_work
from livetalk_jax.config import DiTConfig, VAEConfig
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.shapes import Geometry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What a chip reaches of its datasheet, 0 to 1, and what exchanges take.

    Attributes:
        matmul, attention, decode, encode, memory: of bf16 FLOP/s, and of memory's bytes/s.
        latency: seconds of an exchange of nothing.
        pair: bytes/s from one GPU to one other of its host.
        links, network: of a GPU's links together and of its share of the network.
    """

    matmul: float
    attention: float
    decode: float
    encode: float
    memory: float
    latency: float
    pair: float
    links: float
    network: float


def work_seconds(work: Iterable[Work], chip: Chip, rates: Rates) -> float:
    total = 0.0
    for kind, flops, traffic, tiles in work:
        at_once = chip.multiprocessors
        fill = max((speed * n / (math.ceil(n / at_once) * at_once) for n, speed in tiles), default=1.0)
        busy = flops / (chip.flops * getattr(rates, kind) * fill) if flops else 0.0
        total += max(busy, traffic / (chip.memory * rates.memory))
    return total


def exchange_seconds(exchange: Exchange, chip: Chip, rates: Rates) -> float:
    """Time in which nothing else happens."""
    here, away, amount = exchange.here, exchange.away, exchange.bytes
    links = here * amount / min(here * rates.pair, chip.links * rates.links) if here else 0.0
    network = away * amount / (chip.network * rates.network)
    hidden = work_seconds([exchange.behind], chip, rates) if exchange.behind else 0.0
    return exchange.times * max(rates.latency + max(links, network) - hidden, 0.0)


# What the rates are fitted on, on H200s at 720×416 in bf16: the mean of one GPU of two hosts. A test compares these numbers with
# docs/measurements.
FITTED_CHIP = CHIPS["h200"]
ONE_GPU = {"DiT step": 0.63895624, "VAE decode": 0.19718508, "VAE encode": 0.01686732}
# Our attention in one piece, of the tokens that a step is padded to and 40 heads; a large copy. Both alone.
ATTENTION_TOKENS, ATTENTION_SECONDS, COPY_RATE = 10_544, 3.51568e-3, 4.2e12
# Two GPUs: a chunk's exchanges alone, with heads in one group and in two, which sends the same bytes in 640 more exchanges.
EXCHANGE_LATENCY = (0.11546113 - 0.09785232) / 640
PAIR_RATE = 220e9
# Not measured: what eight GPUs that all send at once reach of their links, and of the network between hosts.
ALL_LINKS = NETWORK = 0.8


@functools.cache
def fitted() -> Rates:
    """Rates at which the model gives the measured time of one GPU's attention, DiT step, VAE decode and encode."""
    chip, geometry = FITTED_CHIP, Geometry(720, 416, 33, 5)
    rates = Rates(
        matmul=1.0, attention=1.0, decode=1.0, encode=1.0, memory=COPY_RATE / chip.memory, latency=EXCHANGE_LATENCY, pair=PAIR_RATE,
        links=ALL_LINKS, network=NETWORK,
    )  # fmt: skip
    dit, vae = DiTConfig.wan_14b(), VAEConfig.wan21()
    grid = geometry.latent_grid[1:]
    alone = attention(ATTENTION_TOKENS, ATTENTION_TOKENS, dit.num_heads, dit.head_dim)
    for name, work, seconds in (
        ("attention", [alone], ATTENTION_SECONDS),
        ("matmul", step_work(dit, Plan(), geometry), ONE_GPU["DiT step"]),
        ("decode", vae_work(vae, "decode", 33, grid, grid), ONE_GPU["VAE decode"]),
        ("encode", vae_work(vae, "encode", 5, grid, grid), ONE_GPU["VAE encode"]),
    ):
        # Time falls with the rate of one kind of work alone; some of that kind may wait for memory instead.
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            slow = work_seconds(work, chip, dataclasses.replace(rates, **{name: middle})) > seconds
            low, high = (middle, high) if slow else (low, middle)
        rates = dataclasses.replace(rates, **{name: high})
    return rates
