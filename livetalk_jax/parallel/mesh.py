"""The mesh of devices that a plan is carried out on."""

import collections
import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from livetalk_jax.parallel.plan import Plan

logger = logging.getLogger(__name__)

BATCH = ("data", "fsdp")
MODEL = ("outer", "middle", "inner")

Names = tuple[str, ...]


class Axes(NamedTuple):
    """Mesh axes by what they mean, slowest first; () where the degree is one. Collectives take such tuples."""

    rows: Names
    columns: Names
    ring: Names
    ulysses: Names
    model: Names


def _cuts(plan: Plan) -> tuple[int, int, int]:
    # Grid and sequence count the same line of devices, so both are unions of these three axes: the line is cut at `columns` and at
    # `ulysses`, of which one divides the other (Plan.problem).
    small, large = sorted((plan.columns, plan.ulysses))
    return plan.model_devices // large, large // small, small


def axes(plan: Plan) -> Axes:
    """The names that a plan's degrees have on its mesh."""
    sizes = dict(zip(MODEL, _cuts(plan), strict=True))

    def minor(degree: int) -> tuple[Names, Names]:
        """The axes that count above and within the last `degree` devices."""
        count = next(n for n in range(len(MODEL) + 1) if math.prod(list(sizes.values())[n:]) == degree)
        above, within = MODEL[:count], MODEL[count:]
        return tuple(name for name in above if sizes[name] > 1), tuple(name for name in within if sizes[name] > 1)

    rows, columns = minor(plan.columns)
    ring, ulysses = minor(plan.ulysses)
    return Axes(rows, columns, ring, ulysses, tuple(name for name in MODEL if sizes[name] > 1))


def make_mesh(plan: Plan, devices: Sequence[jax.Device]) -> Mesh:
    """Axes (data, fsdp, outer, middle, inner) over `devices` in their order, which should be process by process.

    Raises:
        ValueError: not as many devices as the plan has.
    """
    if len(devices) != plan.devices:
        raise ValueError(f"the plan is for {plan.devices} devices, not {len(devices)}")
    line = np.asarray(devices, dtype=object)
    groups = line.reshape(-1, plan.ulysses)
    crossing = sum(len({device.process_index for device in group}) > 1 for group in groups)
    if crossing:
        logger.warning(
            "%d of %d Ulysses groups of %d devices span several hosts, whose network is slower than a host's own links: "
            "choose a smaller Ulysses degree and a longer ring",
            crossing, len(groups), plan.ulysses,
        )  # fmt: skip
    shape = (plan.data, plan.fsdp, *_cuts(plan))
    return Mesh(line.reshape(shape), (*BATCH, *MODEL), axis_types=(AxisType.Auto,) * len(shape))


def choose_devices(count: int) -> list[jax.Device]:
    """The first `count` devices of all processes, process by process; all for 0.

    Raises:
        ValueError: there are not so many.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if count > len(devices):
        raise ValueError(f"{count} devices were asked for, but there are {len(devices)} ({devices[0].device_kind})")
    return devices[: count or None]


def per_host(devices: Sequence[jax.Device]) -> int | None:
    """Devices of each host; None where they are all on one."""
    counts = collections.Counter(device.process_index for device in devices)
    return math.gcd(*counts.values()) if len(counts) > 1 else None
