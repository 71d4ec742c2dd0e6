"""What a compiled program sends between devices, read from its HLO text."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

KINDS = (
    "all-to-all",
    "collective-permute",
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "collective-broadcast",
    "ragged-all-to-all",
)
BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4,
    "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_COLLECTIVE = re.compile(rf" ({'|'.join(KINDS)})(?:-start)?\(([^)]*)\)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange, as every device takes part in it.

    Attributes:
        kind: of `KINDS`.
        operands: what a device puts in, (element type, dimensions) each.
        groups: devices that exchange, by their places in the line of devices; of a permute the pairs (source, target).
    """

    kind: str
    operands: tuple[tuple[str, tuple[int, ...]], ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def operand_bytes(self) -> int:
        return sum(BYTES[dtype] * math.prod(dims) for dtype, dims in self.operands)

    @property
    def sent_bytes(self) -> dict[int, float]:
        """Bytes that leave each device that takes part; sums go round a ring, twice."""
        if self.kind == "collective-permute":
            return {source: float(self.operand_bytes) for source, target in self.groups if source != target}
        size = max(map(len, self.groups))
        share = {"all-to-all": 1 / size, "all-gather": 1.0, "all-reduce": 2 / size, "reduce-scatter": 1 / size}
        if self.kind not in share:
            raise ValueError(f"how much a {self.kind} sends is not known here")
        return {device: self.operand_bytes * (size - 1) * share[self.kind] for group in self.groups for device in group}


Counts = Mapping[Collective, int]


@dataclasses.dataclass
class _Computation:
    lines: list[str] = dataclasses.field(default_factory=list)
    shapes: dict[str, str] = dataclasses.field(default_factory=dict)


def _computations(text: str) -> tuple[dict[str, _Computation], str]:
    found: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if match := _COMPUTATION.match(line):
                current = found[match[2]] = _Computation()
                entry = match[2] if match[1] else entry
        elif line.startswith("}"):
            current = None
        elif match := _INSTRUCTION.match(line):
            rest = line[match.end() :]
            # A tuple's shape holds blanks, an array's does not.
            current.shapes[match[1]] = rest[: _closing(rest)] if rest.startswith("(") else rest.split(" ", 1)[0]
            current.lines.append(line)
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY computation")
    return found, entry


def _closing(text: str) -> int:
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i + 1
    raise ValueError(f"parentheses do not close in {text[:80]!r}")


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    """Replica groups or source-target pairs in any of the forms that XLA prints."""
    if match := re.search(r"\b(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})?\}", line):
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", match[1] or ""))
    if match := re.search(r"\breplica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        shape, dims, order = (tuple(map(int, part.split(","))) if part else () for part in match.groups())
        return tuple(map(tuple, np.arange(math.prod(dims)).reshape(dims).transpose(order or None).reshape(shape).tolist()))
    if match := re.search(r"\breplica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        exchanging = re.findall(r"'([^']+)'", match[2])
        names = list(sizes)
        last = [names.index(name) for name in (*(name for name in names if name not in exchanging), *exchanging)]
        line_up = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values())).transpose(last)
        return tuple(map(tuple, line_up.reshape(-1, math.prod(sizes[name] for name in exchanging)).tolist()))
    raise ValueError(f"no replica groups that are understood in {line.strip()[:200]!r}")


def _runs(computations: dict[str, _Computation], entry: str) -> Iterator[tuple[_Computation, int]]:
    """Every computation with how often one run of the program runs it."""
    todo = [(entry, 1)]
    while todo:
        name, times = todo.pop()
        computation = computations[name]
        yield computation, times
        for line in computation.lines:
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += re.findall(r"[\w.\-]+", branches)
            if not called:
                continue
            trips = 1
            if " while(" in line:
                known = _TRIPS.search(line)
                trips = int(known[1]) if known else 0
            # 0: of a loop whose length the program decides itself.
            todo += [(callee, times * trips) for callee in called]


def collectives(text: str) -> collections.Counter[Collective]:
    """How often one run of a compiled program does each of its collectives.

    Args:
        text: `jax.stages.Compiled.as_text()`.

    Raises:
        ValueError: no compiled program, or a collective in a loop of unknown length.
    """
    computations, entry = _computations(text)
    counts: collections.Counter[Collective] = collections.Counter()
    for computation, times in _runs(computations, entry):
        for line in computation.lines:
            match = _COLLECTIVE.search(line)
            if not match:
                continue
            if not times:
                raise ValueError(f"a {match[1]} stands in a loop whose length is not known before it runs")
            arrays = [
                (dtype, tuple(int(d) for d in dims.split(",") if d))
                for name in re.findall(r"%([\w.\-]+)", match[2])
                for dtype, dims in _ARRAY.findall(computation.shapes[name])
            ]
            counts[Collective(match[1], tuple(arrays), _groups(line))] += times
    return counts


# What JAX calls the collectives that a program asks for; those that XLA adds to move arrays elsewhere bear other names, or none.
_OURS = re.compile(r'op_name="[^"]*\bshard_map/[^"]*\b(all_to_all|ppermute|all_gather|psum\w*|pmax|pmin|reduce_scatter)\w*"')


def added(text: str) -> list[str]:
    """Collectives of a compiled program that nobody wrote: kind, shape and name of each."""
    found = []
    for line in text.splitlines():
        if _INSTRUCTION.match(line) and _COLLECTIVE.search(line) and not _OURS.search(line):
            name = re.search(r'op_name="([^"]*)"', line)
            found.append(f"{line.strip().split(', ')[0][:160]} for {name[1] if name else 'nothing that has a name'}")
    return found


def by_kind(counts: Counts, share: float = 1.0) -> dict[str, tuple[float, float]]:
    """{kind: (how many, bytes that leave the device that sends most in all)}; `share` of them."""
    sent: dict[str, dict[int, float]] = {}
    total: dict[int, float] = {}
    number: collections.Counter[str] = collections.Counter()
    for collective, count in counts.items():
        number[collective.kind] += count
        devices = sent.setdefault(collective.kind, {})
        for device, amount in collective.sent_bytes.items():
            for sums in (devices, total):
                sums[device] = sums.get(device, 0.0) + count * amount
    busiest = max(total, key=total.__getitem__, default=0)
    return {kind: (number[kind] * share, devices.get(busiest, 0.0) * share) for kind, devices in sent.items()}
