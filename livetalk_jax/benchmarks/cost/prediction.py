"""Tables of plans on machines that are not there, beside what was measured and what was published."""

import dataclasses
from collections.abc import Mapping, Sequence

from livetalk_jax.benchmarks.cost.chunk import chunk_traffic, peak_bytes, stages
from livetalk_jax.benchmarks.cost.machines import CHIPS, Chip, Machine
from livetalk_jax.benchmarks.cost.rates import FITTED_CHIP, ONE_GPU, Rates, exchange_seconds, fitted
from livetalk_jax.benchmarks.report import STAGES, Report, Row
from livetalk_jax.config import RunConfig
from livetalk_jax.parallel.plan import Plan
from livetalk_jax.shapes import Geometry


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


# Two H200s, for the model's error: seconds of `STAGES`. A test compares these numbers with docs/measurements.
TWO_GPUS = {
    Plan(ulysses=2, columns=2): (0.36158633, 0.09969423, 0.01046660, 1.56729645),
    Plan(ulysses=2, columns=2, head_groups=2): (0.37921996, 0.09969423, 0.01046660, 1.59372604),
    Plan(ulysses=2, columns=2, head_groups=5): (0.3786, 0.0997, 0.0105, 1.6333),
    Plan(ulysses=2, columns=2, vae_split="overlap"): (0.3616, 0.1165, 0.0098, 1.5714),
    Plan(ulysses=2, rows=2): (0.36426843, 0.10325173, 0.01064016, 1.58580861),
    Plan(ulysses=2, rows=2, vae_split="overlap"): (0.35198788, 0.10791822, 0.00919705, 1.53467572),
    Plan(ring=2, columns=2): (0.36203669, 0.09969423, 0.01046660, 1.56965624),
    Plan(ring=2, columns=2, vae_split="overlap"): (0.35719523, 0.11186769, 0.00971708, 1.55210560),
    Plan(ring=2, rows=2): (0.35575789, 0.10437538, 0.01035422, 1.53718043),
}
# The same on H100s of 80 GB, of which nothing was fitted: one, and two.
H100S = {
    Plan(): (0.64238822, 0.19786997, 0.01696450, 2.79223304),
    Plan(ring=2, rows=2, vae_split="overlap"): (0.36829584, 0.10499263, 0.00948186, 1.59333720),
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

    def line(chip: Chip, plan: Plan, measured: Mapping[str, float], fit: str = "not fitted") -> str:
        predicted = predict(config, plan, chip, 8, fitted()).seconds
        errors = (f"{name} {predicted[name] / seconds - 1:+.1%}" for name, seconds in measured.items())
        return f"error on {plan.devices} {chip.name} ({fit}), {plan.name}: {', '.join(errors)}"

    lines = [line(FITTED_CHIP, Plan(), ONE_GPU, "fitted")]
    for chip, found in ((FITTED_CHIP, TWO_GPUS), (CHIPS["h100"], H100S)):
        lines += [line(chip, plan, dict(zip(STAGES, seconds, strict=True))) for plan, seconds in found.items()]
    return lines


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
