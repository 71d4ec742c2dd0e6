"""What devices send each other."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from livetalk_jax.benchmarks.cost.convolutions import Conv
from livetalk_jax.benchmarks.cost.work import BF16, Work, self_attention_work, tokens_held
from livetalk_jax.config import DiTConfig
from livetalk_jax.parallel.plan import Pair, Plan
from livetalk_jax.shapes import Geometry


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
    tensor = BF16 * tokens_held(plan, geometry) * config.dim
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


def gather(plan: Plan, operand_bytes: float, per_host: int) -> Exchange:
    """Every device's part to every other."""
    return Exchange("all-gather", 1, operand_bytes, *partners(plan.model_devices, per_host))


def halo_strips(halos: Iterable[Exchange]) -> Iterator[Work]:
    """What is given is read and written, and so is what arrives, over the zeros that one device pads with too."""
    for halo in halos:
        yield Work("memory", 0.0, 4 * halo.sent)
