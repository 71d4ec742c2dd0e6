"""Batches from cached features: what they hold, in which order, and that the order does not depend on who reads."""

import collections
import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from array_record.python import array_record_module

from livetalk_jax.config import ModelConfig
from livetalk_jax.data.cache import Cache, Part, pack, unpack
from livetalk_jax.data.clips import Clip
from livetalk_jax.data.features import NETWORKS
from livetalk_jax.data.pipeline import CachedData
from livetalk_jax.data.record import LeftOut, Record
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.audio import windows
from livetalk_jax.training.batch import synthetic_batch

MODEL = dataclasses.replace(
    ModelConfig.tiny(), dit=dataclasses.replace(ModelConfig.tiny().dit, text_dim=4, clip_dim=4, audio_blocks=2, audio_channels=3)
)
CLIPS = {(16, 32): 6, (32, 16): 18}
CHUNKS = 2


def features_of(number: int, bucket) -> dict:
    """Features that tell which clip they are of."""
    rng = np.random.default_rng(number)
    h, w = bucket[0] // 8, bucket[1] // 8
    half = {
        "chunk_latents": rng.standard_normal((CHUNKS, 9, h, w, 16)),
        "reference_latents": np.full((9, h, w, 16), number),
        "clip": rng.standard_normal((MODEL.clip.tokens, 4)),
        "text": rng.standard_normal((3 + number % 5, 4)),
        "audio": rng.standard_normal((CHUNKS, 35, 2, 3)),
    }
    color = rng.random((2, 1, 1, 1, 3), np.float32)
    return {name: x.astype(np.float16) for name, x in half.items()} | {"color_mean": color[0], "color_deviation": color[1]}


def write_cache(root, stream, *, first=0, clips=CLIPS, **recipe):
    cache = Cache(root)
    parts, number = [], first
    for bucket, count in clips.items():
        for begin in range(0, count, 4):
            members = []
            for _ in range(begin, min(begin + 4, count)):
                options = dict(video="v", sound=("v",), start=0.0, end=None, person="p", caption="c", source="folder")
                members.append(Clip(f"{number}", Record(key=f"{number}", **options), 0, 40, "v"))
                number += 1
            parts.append(Part(len(parts), "train", bucket, tuple(members)))
    cache.write_plan(parts, [])
    geometry = {
        name: getattr(stream, name)
        for name in ("buckets", "frames", "motion_frames", "fps", "sample_rate", "audio_context_seconds")
    }
    cache.write_recipe("cache", {"clips": {"chunks": CHUNKS}, "stream": geometry, **recipe})
    networks = {name: dataclasses.asdict(getattr(MODEL, name)) for name in NETWORKS}
    cache.write_recipe("features", {"networks": networks, "audio_window": 5, "text_len": MODEL.dit.text_len})
    cache.write_negative_text(np.ones((2, 4), np.float16))
    for part in parts:
        cache.write_part(part, ((clip, features_of(int(clip.key), part.bucket)) for clip in part.clips))
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory, stream):
    return write_cache(tmp_path_factory.mktemp("cache"), stream)


@pytest.fixture
def opened(cache, stream):
    def open_it(path=cache, **changes):
        return CachedData(str(path), MODEL, stream, **{**dict(batch=2, chunks=CHUNKS, seed=3), **changes})

    return open_it


def numbers(batch) -> list[int]:
    """Clips of a batch."""
    return [int(row.flat[0]) for row in batch.reference_latents]


def take(data, count) -> list[list[int]]:
    return [numbers(batch) for batch in itertools.islice(data, count)]


def test_a_batch_is_what_training_takes(opened, stream):
    batch = next(opened())
    bucket = (batch.chunk_latents.shape[3] * 8, batch.chunk_latents.shape[4] * 8)
    assert bucket in CLIPS
    geometry = Geometry(*bucket, stream.frames, stream.motion_frames)
    expected = synthetic_batch(MODEL, geometry, batch=2, chunks=CHUNKS, seed=0, text_tokens=16)
    assert jax.tree.structure(batch) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
        assert isinstance(ours, np.ndarray)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    for row, number in enumerate(numbers(batch)):
        features = {name: x.astype(np.float32) for name, x in features_of(number, bucket).items()}
        np.testing.assert_array_equal(batch.chunk_latents[row], features["chunk_latents"])
        np.testing.assert_array_equal(batch.portrait_latent[row], features["reference_latents"][:1])
        np.testing.assert_array_equal(batch.clip[row], features["clip"])
        np.testing.assert_array_equal(batch.color.mean[row], features["color_mean"])
        np.testing.assert_array_equal(batch.color.deviation[row], features["color_deviation"])
        tokens = len(features["text"])
        np.testing.assert_array_equal(batch.text[row, :tokens], features["text"])
        assert not batch.text[row, tokens:].any()
        for chunk in range(CHUNKS):
            # As cut from the features of a whole context, of which frames −2 … F − 1 are kept.
            long = np.concatenate([np.full((165, 2, 3), np.nan, np.float32), features["audio"][chunk]])
            np.testing.assert_array_equal(batch.audio[row, 0, chunk], windows(long, 167, 200, 5))


def test_negative_text(opened):
    data = opened()
    assert data.negative_text.shape == next(data).text.shape[1:]
    assert data.negative_text[:2].all()
    assert not data.negative_text[2:].any()


def test_fewer_chunks(opened):
    batch, short = next(opened()), next(opened(chunks=1))
    assert numbers(batch) == numbers(short)
    np.testing.assert_array_equal(short.chunk_latents, batch.chunk_latents[:, :1])
    np.testing.assert_array_equal(short.audio, batch.audio[:, :, :1])


def test_one_bucket_a_batch_and_every_clip_once_a_pass(opened):
    batches = take(opened(), 24)
    for batch in batches:
        assert len({number < CLIPS[16, 32] for number in batch}) == 1
    for bucket in (range(6), range(6, 24)):
        row = [number for batch in batches for number in batch if number in bucket]
        assert len(row) == 2 * len(bucket), "in proportion to their clips"
        for begin in (0, len(bucket)):
            assert sorted(row[begin : begin + len(bucket)]) == list(bucket)
        assert row[: len(bucket)] != row[len(bucket) :], "another order in the second pass"


def test_order_comes_from_the_seed(opened):
    assert take(opened(), 10) == take(opened(), 10)
    assert take(opened(seed=4), 10) != take(opened(), 10)


@pytest.mark.parametrize("workers", [2])
def test_order_does_not_depend_on_workers(opened, workers):
    data = opened(workers=workers)
    assert take(data, 7) == take(opened(), 7)
    state = data.get_state()
    other = opened()
    other.set_state(state)
    assert take(other, 2) == take(data, 2), "nor does a position"


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch(opened, processes):
    whole = take(opened(batch=6), 8)
    parts = [take(opened(batch=6 // processes, process=process, processes=processes), 8) for process in range(processes)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert batch == list(itertools.chain(*shares)), "side by side, as on the devices"


@pytest.mark.parametrize("at", [0, 1, 5, 13])
def test_a_position_is_restored_exactly(opened, at):
    data = opened()
    take(data, at)
    state = json.loads(json.dumps(data.get_state()))
    after = list(itertools.islice(data, 6))
    fresh = opened()
    take(fresh, 3)
    fresh.set_state(state)
    assert fresh.get_state() == state
    for ours, theirs in zip(itertools.islice(fresh, 6), after, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    data.set_state(state)
    assert take(data, 6) == [numbers(batch) for batch in after], "and backwards"


def test_a_position_serves_another_number_of_processes(opened):
    data = opened(batch=6)
    take(data, 3)
    half = opened(batch=3, process=1, processes=2)
    half.set_state(data.get_state())
    assert take(half, 2) == [batch[3:] for batch in take(data, 2)]


@pytest.mark.parametrize("changes", [dict(seed=4), dict(batch=4)])
def test_a_position_of_something_else_is_refused(opened, changes):
    with pytest.raises(ValueError, match="an exact resume needs the same clips, seed and global batch"):
        opened(**changes).set_state(opened().get_state())


def test_several_folders(opened, cache, stream, tmp_path):
    more = write_cache(tmp_path, stream, first=100, clips={(32, 16): 6})
    data = opened(f"{cache},{more}")
    assert data.clips == 30
    assert set(itertools.chain(*take(data, 15))) == {*range(24), *range(100, 106)}
    with pytest.raises(ValueError, match=r"24 clips .* these are 30"):
        data.set_state(opened().get_state())


def test_a_bucket_of_fewer_clips_than_a_batch(stream, tmp_path, opened):
    data = opened(write_cache(tmp_path, stream, clips={(16, 16): 1, (32, 32): 7}), batch=4)
    counts = collections.Counter(itertools.chain(*take(data, 16)))
    assert counts[0] == 8
    assert sum(counts.values()) == 64


def test_caches_that_do_not_fit(opened, stream, tmp_path, cache):
    with pytest.raises(ValueError, match=r"clips of 2 chunks, this run needs 5: prepare with --chunks 5"):
        opened(chunks=5)
    with pytest.raises(ValueError, match="no clips of the test split"):
        opened(split="test")
    with pytest.raises(ValueError, match=r"is not made by `livetalk data prepare`: it has no cache\.json"):
        opened(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="another vae, audio_window"):
        other = dataclasses.replace(
            MODEL, vae=dataclasses.replace(MODEL.vae, dim=16), dit=dataclasses.replace(MODEL.dit, audio_window=3)
        )
        CachedData(str(cache), other, stream, batch=2, chunks=1, seed=0)
    with pytest.raises(ValueError, match="another motion_frames"):
        CachedData(str(cache), MODEL, dataclasses.replace(stream, motion_frames=9), batch=2, chunks=1, seed=0)


# What is written


def test_a_part_that_is_not_whole_is_not_there(stream, tmp_path):
    root = write_cache(tmp_path, stream, clips={(16, 16): 4})
    cache = Cache(root)
    (part,) = cache.plan()

    def broken():
        yield part.clips[0], features_of(0, (16, 16))
        raise KeyboardInterrupt

    again = dataclasses.replace(part, number=7)
    with pytest.raises(KeyboardInterrupt):
        cache.write_part(again, broken())
    assert cache.finished() == {0: 4}
    assert [shelf.path.name for shelf in cache.shelves()] == ["00000.array_record"]
    assert list(root.rglob("*00007*")) == []


def test_a_part_in_which_nothing_could_be_used(stream, tmp_path):
    root = write_cache(tmp_path, stream, clips={(16, 16): 4})
    cache = Cache(root)
    (part,) = cache.plan()
    cache.write_part(dataclasses.replace(part, number=1), ((clip, LeftOut(clip.key, "damaged", "x")) for clip in part.clips))
    assert cache.finished() == {0: 4, 1: 0}
    assert len(cache.shelves()) == 1
    assert len(cache.left_out()) == 4


def test_a_full_disk(stream, tmp_path, monkeypatch):
    root = write_cache(tmp_path, stream, clips={(16, 16): 4})
    cache = Cache(root)
    (part,) = cache.plan()

    class FullDisk(array_record_module.ArrayRecordWriter):
        def write(self, record):
            raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", FullDisk)
    with pytest.raises(OSError, match=r"cannot write .*00001\.array_record: .*No space left on device"):
        cache.write_part(dataclasses.replace(part, number=1), ((clip, features_of(0, (16, 16))) for clip in part.clips))
    assert cache.finished() == {0: 4}
    assert list(root.rglob("*.partial")) == []


def test_a_damaged_record_is_noticed():
    record = bytearray(pack(features_of(0, (16, 16))))
    record[len(record) // 2] ^= 1
    with pytest.raises(ValueError, match="a record of the cache is damaged"):
        unpack(bytes(record))
