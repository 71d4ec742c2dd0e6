"""What a plan should take on machines that are not there: arithmetic, memory traffic and exchanges, at rates fitted on one GPU.

Nothing here runs on a device. Volumes are exact (tests compare them with compiled programs); seconds are a model:

    a piece of work   the longer of FLOPs / rate and bytes / rate, the rate lowered where its tiles leave multiprocessors idle
    an exchange       latency + bytes / rate of the links, of which what the compiler overlaps is not counted
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from livetalk_jax.benchmarks.report import STAGES, Report, Row
from livetalk_jax.config import DiTConfig, ModelConfig, RunConfig, VAEConfig
from livetalk_jax.parallel.plan import Pair, Plan
from livetalk_jax.shapes import PATCH, Geometry, latent_frames

BF16, FLOAT32 = 2, 4
IMAGE_TOKENS = 257  # of CLIP's ViT-H/14


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Datasheet of a GPU: dense bf16 FLOP/s, bytes/s of memory, bytes, bytes/s in one direction of all its NVLinks and of its share
    of the network, and multiprocessors."""

    name: str
    flops: float
    memory: float
    capacity: float
    links: float
    network: float
    multiprocessors: int


CHIPS = {
    "h200": Chip(name="H200 SXM", flops=989e12, memory=4.8e12, capacity=141e9, links=450e9, network=50e9, multiprocessors=132),
    "h100": Chip(name="H100 SXM", flops=989e12, memory=3.35e12, capacity=80e9, links=450e9, network=50e9, multiprocessors=132),
    # An H100 with fewer NVLinks: 400 GB/s in both directions together instead of 900.
    "h800": Chip(name="H800 SXM", flops=989e12, memory=3.35e12, capacity=80e9, links=200e9, network=50e9, multiprocessors=132),
    "a100": Chip(
        name="A100 SXM 80 GB", flops=312e12, memory=2.039e12, capacity=80e9, links=300e9, network=25e9, multiprocessors=108
    ),
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """`hosts` computers with `per_host` GPUs each."""

    chip: Chip
    hosts: int
    per_host: int

    @property
    def devices(self) -> int:
        return self.hosts * self.per_host

    @classmethod
    def parse(cls, text: str) -> "Machine":
        """ "h800x8": one host up to 8 GPUs, then hosts of 8; "h100x4x2": 4 hosts of 2.

        Raises:
            ValueError: no such machine.
        """
        name, *numbers = text.lower().split("x")
        if name not in CHIPS or not 1 <= len(numbers) <= 2 or not all(n.isdecimal() for n in numbers):
            raise ValueError(f"no machine {text!r}: give such as h800x8 (GPUs) or h100x4x8 (hosts x GPUs); {', '.join(CHIPS)}")
        counts = [int(n) for n in numbers]
        devices = math.prod(counts)
        if not 1 <= devices <= 64:
            raise ValueError(f"{text!r} has {devices} GPUs; the model is for 1 to 64")
        if len(counts) == 1:
            if devices > 8 and devices % 8:
                raise ValueError(f"{devices} GPUs are no whole hosts of 8; give hosts x GPUs, such as {name}x2x{devices // 2}")
            counts = [max(devices // 8, 1), min(devices, 8)]
        return cls(CHIPS[name], *counts)


# Work of one device.


class Work(NamedTuple):
    """A piece of work.

    Attributes:
        kind: which efficiency it has.
        flops: of it.
        bytes: read and written.
        tiles: ways to cut it into tiles, of which a multiprocessor computes one at a time: (tiles, speed within a tile).
    """

    kind: Literal["matmul", "attention", "conv", "memory"]
    flops: float
    bytes: float
    tiles: tuple[tuple[int, float], ...] = ()

    def times(self, count: float) -> "Work":
        return self._replace(flops=self.flops * count, bytes=self.bytes * count)


# Columns of a matrix product's tiles of 128 rows, and how fast small ones are beside large ones.
TILE_COLUMNS = {256: 1.0, 192: 0.98, 128: 0.95}


def linear(rows: int, inner: int, outer: int) -> Work:
    """[rows, inner] · [inner, outer] in bf16."""
    traffic = BF16 * (rows * inner + inner * outer + rows * outer)
    tiles = tuple((math.ceil(rows / 128) * math.ceil(outer / columns), speed) for columns, speed in TILE_COLUMNS.items())
    return Work("matmul", 2.0 * rows * inner * outer, traffic, tiles)


def attention(queries: int, keys: int, heads: int, width: int, batch: int = 1) -> Work:
    """Fused attention, in tiles of 128 queries of a head."""
    traffic = BF16 * batch * heads * width * 2.0 * (queries + keys)
    tiles = batch * heads * math.ceil(queries / 128)
    return Work("attention", 4.0 * batch * queries * keys * heads * width, traffic, ((tiles, 1.0),))


def passes(rows: int, width: int, count: float) -> Work:
    """`count` reads or writes of [rows, width] in bf16."""
    return Work("memory", 0.0, BF16 * count * rows * width)


# Reads and writes of [tokens, D] in a block beside its matrix products and attention: two modulated norms (3 each), q and k
# normalised and turned (3 each), norms before both cross-attentions and of their queries (8), the sum of text and image (3), and
# what two gated residuals take beside the product's own result (2 each).
BLOCK_PASSES = 6 + 6 + 8 + 3 + 4


def _tokens(plan: Plan, geometry: Geometry) -> int:
    """Tokens of a device, padding included."""
    h, w = plan.local_tokens(geometry.token_grid[1:])
    return geometry.token_grid[0] * h * w


def self_attention_work(config: DiTConfig, plan: Plan, geometry: Geometry) -> list[Work]:
    """Of one layer, beside the projections. Padding is never a key."""
    local = _tokens(plan, geometry)
    heads = config.num_heads // plan.ulysses
    queries, keys = local * plan.ulysses, math.ceil(geometry.tokens / plan.ring)
    group = heads // plan.head_groups
    work = [attention(queries, keys, group, config.head_dim)] * (plan.ring * plan.head_groups)
    if plan.ulysses > 1:  # v and the result are put in the order that the exchange wants; q and k are on their way anyhow
        work.append(passes(local, config.dim, 4))
    if plan.ring > 1:  # every block's result is merged in float32: read in bf16, the sum read and written
        work.append(passes(local, config.dim, 5 * plan.ring))
    return work


def block_work(config: DiTConfig, plan: Plan, geometry: Geometry) -> list[Work]:
    """One transformer block on one device."""
    n, dim = _tokens(plan, geometry), config.dim
    frames = geometry.token_grid[0]
    heads = (config.num_heads, config.head_dim)
    return [
        *[linear(n, dim, dim)] * 8,  # self: q, k, v, o; text and image: q, o; audio: q, o
        linear(n, dim, config.ffn_dim),
        linear(n, config.ffn_dim, dim),
        attention(n, config.text_len, *heads),
        attention(n, IMAGE_TOKENS, *heads),
        attention(n // frames, config.audio_context_tokens, *heads, batch=frames),
        passes(n, dim, BLOCK_PASSES),
        *self_attention_work(config, plan, geometry),
    ]


def step_work(config: DiTConfig, plan: Plan, geometry: Geometry) -> list[Work]:
    """One prediction of the velocity."""
    n = _tokens(plan, geometry)
    ends = [linear(n, 4 * config.in_channels, config.dim), linear(n, config.dim, 4 * config.out_channels)]
    # Products with one row: their weights are read.
    time = [
        linear(1, inner, outer)
        for inner, outer in ((config.freq_dim, config.dim), (config.dim, config.dim), (config.dim, 6 * config.dim))
    ]
    return [*block_work(config, plan, geometry) * config.num_layers, *ends, *time]


def audio_work(config: DiTConfig, geometry: Geometry) -> list[Work]:
    """Audio keys and values of a chunk, whole on every device."""
    tokens = geometry.latent_grid[0] * config.audio_context_tokens
    return [linear(tokens, config.audio_output_dim, 2 * config.dim)] * config.num_layers


class Conv(NamedTuple):
    """A convolution: channels, taps in time and in each spatial direction, frames that it reads (with those before the video) and
    writes, the rows and columns that it writes for each that a latent has times `scale`, and the spatial padding on either side."""

    in_dim: int
    out_dim: int
    time: int
    space: int
    read_frames: int
    frames: int
    scale: float
    low: int
    high: int
    stride: int = 1


def _res(in_dim: int, out_dim: int, frames: int, scale: float) -> Iterator[Conv]:
    yield Conv(in_dim, out_dim, 3, 3, frames + 2, frames, scale, 1, 1)
    yield Conv(out_dim, out_dim, 3, 3, frames + 2, frames, scale, 1, 1)
    if in_dim != out_dim:
        yield Conv(in_dim, out_dim, 1, 1, frames, frames, scale, 0, 0)


def decoder_convs(config: VAEConfig, frames: int) -> Iterator[Conv]:
    """Of a decode to `frames` frames; scale 1 is a latent."""
    dims = [config.dim * multiplier for multiplier in reversed(config.dim_mult)]
    f, scale, width = latent_frames(frames), 1.0, dims[0]
    yield Conv(config.z_dim, width, 3, 3, f + 2, f, scale, 1, 1)
    for _ in range(2):
        yield from _res(width, width, f, scale)
    for level, dim in enumerate(dims):
        for _ in range(config.num_res_blocks + 1):
            yield from _res(width, dim, f, scale)
            width = dim
        if level < len(config.temporal_downsample):
            if config.temporal_downsample[::-1][level] and f > 1:
                yield Conv(dim, 2 * dim, 3, 1, f + 1, f - 1, scale, 0, 0)
                f = 2 * f - 1
            scale *= 2
            width = dim // 2
            yield Conv(dim, width, 1, 3, f, f, scale, 1, 1)
    yield Conv(width, 3, 3, 3, f + 2, f, scale, 1, 1)


def encoder_convs(config: VAEConfig, frames: int) -> Iterator[Conv]:
    """Of an encode of `frames` frames."""
    dims = [config.dim * multiplier for multiplier in config.dim_mult]
    f, scale, width = frames, 8.0, config.dim
    yield Conv(3, width, 3, 3, f + 2, f, scale, 1, 1)
    for level, dim in enumerate(dims):
        for _ in range(config.num_res_blocks):
            yield from _res(width, dim, f, scale)
            width = dim
        if level < len(config.temporal_downsample):
            scale /= 2
            yield Conv(dim, dim, 1, 3, f, f, scale, 0, 1, stride=2)
            if config.temporal_downsample[level] and f > 1:
                yield Conv(dim, dim, 3, 1, f, (f - 1) // 2, scale, 0, 0)
                f = (f + 1) // 2
    for _ in range(2):
        yield from _res(width, width, f, scale)
    yield Conv(width, 2 * config.z_dim, 3, 3, f + 2, f, scale, 1, 1)


# Measured on an H200: FLOP/s of norm, SiLU and a causal 3×3×3 convolution, by channels (docs/sharding.md).
CONV_RATES = {96: 403e12, 192: 517e12, 384: 640e12}


def conv_work(conv: Conv, rows: int, columns: int) -> Work:
    """On `rows` × `columns` latents, with the norm and activation before it; FLOPs as at the rate of 384 channels."""
    pixels = conv.frames * rows * columns * conv.scale**2
    flops = 2.0 * conv.time * conv.space**2 * conv.in_dim * conv.out_dim * pixels
    # Fewer channels than the tensor cores' 8 cost as much as 8.
    narrow = max(min(conv.in_dim, conv.out_dim), 8)
    below = max((c for c in CONV_RATES if c <= narrow), default=min(CONV_RATES))
    rate = CONV_RATES[below] * min(narrow / below, 1.0)
    traffic = BF16 * pixels * (conv.in_dim * conv.stride**2 + conv.out_dim)
    return Work("conv", flops * CONV_RATES[384] / rate, traffic)


def vae_work(config: VAEConfig, part: Literal["decode", "encode"], frames: int, local: Pair, whole: Pair) -> list[Work]:
    """One call on a device that holds `local` (rows, columns) of the latents and attends to `whole` in the middle."""
    convs = decoder_convs(config, frames) if part == "decode" else encoder_convs(config, frames)
    dim, f = config.dim * config.dim_mult[-1], latent_frames(frames)
    queries, keys = math.prod(local), math.prod(whole)
    # The middle attention, frame by frame and not fused: float32 scores are written, read twice and written again.
    scores = Work("matmul", 4.0 * queries * keys * dim * f, 4.0 * FLOAT32 * queries * keys * f)
    return [*(conv_work(conv, *local) for conv in convs), linear(f * queries, dim, 3 * dim), linear(f * queries, dim, dim), scores]


# Exchanges.


class Exchange(NamedTuple):
    """Equal exchanges, one after the other.

    Attributes:
        kind: of collective.
        times: how many.
        bytes: that a device sends to each partner.
        here, away: partners in its host and in others.
        behind: work that each of them hides behind.
    """

    kind: str
    times: float
    bytes: float
    here: int
    away: int
    behind: Work | None = None

    @property
    def sent(self) -> float:
        """Bytes that leave the busiest device in all of them."""
        return self.times * self.bytes * (self.here + self.away)


def partners(devices: int, per_host: int) -> Pair:
    """Of a device in a group of that many neighbours: (in its host, in others)."""
    here = min(devices, per_host) - 1
    return here, devices - 1 - here


def sequence_exchanges(config: DiTConfig, plan: Plan, geometry: Geometry, per_host: int) -> list[Exchange]:
    """Of one DiT step."""
    layers = config.num_layers
    tensor = BF16 * _tokens(plan, geometry) * config.dim
    found = []
    if plan.ulysses > 1:
        here, away = partners(plan.ulysses, per_host)
        piece = tensor / plan.ulysses / plan.head_groups
        # q, k and v there, the result back; XLA computes nothing meanwhile, in groups of heads or not.
        found.append(Exchange("all-to-all", 4 * plan.head_groups * layers, piece, here, away))
    if plan.ring > 1:
        away = int(plan.model_devices > per_host)
        # Keys and values travel one after the other, behind the attention to the block before.
        half = self_attention_work(config, plan, geometry)[0].times(plan.head_groups / 2)
        hops = 2 * (plan.ring - 1) * layers
        found.append(Exchange("collective-permute", hops, tensor, 1 - away, away, behind=half))
    return found


def halo_exchanges(convs: Iterable[Conv], plan: Plan, local: Pair, per_host: int) -> list[Exchange]:
    """Rows and columns that a device in the middle of the grid gives its neighbours before each convolution."""
    found = []
    for conv in convs:
        rows, columns = (math.ceil(size * conv.scale * conv.stride) for size in local)
        # Rows first; columns then bring the corners along. Only rows of the grid reach into other hosts.
        for parts, edge, away in (
            (plan.rows, columns, int(plan.model_devices > per_host)),
            (plan.columns, rows + (conv.low + conv.high) * (plan.rows > 1), int(plan.columns > per_host)),
        ):
            widths = [width for width in (conv.low, conv.high) if width]
            if parts == 1 or not widths:
                continue
            amount = BF16 * conv.read_frames * edge * max(widths) * conv.in_dim
            # Two devices each send one way, in one exchange.
            found.append(Exchange("collective-permute", 1 if parts == 2 else len(widths), amount, 1 - away, away))
    return found


def halo_copies(convs: Iterable[Conv], local: Pair) -> Iterator[Work]:
    """What came from the neighbours is put beside what was there, in a new array; zeros at a whole picture's edge cost nothing."""
    for conv in convs:
        if conv.low or conv.high:
            pixels = conv.read_frames * math.prod(local) * (conv.scale * conv.stride) ** 2
            yield Work("memory", 0.0, 2.0 * BF16 * pixels * conv.in_dim)


def gather(plan: Plan, operand_bytes: float, per_host: int) -> Exchange:
    """Every device's part to every other."""
    return Exchange("all-gather", 1, operand_bytes, *partners(plan.model_devices, per_host))


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
    work = [*vae_work(config, part, frames, local, whole), *halo_copies(convs, local)]
    return work, [*halo_exchanges(convs, plan, local, per_host), keys_values]


def rest_of_chunk(config: RunConfig, plan: Plan, geometry: Geometry, per_host: int) -> tuple[list[Work], list[Exchange]]:
    """Audio keys and values, the colour match, and the way of the frames to every device."""
    pixels = math.prod(latents_held(plan, geometry)) * 64
    # Means, deviations and the match itself, in float32: three reads of the video, one write.
    colours = Work("memory", 0.0, 4.0 * FLOAT32 * 3 * geometry.frames * pixels)
    work = [*audio_work(config.model.dit, geometry), colours]
    if plan.model_devices == 1:
        return work, []
    here, away = partners(plan.model_devices, per_host)
    means = Exchange("all-reduce", 2, 2 * FLOAT32 * 3 * geometry.frames / plan.model_devices, here, away)
    return work, [means, gather(plan, 3 * geometry.new_frames * pixels, per_host)]


# Seconds.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What a chip reaches of its datasheet, 0 to 1, and what exchanges take.

    Attributes:
        matmul, attention, conv, memory: of bf16 FLOP/s, and of memory's bytes/s.
        latency: seconds of an exchange of nothing.
        pair: bytes/s from one GPU to one other of its host.
        links, network: of a GPU's links together and of its share of the network.
    """

    matmul: float
    attention: float
    conv: float
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


def stages(config: RunConfig, plan: Plan, geometry: Geometry, per_host: int) -> dict[str, Stage]:
    """All that a chunk is made of; of "DiT step" it has several."""
    dit, vae, stream = config.model.dit, config.model.vae, config.stream
    return {
        "DiT step": Stage(step_work(dit, plan, geometry), sequence_exchanges(dit, plan, geometry, per_host)),
        "VAE decode": Stage(*vae_stage(vae, "decode", stream.frames, plan, geometry, per_host)),
        "VAE encode": Stage(*vae_stage(vae, "encode", stream.motion_frames, plan, geometry, per_host)),
        "rest": Stage(*rest_of_chunk(config, plan, geometry, per_host)),
    }


# What the rates are fitted on, all on H200s at 720×416 in bf16; a test compares these numbers with docs/measurements.
FITTED_CHIP = CHIPS["h200"]
ONE_GPU = {"DiT step": 0.67903807, "VAE decode": 0.19773457, "VAE encode": 0.01843139}
# Attention by cuDNN, 10,530 tokens and 40 heads; a large copy. Both alone.
ATTENTION_SECONDS, COPY_RATE = 4.29100e-3, 4.2e12
# Two GPUs: a chunk's exchanges alone, with heads in one group and in two, which sends the same bytes in 640 more exchanges.
EXCHANGE_LATENCY = (0.11579628 - 0.09900249) / 640
PAIR_RATE = 220e9
# Not measured: what eight GPUs that all send at once reach of their links, and of the network between hosts.
ALL_LINKS = NETWORK = 0.8


@functools.cache
def fitted() -> Rates:
    """Rates at which the model gives the measured time of one GPU's attention, DiT step and VAE decode."""
    chip, geometry = FITTED_CHIP, Geometry(720, 416, 33, 5)
    rates = Rates(
        matmul=1.0, attention=1.0, conv=1.0, memory=COPY_RATE / chip.memory, latency=EXCHANGE_LATENCY, pair=PAIR_RATE,
        links=ALL_LINKS, network=NETWORK,
    )  # fmt: skip
    dit, vae = DiTConfig.wan_14b(), VAEConfig.wan21()
    grid = geometry.latent_grid[1:]
    alone = attention(geometry.tokens, geometry.tokens, dit.num_heads, dit.head_dim)
    for name, work, seconds in (
        ("attention", [alone], ATTENTION_SECONDS),
        ("matmul", step_work(dit, Plan(), geometry), ONE_GPU["DiT step"]),
        ("conv", vae_work(vae, "decode", 33, grid, grid), ONE_GPU["VAE decode"]),
    ):
        # Time falls with the rate of one kind of work alone; some of that kind may wait for memory instead.
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            slow = work_seconds(work, chip, dataclasses.replace(rates, **{name: middle})) > seconds
            low, high = (middle, high) if slow else (low, middle)
        rates = dataclasses.replace(rates, **{name: high})
    return rates


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


def chunk_traffic(config: RunConfig, plan: Plan, geometry: Geometry, per_host: int) -> dict[str, tuple[float, float]]:
    """Of a whole chunk: {kind: (how many, bytes that leave the busiest device)}."""
    total: dict[str, tuple[float, float]] = {}
    for name, stage in stages(config, plan, geometry, per_host).items():
        times = config.sampler.steps if name == "DiT step" else 1
        for kind, (count, sent) in stage.traffic().items():
            before = total.get(kind, (0.0, 0.0))
            total[kind] = before[0] + times * count, before[1] + times * sent
    return total


def predict(
    config: RunConfig, plan: Plan, chip: Chip, per_host: int, rates: Rates, slower: Mapping[str, float] | None = None
) -> Row:
    """A row of the comparison. `slower`: for another code, how many times as long its stages' work takes."""
    geometry = Geometry(*config.stream.buckets[0], config.stream.frames, config.stream.motion_frames)
    parts = stages(config, plan, geometry, per_host)
    seconds = {name: stage.seconds(chip, rates, (slower or {}).get(name, 1.0)) for name, stage in parts.items()}
    steps = config.sampler.steps
    seconds["chunk"] = (steps - 1) * seconds["DiT step"] + sum(seconds.values())
    del seconds["rest"]
    traffic = {name: stage.traffic() for name, stage in parts.items() if name in STAGES}
    traffic["chunk"] = chunk_traffic(config, plan, geometry, per_host)
    alone = [exchange._replace(behind=None) for stage in parts.values() for exchange in stage.exchanges]
    alone += [exchange._replace(behind=None) for exchange in parts["DiT step"].exchanges] * (steps - 1)
    return Row(
        plan=plan.name,
        explained=plan.explain(config.model.dit.num_heads, geometry.token_grid[1:]),
        devices=plan.devices,
        predicted=True,
        seconds=seconds,
        traffic=traffic,
        collective_seconds=sum(exchange_seconds(exchange, chip, rates) for exchange in alone),
        peak_bytes=peak_bytes(config, plan, geometry),
    )


# Two H200s, for the model's error; a test compares these numbers with docs/measurements.
TWO_GPUS = {
    Plan(ulysses=2, columns=2): (0.37037405, 0.11726068, 0.01298415, 1.60411691),
    Plan(ulysses=2, columns=2, head_groups=2): (0.37117756, 0.11726068, 0.01298415, 1.62263813),
    Plan(ulysses=2, columns=2, vae_split="overlap"): (0.37037405, 0.11494025, 0.01039064, 1.60670553),
}

# The published PyTorch code, not compiled (arXiv 2512.23379, table 4): seconds on one H800 and on eight.
PUBLISHED_CHIP = CHIPS["h800"]
PUBLISHED_ONE = {"DiT step": 1.070, "VAE decode": 0.988, "VAE encode": 0.097}
PUBLISHED_EIGHT = {"DiT step": 0.193, "VAE decode": 0.192, "VAE encode": 0.021}
# Compiled, a steady cycle: audio 33, transformer 616, decode 187, encode 14, rest 26 ms.
PUBLISHED_CYCLE = 0.876
PUBLISHED_PLAN = Plan(ulysses=8, rows=2, columns=4, vae_split="overlap")


def published_slowness(config: RunConfig) -> dict[str, float]:
    """How many times as long as ours the published code's work takes, from what it takes on one GPU."""
    ours = predict(config, Plan(), PUBLISHED_CHIP, 8, fitted()).seconds
    return {name: seconds / ours[name] for name, seconds in PUBLISHED_ONE.items()}


def _errors(config: RunConfig) -> list[str]:
    """The model beside what was measured."""

    def line(plan: Plan, measured: Mapping[str, float], where: str) -> str:
        predicted = predict(config, plan, FITTED_CHIP, 8, fitted()).seconds
        errors = (f"{name} {predicted[name] / seconds - 1:+.1%}" for name, seconds in measured.items())
        return f"error on {where}, {plan.name}: {', '.join(errors)}"

    lines = [line(Plan(), ONE_GPU, f"one {FITTED_CHIP.name} (DiT step and decode are fitted)")]
    return lines + [
        line(plan, dict(zip(STAGES, seconds, strict=True)), f"two {FITTED_CHIP.name} (not fitted)")
        for plan, seconds in TWO_GPUS.items()
    ]


def report(config: RunConfig, machine: Machine, plans: Sequence[Plan], about: Mapping[str, object]) -> Report:
    """One device and `plans`, the fastest first, on a machine; all predicted.

    Raises:
        ValueError: a configuration whose rates were not fitted.
    """
    if config.runtime.dtype != "bfloat16" or config.runtime.linear != "native":
        raise ValueError("the cost model is fitted on bfloat16: --model-for takes runtime.dtype bfloat16 and runtime.linear native")
    chip, rates = machine.chip, fitted()
    one, *rows = [predict(config, plan, chip, machine.per_host, rates) for plan in (Plan(), *plans)]
    rows = [one, *sorted(rows, key=lambda row: row.seconds["chunk"])]
    notes = [
        "All numbers are PREDICTED by a cost model; nothing ran on this machine. Work is at rates fitted on one H200, exchanges at "
        "rates measured between two; those of eight GPUs at once and of networks are assumed (docs/sharding.md).",
        *_errors(config),
    ]
    tight = [row.plan for row in rows if row.peak_bytes and row.peak_bytes > chip.capacity]
    if tight:
        notes.append(f"does not fit {chip.capacity / 1e9:.0f} GB: {', '.join(tight)}")
    if chip == PUBLISHED_CHIP and machine.devices == machine.per_host == PUBLISHED_PLAN.devices:
        slowness = published_slowness(config)
        for plan, measured in ((Plan(), PUBLISHED_ONE), (PUBLISHED_PLAN, PUBLISHED_EIGHT)):
            row = predict(config, plan, chip, machine.per_host, rates, slowness)
            rows.append(dataclasses.replace(row, plan=f"published code, {plan.name}", peak_bytes=None))
            pairs = (f"{name} {1e3 * row.seconds[name]:.0f} ms predicted, {1e3 * measured[name]:.0f} measured" for name in measured)
            notes.append(f"published code on {plan.devices} H800: {'; '.join(pairs)}" + (" (fitted)" if plan.devices == 1 else ""))
        notes.append(f"published code on 8 H800, compiled, a whole cycle with audio: {1e3 * PUBLISHED_CYCLE:.0f} ms measured")
    return Report(about=about, rows=rows, new_frames=config.stream.frames - config.stream.motion_frames, notes=notes)
