"""`livetalk data prepare`: recordings in, cached features out, in a folder that training reads.

First every recording is looked at, filtered, put on one side of the split and into an aspect bucket, and clips are chosen: the
plan. Then the frozen networks run over the clips, part by part. Killed and started again with the same arguments, it goes on.
"""

import collections
import dataclasses
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from absl import flags as absl_flags
from ml_collections import ConfigDict
from tqdm import tqdm

from livetalk_jax import checkpoint, flags
from livetalk_jax.config import RunConfig, StreamConfig
from livetalk_jax.data import buckets, filters, folder, speakervid, talkvid
from livetalk_jax.data.cache import Cache, Part
from livetalk_jax.data.clips import Clip, ClipConfig, Media, Split, choose_clips, clip_frames, order, read, split_of
from livetalk_jax.data.decode import Probe, probe
from livetalk_jax.data.features import NETWORKS, Encoders, Features, frozen_networks
from livetalk_jax.data.record import Damaged, LeftOut, Record
from livetalk_jax.files import write_whole
from livetalk_jax.tokenizer import load_tokenizer
from livetalk_jax.training.config import TrainConfig

A = TypeVar("A")
B = TypeVar("B")

USAGE = """usage: livetalk data prepare --source talkvid --root DIR --out DIR --config stage1 --checkpoint DIR …

Look first, without networks: --plan_only. On several devices: one process each, with --shard 0/8 to --shard 7/8.
"""

SOURCES: dict[str, Callable[..., Iterator[Record | LeftOut]]] = {
    "talkvid": talkvid.scan,
    "speakervid": speakervid.scan,
    "folder": folder.scan,
}
EXAMPLES = 3  # of each reason, in the report


def define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_enum("source", None, list(SOURCES), "Layout of --root.", flag_values=values)
    absl_flags.DEFINE_string("root", None, "Folder of the data set.", flag_values=values)
    absl_flags.DEFINE_string("out", None, "Folder of the features, new or begun by the same command.", flag_values=values)
    absl_flags.DEFINE_string(
        "checkpoint", None, "Folder with the frozen networks; the configuration's if left out.", flag_values=values
    )
    absl_flags.DEFINE_bool("untrained", False, "Untrained networks, for tests: the features mean nothing.", flag_values=values)
    absl_flags.DEFINE_bool("plan_only", False, "Choose the clips, report, and stop before networks are needed.", flag_values=values)
    absl_flags.DEFINE_string("annotations", None, "talkvid: the JSON file. speakervid: a JSON list of clips.", flag_values=values)
    absl_flags.DEFINE_enum("interval", "scene", ["scene", "speech"], "speakervid: which seconds make a clip.", flag_values=values)
    absl_flags.DEFINE_enum(
        "filters", None, list(filters.TIERS), "Bounds on scores; see docs/data.md for the source's.", flag_values=values
    )
    absl_flags.DEFINE_multi_string("filter", [], "One bound: dover=0.6:, luminance=10:210, sync=off.", flag_values=values)
    absl_flags.DEFINE_integer("chunks", None, "Chunks of a clip; the configuration's data.chunks, or 1.", 1, flag_values=values)
    absl_flags.DEFINE_integer("clips_per_record", 1, "Clips of a recording, at most.", 1, flag_values=values)
    absl_flags.DEFINE_float("reference_seconds", 1.0, "Reach of the reference frame; 0: anywhere outside.", 0.0, flag_values=values)
    absl_flags.DEFINE_float("test_share", 0.01, "Share of persons kept for testing.", 0.0, 1.0, flag_values=values)
    absl_flags.DEFINE_integer("seed", 0, "Of the places that are drawn.", 0, flag_values=values)
    absl_flags.DEFINE_integer("clips_per_part", 64, "Clips of a file; what being killed costs at most.", 1, flag_values=values)
    absl_flags.DEFINE_integer("workers", min(os.cpu_count() or 1, 16), "Threads that decode.", 1, flag_values=values)
    absl_flags.DEFINE_string("shard", "0/1", "Which of several processes this is.", flag_values=values)


def build(config: ConfigDict) -> RunConfig | TrainConfig:
    """A configuration of training or of streaming: either knows networks and sizes."""
    return (TrainConfig if "stage" in config else RunConfig).from_config_dict(config)


def ordered(pool: ThreadPoolExecutor, fn: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[B]:
    """`map` by threads, in order, with at most `ahead` results waiting."""
    items = iter(items)
    waiting = collections.deque(pool.submit(fn, item) for item in itertools.islice(items, ahead))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(fn, item) for item in itertools.islice(items, 1))
        yield result


def attempt(key: str, fn: Callable[[], A]) -> A | LeftOut:
    """What `fn` returns, or why the recording `key` cannot be used."""
    try:
        return fn()
    except Damaged as damaged:
        return LeftOut(key, damaged.reason, damaged.detail)
    except (OSError, ValueError) as error:  # FFmpeg's many
        return LeftOut(key, "cannot be read", " ".join(str(error).split()))


# Plan


def make_plan(
    found: Iterable[Record | LeftOut],
    bounds: filters.Filters,
    stream: StreamConfig,
    clips: ClipConfig,
    clips_per_part: int,
    workers: int,
) -> tuple[list[Part], list[LeftOut]]:
    """Look at every recording and choose clips; the parts are the same for the same recordings, in whatever order they are found.

    Args:
        found: of a source.
    """
    left_out: list[LeftOut] = []
    shelves: dict[tuple[Split, buckets.Size], list[Clip]] = collections.defaultdict(list)

    def look(item: Record | LeftOut) -> tuple[Record, Probe] | LeftOut:
        if isinstance(item, LeftOut):
            return item
        if (refused := filters.apply(bounds, item)) is not None:
            return refused
        seen = attempt(item.key, lambda: probe(item))
        return seen if isinstance(seen, LeftOut) else (item, seen)

    with ThreadPoolExecutor(workers) as pool, tqdm(unit="recording", desc="looking", file=sys.stderr) as bar:
        for seen in ordered(pool, look, found, 4 * workers):
            bar.update()
            if isinstance(seen, LeftOut):
                left_out.append(seen)
                continue
            record, (height, width, seconds, sound) = seen
            chosen = attempt(record.key, functools.partial(choose_clips, record, seconds, sound, stream, clips))
            if isinstance(chosen, LeftOut):
                left_out.append(chosen)
            else:
                bucket = buckets.choose((height, width), record.crop, stream.buckets)
                shelves[split_of(record, clips.test_share), bucket] += chosen
    parts: list[Part] = []
    for (split, bucket), members in sorted(shelves.items()):
        members.sort(key=lambda clip: order(clip.key))
        for begin in range(0, len(members), clips_per_part):
            parts.append(Part(len(parts), split, bucket, tuple(members[begin : begin + clips_per_part])))
    return parts, left_out


# Features


def encode_parts(
    cache: Cache, parts: list[Part], encoders: Encoders, stream: StreamConfig, chunks: int, workers: int, done: int
) -> None:
    """Write the features of `parts`; `done` clips were written before."""
    total = done + sum(len(part.clips) for part in parts)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, initial=done, unit="clip", desc="encoding", file=sys.stderr) as bar,
    ):

        def decode(item: tuple[Part, Clip]) -> Media | LeftOut:
            part, clip = item
            return attempt(clip.key, lambda: read(clip, part.bucket, stream, chunks))

        decoded = ordered(pool, decode, ((part, clip) for part in parts for clip in part.clips), workers + 1)

        def features(part: Part) -> Iterator[tuple[Clip, Features | LeftOut]]:
            for clip in part.clips:
                media = next(decoded)
                yield clip, media if isinstance(media, LeftOut) else encode(clip, media)
                bar.update()

        def encode(clip: Clip, media: Media) -> Features | LeftOut:
            try:
                return encoders(media, clip.record.caption)
            except Damaged as damaged:
                return LeftOut(clip.key, damaged.reason, damaged.detail)

        for part in parts:
            cache.write_part(part, features(part))


# Report


def report(cache: Cache, bounds: filters.Filters) -> dict[str, Any]:
    """What is in a cache and what is not, as report.json has it."""
    recipe, plan, left_out, finished = cache.recipe("cache"), cache.plan(), cache.left_out(), cache.finished()
    records = {clip.record.key: clip.record for part in plan for clip in part.clips}
    shelves = cache.shelves()
    clips: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for shelf in shelves:
        size = f"{shelf.bucket[0]}x{shelf.bucket[1]}"
        clips[shelf.split][size] = clips[shelf.split].get(size, 0) + len(shelf.keys)
    held = sum(sum(sizes.values()) for sizes in clips.values())
    reasons = collections.Counter(item.reason for item in left_out)
    persons: dict[str, set[str]] = collections.defaultdict(set)
    for part in plan:
        persons[part.split] |= {clip.record.person for clip in part.clips}
    unknown = collections.Counter(name for record in records.values() for name in filters.unknown(bounds, record))
    return {
        "source": recipe["source"],
        "root": recipe["root"],
        "recordings_chosen": len(records),
        "clips_chosen": sum(len(part.clips) for part in plan),
        "clips_written": held,
        "parts": [len(finished), len(plan)],
        "clips": dict(clips),
        "persons": {split: len(names) for split, names in persons.items()},
        "hours": held * recipe["clip_frames"] / recipe["stream"]["fps"] / 3600,
        "bytes": sum(shelf.path.stat().st_size for shelf in shelves),
        "left_out": dict(reasons.most_common()),
        "examples": {
            reason: [item.detail or item.key for item in left_out if item.reason == reason][:EXAMPLES] for reason in reasons
        },
        "filters": {name: str(bound) for name, bound in bounds.items()},
        "recordings_without_the_score": dict(unknown),
    }


def readable(facts: dict[str, Any]) -> str:
    """A report for people."""
    persons = sum(facts["persons"].values())
    lines = [
        f"{facts['source']} in {facts['root']}",
        f"chosen: {facts['recordings_chosen']} recordings of {persons} persons, {facts['clips_chosen']} clips",
        f"written: {facts['clips_written']} clips, {facts['hours']:.2f} hours, {facts['bytes'] / 2**30:.3f} GiB, "
        f"{facts['parts'][0]} of {facts['parts'][1]} parts",
        "",
    ]
    for split, sizes in sorted(facts["clips"].items(), reverse=True):
        lines.append(f"{split:6}{facts['persons'][split]:6} persons   " + ", ".join(f"{size}: {n}" for size, n in sizes.items()))
    lines += ["", f"left out: {sum(facts['left_out'].values())}"]
    for reason, count in facts["left_out"].items():
        lines.append(f"{count:8}  {reason}")
        lines += [f"{'':12}{example}" for example in facts["examples"][reason]]
    if facts["recordings_without_the_score"]:
        lines += ["", "kept although their source gives no such score:"]
        lines += [f"{count:8}  {name} ({facts['filters'][name]})" for name, count in facts["recordings_without_the_score"].items()]
    return "\n".join(lines) + "\n"


# Command


def parse_shard(text: str) -> tuple[int, int]:
    try:
        index, count = map(int, text.split("/"))
        if not 0 <= index < count:
            raise ValueError
    except ValueError:
        raise flags.UsageError(f"shard {text!r} is not one of several, such as 0/8 to 7/8") from None
    return index, count


def source_options(values: absl_flags.FlagValues) -> dict[str, Any]:
    """Arguments of the source's scan beside the root."""
    if values.source == "folder":
        if values.annotations:
            raise flags.UsageError(
                "--annotations is for talkvid and speakervid; captions of a folder lie beside its videos as .txt"
            )
        return {}
    options: dict[str, Any] = {"annotations": Path(values.annotations) if values.annotations else None}
    return options | ({"interval": values.interval} if values.source == "speakervid" else {})


def main(argv: list[str]) -> None:
    values, config = flags.parse(define, argv, USAGE, build)
    for name in ("source", "root", "out"):
        if not values[name].value:
            raise flags.UsageError(f"--{name} is missing; see {argv[0]} --help")
    root, out = Path(values.root).absolute(), Path(values.out)
    if not root.is_dir():
        raise flags.UsageError(f"there is no folder {root}")
    shard, shards = parse_shard(values.shard)
    weights = values.checkpoint or getattr(config, "checkpoint", "") or None
    if weights is None and not (values.untrained or values.plan_only):
        raise flags.UsageError(
            "--checkpoint is missing: features of untrained networks mean nothing (--untrained makes them for tests)"
        )
    if weights is not None and values.untrained:
        raise flags.UsageError("--untrained and a checkpoint were given; give one of them")
    origin = tokenizer = None
    if weights is not None:
        manifest = checkpoint.read_manifest(weights)
        origin, tokenizer = manifest.origin, manifest.tokenizer

    stream, model = config.stream, config.model
    chunks = values.chunks or (config.data.chunks if isinstance(config, TrainConfig) else 1)
    clips = ClipConfig(
        chunks=chunks, clips_per_record=values.clips_per_record, reference_seconds=values.reference_seconds,
        test_share=values.test_share, seed=values.seed,
    )  # fmt: skip
    bounds = filters.parse_filters(values.filters or filters.DEFAULT_TIER[values.source], values.filter)
    choice = {
        "source": values.source,
        "root": str(root),
        "annotations": values.annotations,
        "interval": values.interval,
        "filters": {name: str(bound) for name, bound in bounds.items()},
        "clips": dataclasses.asdict(clips),
        "clip_frames": clip_frames(stream, chunks),
        "clips_per_part": values.clips_per_part,
        "stream": {
            name: getattr(stream, name)
            for name in ("buckets", "frames", "motion_frames", "fps", "sample_rate", "audio_context_seconds", "reference")
        },
    }
    cache = Cache(out)
    if not cache.agrees("cache", choice):
        found = SOURCES[values.source](root, **source_options(values))
        cache.write_plan(*make_plan(found, bounds, stream, clips, values.clips_per_part, values.workers))
        cache.write_recipe("cache", choice)
    plan, finished = cache.plan(), cache.finished()
    mine = [part for part in plan if part.number % shards == shard]
    todo = [part for part in mine if part.number not in finished]
    if todo and not values.plan_only:
        begun = time.perf_counter()
        making = {
            "networks": {name: dataclasses.asdict(getattr(model, name)) for name in NETWORKS},
            "text_len": model.dit.text_len,
            "audio_window": model.dit.audio_window,
            "dtype": config.runtime.dtype,
            "negative_prompt": config.sampler.negative_prompt,
            "checkpoint": weights and str(Path(weights).absolute()),
            "origin": origin,
        }
        agreed = cache.agrees("features", making)
        tokenize = load_tokenizer(tokenizer or model.tokenizer, model.dit.text_len)
        networks = frozen_networks(model, config.runtime.dtype, weights)
        encoders = Encoders(networks, stream, config.runtime.dtype, model.dit.audio_window, tokenize)
        if not agreed:
            cache.write_negative_text(encoders.caption(config.sampler.negative_prompt))
            cache.write_recipe("features", making)
        done = sum(len(part.clips) for part in mine if part.number in finished)
        encode_parts(cache, todo, encoders, stream, chunks, values.workers, done)
        count, elapsed = sum(len(part.clips) for part in todo), time.perf_counter() - begun
        print(f"{count} clips in {elapsed:.1f} s, {count / elapsed:.2f} a second", file=sys.stderr)
    facts = report(cache, bounds)
    write_whole(out / "report.json", json.dumps(facts, indent=1))
    write_whole(out / "report.txt", readable(facts))
    print(readable(facts), end="")
    if not plan:
        raise ValueError(f"no recording in {root} can be used; {out / 'left_out.jsonl'} says why")
