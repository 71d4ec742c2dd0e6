"""How one model is spread over devices: the choice, its reasons, and what each device then holds. Pure arithmetic.

The devices of a model stand in one line, numbered from 0. Two ways of counting run over the same line:

    grid      device = row · columns + column     which rows and columns of every frame it holds (latents, tokens, pixels)
    sequence  device = ring · ulysses + member     with whom it exchanges heads (Ulysses) and keys and values (ring)
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Literal

Pair = tuple[int, int]


def _pair(pair: Pair) -> str:
    return f"{pair[0]}x{pair[1]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Degrees of parallelism.

    Attributes:
        ulysses: devices that exchange heads for tokens (all-to-all) in self-attention.
        ring: devices, or groups of `ulysses` devices, that pass keys and values around.
        rows, columns: how every frame is cut; rows · columns = ulysses · ring.
        data: copies of the model, each with a part of the batch.
        fsdp: devices that share the weights of one copy, each with a part of that copy's batch.
        head_groups: pieces that a device's heads are exchanged in, so that one travels while another is computed.
        vae_split: "halo", exact, or "overlap", the published split, whose pixels depend on the grid.
    """

    ulysses: int = 1
    ring: int = 1
    rows: int = 1
    columns: int = 1
    data: int = 1
    fsdp: int = 1
    head_groups: int = 1
    vae_split: Literal["halo", "overlap"] = "halo"

    @property
    def model_devices(self) -> int:
        """Devices that work on one video."""
        return self.ulysses * self.ring

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.model_devices

    @property
    def name(self) -> str:
        """Short, unique within a number of devices: "u4r2-g4x2", with what differs from the ordinary behind it."""
        return "".join(
            (
                f"u{self.ulysses}r{self.ring}-g{self.rows}x{self.columns}",
                f"-d{self.data}" if self.data > 1 else "",
                f"-f{self.fsdp}" if self.fsdp > 1 else "",
                f"-h{self.head_groups}" if self.head_groups > 1 else "",
                f"-{self.vae_split}" if self.vae_split != "halo" else "",
            )
        )

    def local_tokens(self, token_grid: Pair) -> Pair:
        """Token rows and columns of a device, padding included, of a picture of (h, w) tokens."""
        return math.ceil(token_grid[0] / self.rows), math.ceil(token_grid[1] / self.columns)

    def padded_tokens(self, token_grid: Pair) -> Pair:
        """(h, w) of the picture with its padding at the bottom and on the right."""
        h, w = self.local_tokens(token_grid)
        return h * self.rows, w * self.columns

    def padding(self, token_grid: Pair) -> float:
        """Tokens added by padding, as a share of the true ones."""
        return math.prod(self.padded_tokens(token_grid)) / math.prod(token_grid) - 1.0

    def halo(self, token_grid: Pair) -> int:
        """Token edges that the device with the most neighbours exchanges in each convolution of the VAE."""
        h, w = self.local_tokens(token_grid)
        return min(self.rows - 1, 2) * w + min(self.columns - 1, 2) * h

    def problem(self, heads: int, *token_grids: Pair) -> str | None:
        """Why this plan cannot work for a model of `heads` heads and pictures of (h, w) tokens; None if it can."""
        return next(filter(None, (self._problem(heads, grid) for grid in token_grids)), None)

    def _problem(self, heads: int, token_grid: Pair) -> str | None:
        for field in ("ulysses", "ring", "rows", "columns", "data", "fsdp", "head_groups"):
            if getattr(self, field) < 1:
                return f"{field} is {getattr(self, field)} but must be at least 1"
        if self.rows * self.columns != self.model_devices:
            return (
                f"a grid of {self.rows} rows × {self.columns} columns is {self.rows * self.columns} devices, but Ulysses "
                f"{self.ulysses} × ring {self.ring} is {self.model_devices}"
            )
        if heads % self.ulysses:
            return f"Ulysses {self.ulysses} does not divide the model's {heads} heads"
        if (heads // self.ulysses) % self.head_groups:
            return f"{self.head_groups} head groups do not divide the {heads // self.ulysses} heads of a device"
        if self.columns % self.ulysses and self.ulysses % self.columns:
            return (
                f"{self.columns} columns and Ulysses {self.ulysses} cut the line of devices across each other: one must divide "
                "the other"
            )
        for kind, parts, tokens in (("rows", self.rows, token_grid[0]), ("columns", self.columns, token_grid[1])):
            if parts > tokens:
                return f"{parts} {kind} of devices are more than the picture's {tokens} token {kind}"
        if self.vae_split == "overlap":
            for kind, parts, tokens in (("rows", self.rows, token_grid[0]), ("columns", self.columns, token_grid[1])):
                latents = 2 * tokens
                # As published: equal tiles, and a margin of two latents on either side that must lie within the picture.
                if parts > 1 and (latents % parts or latents // parts + 4 > latents):
                    return f"overlapping VAE tiles need equal parts, but {latents} latent {kind} on {parts} {kind} are not"
        h, w = self.local_tokens(token_grid)
        for group in range(self.ring):
            members = (divmod(group * self.ulysses + member, self.columns) for member in range(self.ulysses))
            if all(row * h >= token_grid[0] or column * w >= token_grid[1] for row, column in members):
                return f"a grid of {self.rows}×{self.columns} leaves part {group + 1} of the ring with nothing but padding"
        return None

    def explain(self, heads: int, token_grid: Pair) -> str:
        """One line for people."""
        (h, w), (local_h, local_w) = token_grid, self.local_tokens(token_grid)
        if self.devices == 1:
            return f"1 device: all {heads} heads and {h}×{w} tokens a frame"
        parts = [f"{self.devices} devices"]
        if self.data > 1 or self.fsdp > 1:
            parts.append(f"{self.data} copies × {self.fsdp} with shared weights × {self.model_devices} a video")
        parts.append(f"Ulysses {self.ulysses} ({heads // self.ulysses} of {heads} heads each) × ring {self.ring}")
        padding = self.padding(token_grid)
        parts.append(
            f"grid {self.rows}×{self.columns} of {h}×{w} tokens, {local_h}×{local_w} each "
            f"({f'{padding:.1%} padding' if padding else 'no padding'})"
        )
        if self.head_groups > 1:
            parts.append(f"heads in {self.head_groups} groups")
        if self.model_devices > 1:
            parts.append("VAE with exact halos" if self.vae_split == "halo" else "VAE in overlapping tiles (approximate)")
        return "; ".join(parts)


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def valid_plans(devices: int, heads: int, *token_grids: Pair, per_host: int | None = None) -> Iterator[Plan]:
    """Every sequence × grid of `devices` devices that works, the default first: the largest Ulysses degree, then the least
    padding, then the least halo. With `per_host`, Ulysses groups that would leave a host come last."""

    def preference(plan: Plan):
        leaves = per_host is not None and per_host % plan.ulysses != 0
        padded = sum(math.prod(plan.padded_tokens(grid)) for grid in token_grids)
        return leaves, -plan.ulysses, padded, sum(map(plan.halo, token_grids)), plan.columns

    plans = [
        Plan(ulysses=ulysses, ring=devices // ulysses, rows=rows, columns=devices // rows)
        for ulysses in divisors(devices)
        for rows in divisors(devices)
    ]
    yield from sorted((plan for plan in plans if plan.problem(heads, *token_grids) is None), key=preference)


def parse_pair(text: str, what: str) -> Pair | None:
    """ "4x2" -> (4, 2), "auto" -> None.

    Raises:
        ValueError: anything else.
    """
    if text == "auto":
        return None
    left, _, right = text.replace("×", "x").partition("x")
    if not (left.isdecimal() and right.isdecimal()):
        raise ValueError(f"{what} must be auto or two numbers such as 4x2, not {text!r}")
    return int(left), int(right)


def make_plan(
    devices: int,
    heads: int,
    *token_grids: Pair,
    sequence: str = "auto",
    grid: str = "auto",
    data: int = 1,
    fsdp: int = 1,
    head_groups: int = 1,
    vae_split: Literal["halo", "overlap"] = "halo",
    per_host: int | None = None,
) -> Plan:
    """The plan asked for, with what is "auto" filled in.

    Args:
        devices: all there are; data · fsdp · (devices of one video).
        heads: of the model's self-attention.
        token_grids: (h, w) of the picture, or of all sizes that the plan is for.
        sequence: "auto", or Ulysses × ring such as "4x2".
        grid: "auto", or rows × columns such as "4x2".
        per_host: devices of a host, where there are several hosts: "auto" keeps Ulysses inside one.

    Raises:
        ValueError: the plan cannot work; the line gives the reason and the nearest plan that can.
    """
    copies = max(data, 1) * max(fsdp, 1)
    if data < 1 or fsdp < 1 or devices < 1 or devices % copies:
        raise ValueError(f"{devices} devices cannot be split into data {data} × fsdp {fsdp} × (devices of one video)")
    model = devices // copies
    wanted_sequence, wanted_grid = parse_pair(sequence, "sequence"), parse_pair(grid, "grid")
    valid = [
        dataclasses.replace(plan, data=data, fsdp=fsdp, head_groups=head_groups, vae_split=vae_split)
        for plan in valid_plans(model, heads, *token_grids, per_host=per_host)
    ]
    fitting = [
        plan
        for plan in valid
        if wanted_sequence in (None, (plan.ulysses, plan.ring)) and wanted_grid in (None, (plan.rows, plan.columns))
    ]
    usable = [plan for plan in fitting if plan.problem(heads, *token_grids) is None]
    if usable:
        return usable[0]

    able = [plan for plan in valid if plan.problem(heads, *token_grids) is None]
    if fitting or not (wanted_sequence or wanted_grid):
        # Right but for the head groups, or no plan at all for so many devices.
        able = able or [dataclasses.replace(plan, head_groups=1) for plan in valid]
    if not able:
        fewer = next((n for n in range(model - 1, 0, -1) if next(valid_plans(n, heads, *token_grids), None)), 1)
        sizes = ", ".join(f"{h}×{w}" for h, w in token_grids)
        raise ValueError(f"no plan for {model} devices has a grid for {sizes} tokens; {fewer} devices have")

    wanted = (wanted_sequence, wanted_grid)
    reason = fitting[0].problem(heads, *token_grids) if fitting else _reason(model, heads, token_grids, *wanted)

    def distance(plan: Plan) -> float:
        pairs = ((wanted_sequence, (plan.ulysses, plan.ring)), (wanted_grid, (plan.rows, plan.columns)))
        return sum(abs(math.log(max(a, 0.5) / b)) for asked, got in pairs if asked for a, b in zip(asked, got, strict=True))

    nearest = min(able, key=distance)
    raise ValueError(
        f"{reason}; the nearest plan that works: sequence {_pair((nearest.ulysses, nearest.ring))}, "
        f"grid {_pair((nearest.rows, nearest.columns))}"
        + (f", head_groups {nearest.head_groups}" if nearest.head_groups != head_groups else "")
    )


def _reason(devices: int, heads: int, token_grids: Sequence[Pair], sequence: Pair | None, grid: Pair | None) -> str:
    for name, pair in (("sequence", sequence), ("grid", grid)):
        if pair and math.prod(pair) != devices:
            return f"{name} {_pair(pair)} is {math.prod(pair)} devices, but one video has {devices}"
    sequences = [sequence] if sequence else [(u, devices // u) for u in divisors(devices)]
    grids = [grid] if grid else [(r, devices // r) for r in divisors(devices)]
    problems = [
        Plan(ulysses=u, ring=r, rows=rows, columns=columns).problem(heads, *token_grids)
        for u, r in sequences
        for rows, columns in grids
    ]
    return next(problem for problem in problems if problem)
