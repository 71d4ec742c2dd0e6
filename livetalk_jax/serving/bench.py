"""`livetalk bench serving`: a server as its clients see it, a soak among it (`probes`), and the table of that."""

import asyncio
import dataclasses
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
from absl import flags as absl_flags

from livetalk_jax import flags
from livetalk_jax.serving import probes
from livetalk_jax.serving.client import Client, Refused


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_string("url", "http://127.0.0.1:8000", "The server.", flag_values=values)
    absl_flags.DEFINE_integer("repeats", 5, "Times that starts and interruptions are measured.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_float("minutes", 0.5, "How long to talk without a pause; 30 for a soak.", lower_bound=0, flag_values=values)
    absl_flags.DEFINE_integer("visits", 0, "Sessions that come and go before that, for memory.", lower_bound=0, flag_values=values)
    absl_flags.DEFINE_integer("sessions", 1, "How many talk at a time.", lower_bound=1, flag_values=values)
    absl_flags.DEFINE_string("portrait", None, "A picture file; the server's own if left out.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Write the results to this JSON file too.", flag_values=values)


USAGE = """usage: livetalk bench serving --url http://127.0.0.1:8000 [--minutes 30] [--sessions 2] [--visits 1000] [--out FILE.json]

Credentials are taken from LIVETALK_CREDENTIAL: an API key, or a session token.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured: flags of the same names."""

    portrait: bytes | None
    repeats: int
    visits: int
    minutes: float
    sessions: int


async def measure(url: str, credential: str | None, plan: Plan, keep: Callable[[dict], None]) -> dict:
    """keep: told of what there is so far, again and again."""
    samples, portrait = probes.speech(), plan.portrait
    result: dict[str, Any] = {}
    async with Client(url, credential) as client:
        await client.until_ready()
        result["capacity"] = capacity = await client.capacity()
        if plan.sessions > capacity["sessions"]:
            raise ValueError(f"--sessions {plan.sessions}: the server admits {capacity['sessions']}")
        runs = []
        for _ in range(plan.repeats):
            await probes.rest(client)
            runs.append(await probes.reactions(client, portrait, samples))
        names = dict.fromkeys(name for run in runs for name in run)
        result["reactions"] = {
            name: {"median": statistics.median(values), "longest": max(values), "runs": values}
            for name in names
            if (values := [run[name] for run in runs if name in run])
        }
        keep(result)
        if plan.visits:
            result["visits"] = await probes.visits(client, portrait, samples, plan.visits)
            keep(result)
        result["over time"] = rows = []
        async for row in probes.talk(client, portrait, samples, plan.minutes, plan.sessions, result):
            rows.append(row)
            keep(result)
        result["job"] = await probes.job(client, portrait)
    return result


def report(result: dict) -> str:
    """The table."""
    lines = [f"sessions at most {result['capacity']['sessions']}, chunk {result['capacity']['chunk_seconds']:.3f} s, "
             f"real-time factor {result['capacity']['realtime_factor']:.2f}"]  # fmt: skip

    def figures(title: str, values: Mapping[str, float]) -> None:
        lines.append(title)
        lines.extend(f"  {name:32}{value:9.3f}" for name, value in values.items())

    def memory_of(title: str, rows: Sequence[Mapping[str, float | None]]) -> None:
        told = [mib for row in rows if (mib := row["server MiB"]) is not None]
        if told:
            lines.append(f"server's memory {title}: {told[0]:.0f} MiB, in the end {told[-1]:.0f}, at most {max(told):.0f}")

    for name, times in result["reactions"].items():
        lines.append(f"  {name:32}{times['median']:9.3f} s, longest {times['longest']:.3f} s")
    for number, session in enumerate(result["talking"], 1):
        figures(f"session {number}", session)
    if "beyond capacity" in result:
        figures("as many sessions again, beyond capacity", result["beyond capacity"])
    figures("job", result["job"])
    if "visits" in result:
        memory_of(f"before {result['visits'][-1]['sessions']} visits", result["visits"])
    memory_of("before talking", result["over time"])
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    values = absl_flags.FlagValues()
    define(values)
    if {"--help", "-h"} & set(argv):
        print(f"{USAGE}\n{values.get_help()}")
        return
    try:
        values(argv)
    except absl_flags.Error as error:
        raise flags.UsageError(str(error)) from error
    out = None if values.out is None else Path(values.out)
    if out is not None and not out.parent.is_dir():
        raise flags.UsageError(f"cannot write {out}: the folder {out.parent} does not exist")
    plan = Plan(
        portrait=None if values.portrait is None else Path(values.portrait).read_bytes(),
        repeats=values.repeats, visits=values.visits, minutes=values.minutes, sessions=values.sessions,
    )  # fmt: skip
    about = flags.invocation(argv)

    def keep(result: dict) -> None:
        if out is not None:
            out.write_text(json.dumps(about | result, indent=2) + "\n")

    try:
        result = asyncio.run(measure(values.url, os.environ.get("LIVETALK_CREDENTIAL"), plan, keep))
    except (Refused, httpx2.TransportError) as error:
        raise ValueError(f"the server at {values.url}: {error}") from error
    keep(result)
    print(report(result))
