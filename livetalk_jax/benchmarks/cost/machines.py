"""GPUs by their datasheets, and computers full of them."""

import dataclasses
import math


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
