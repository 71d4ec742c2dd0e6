"""From features on disk to batches: shuffled by a seed, the same whatever the number of processes and workers, and resumable.

Every bucket is an endless row of clips, shuffled anew for each pass; a global batch takes the next ones of one bucket, and buckets
take turns in proportion to their clips. Process p of n yields the p-th of n equal parts of each global batch, as they stand side by
side on the devices. So batch number i is known without those before it, and a position is a number.
"""

import dataclasses
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags as absl_flags

from livetalk_jax.config import ModelConfig, StreamConfig
from livetalk_jax.data.buckets import Size
from livetalk_jax.data.cache import Cache, Shelf, unpack
from livetalk_jax.data.clips import Split, order
from livetalk_jax.data.features import NETWORKS, Features
from livetalk_jax.stream.audio import windows
from livetalk_jax.stream.color import LabStatistics
from livetalk_jax.training.batch import TrainBatch

logger = logging.getLogger(__name__)

# Batches, not clips, wait here: one of eight clips of five chunks at 720×416 is 0.4 GB.
READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
TEXT_MULTIPLE = 16  # the length of captions in a batch is a multiple of this


@dataclasses.dataclass(frozen=True)
class Row(grain.transforms.Map):
    """A record as one row of a batch.

    Args:
        chunks: how many of the clip's chunks are taken, its first ones.
        frames: of a chunk.
        window: of audio features.
        tokens: to which captions are filled up with zeros.
    """

    chunks: int
    frames: int
    window: int
    tokens: int

    def map(self, record: bytes) -> Features:
        row = {name: values.astype(np.float32) for name, values in unpack(record).items()}
        begin = self.window // 2
        audio = [windows(chunk, begin, begin + self.frames, self.window) for chunk in row["audio"][: self.chunks]]
        row["audio"] = np.stack(audio)[None]
        row["chunk_latents"] = row["chunk_latents"][: self.chunks]
        row["text"] = np.pad(row["text"], ((0, self.tokens - len(row["text"])), (0, 0)))
        return row


class CachedData:
    """Batches of features that `livetalk data prepare` made; a `training.batch.TrainData`.

    Args:
        path: a folder, or several separated by commas, whose clips are mixed.
        model, stream: of the run; the folders must have been made for them.
        batch: rows that this process yields.
        chunks: of a clip; a cache of longer clips serves too.
        seed: of the order.
        process, processes: which process of how many this is.
        split: "train" or "test".
        workers: processes that read; 0 reads by threads of this one.

    Raises:
        ValueError: a folder is no cache, was made for something else, or holds no clip of the split; `workers` is negative.
    """

    def __init__(
        self,
        path: str,
        model: ModelConfig,
        stream: StreamConfig,
        *,
        batch: int,
        chunks: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        split: Split = "train",
        workers: int = 0,
    ):
        if workers < 0:
            raise ValueError(f"config.data.workers is {workers}: 0 reads by threads, a positive number by so many processes")
        caches = [Cache(folder) for folder in path.split(",")]
        for cache in caches:
            _check(cache, model, stream, chunks)
        shelves = [shelf for cache in caches for shelf in cache.shelves() if shelf.split == split]
        if not shelves:
            raise ValueError(f"{path} holds no clips of the {split} split")
        negative = caches[0].negative_text().astype(np.float32)
        tokens = max(len(negative), *(shelf.tokens for shelf in shelves))
        tokens = min(-(-tokens // TEXT_MULTIPLE) * TEXT_MULTIPLE, model.dit.text_len)
        self.negative_text = np.pad(negative, ((0, tokens - len(negative)), (0, 0)))
        self.clips = sum(len(shelf.keys) for shelf in shelves)
        self._workers = workers
        self._identity = _identity(shelves, seed, batch * processes)

        row = Row(chunks, stream.frames, model.dit.audio_window, tokens)
        by_bucket: dict[Size, list[Shelf]] = defaultdict(list)
        for shelf in shelves:
            by_bucket[shelf.bucket].append(shelf)
        streams, weights = [], []
        for bucket, own in sorted(by_bucket.items()):
            # The counts spare grain from opening every file at once.
            source = grain.sources.ArrayRecordDataSource([f"{shelf.path}[0:{len(shelf.keys)}]" for shelf in own])
            clips = grain.MapDataset.source(source).shuffle(seed=order(f"{seed} {bucket}") % 2**32).repeat()
            streams.append(clips.map(row).batch(batch).slice(slice(process, None, processes)))
            weights.append(len(source))
        self._batches = grain.MapDataset.mix(streams, weights)
        self._position = 0
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> Iterator[TrainBatch]:
        return self

    def __next__(self) -> TrainBatch:
        if self._iterator is None:
            ahead = self._batches.slice(slice(self._position, None)).to_iter_dataset(READ)
            if self._workers:
                # grain's workers take their settings from absl's global flags, which must count as parsed; ours are elsewhere.
                if not absl_flags.FLAGS.is_parsed():
                    absl_flags.FLAGS.mark_as_parsed()
                ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=1))
            self._iterator = iter(ahead)
        features = next(self._iterator)
        self._position += 1
        return TrainBatch(
            chunk_latents=features["chunk_latents"],
            reference_latents=features["reference_latents"],
            portrait_latent=features["reference_latents"][:, :1],
            clip=features["clip"],
            text=features["text"],
            audio=features["audio"],
            color=LabStatistics(features["color_mean"], features["color_deviation"]),
        )

    def get_state(self) -> dict[str, Any]:
        """The position behind the last batch that was returned; the same in all processes."""
        return {"position": self._position, "clips": self.clips, "identity": self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
            ValueError: it is one of other clips, another seed or another batch size.
        """
        if state["identity"] != self._identity:
            raise ValueError(
                f"the position is one among {state['clips']} clips with its own seed and batch size, these are {self.clips}: "
                "an exact resume needs the same clips, seed and global batch; start a new run from the checkpoint's weights instead"
            )
        if self._iterator is not None:
            self._iterator.close()
        self._position, self._iterator = state["position"], None


def _identity(shelves: Sequence[Shelf], seed: int, batch: int) -> str:
    clips = [(shelf.bucket, shelf.keys) for shelf in shelves]
    return hashlib.sha256(json.dumps([clips, seed, batch]).encode()).hexdigest()[:16]


def _check(cache: Cache, model: ModelConfig, stream: StreamConfig, chunks: int) -> None:
    made, features = cache.recipe("cache"), cache.recipe("features")
    wanted = {
        **{name: json.loads(json.dumps(dataclasses.asdict(getattr(model, name)))) for name in NETWORKS},
        "audio_window": model.dit.audio_window,
        "text_len": model.dit.text_len,
        **{name: getattr(stream, name) for name in made["stream"] if name != "buckets"},
    }
    held = {**features["networks"], **features, **made["stream"]}
    if differing := [name for name, value in wanted.items() if held[name] != value]:
        raise ValueError(
            f"{cache.root} was made for a configuration with another {', '.join(differing)}; prepare the data for this one"
        )
    if made["clips"]["chunks"] < chunks:
        held_chunks = made["clips"]["chunks"]
        raise ValueError(f"{cache.root} has clips of {held_chunks} chunks, this run needs {chunks}: prepare with --chunks {chunks}")
    planned, finished = cache.planned(), len(cache.finished())
    if finished < planned:
        logger.warning("%s is not finished: %d of its %d parts are there", cache.root, finished, planned)
