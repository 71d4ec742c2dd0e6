"""Which frames and which sound a clip gets."""

import collections
import dataclasses
import itertools
import struct

import av
import numpy as np
import pytest

from livetalk_jax.data import buckets
from livetalk_jax.data.clips import Clip, ClipConfig, choose_clips, clip_frames, read, split_of
from livetalk_jax.data.decode import probe, read_frames, read_sound
from livetalk_jax.data.record import Damaged, Record
from livetalk_jax.media import VideoWriter
from tests.data import sets
from tests.data.sets import RATE, grey_to_number, write_video

CONFIG = ClipConfig(chunks=1, clips_per_record=100, reference_seconds=1.0, test_share=0.1, seed=0)


def record_of(path, **changes) -> Record:
    options = dict(start=0.0, end=None, person="p", caption="c", source="folder")
    return Record(**{**options, "key": f"folder/{path}", "video": str(path), "sound": (str(path),), **changes})


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """fps → six seconds; clicks in the sound at 1 and 4 s."""
    root = tmp_path_factory.mktemp("videos")
    return {fps: write_video(root / f"{fps}.mp4", seconds=6.0, fps=fps, clicks=(1.0, 4.0)) for fps in (24, 25, 30, 60)}


def numbers(path, times):
    return read_frames(str(path), times, grey_to_number)


# Frames


@pytest.mark.parametrize("fps", [24, 25, 30, 60])
@pytest.mark.parametrize("start", [0.0, 0.52, 3.4])
def test_the_right_frame_for_each_time(videos, fps, start):
    times = [start + frame / 25 for frame in range(33)]
    # The nearest; of two equally near ones the earlier.
    expected = [int(np.ceil(time * fps - 0.5 - 1e-3)) % 20 for time in times]
    assert numbers(videos[fps], times) == expected
    assert all(abs(np.ceil(time * fps - 0.5 - 1e-3) / fps - time) <= 0.5 / fps + 1e-3 for time in times)


def test_times_between_frames_that_are_equally_near_take_the_earlier(videos):
    times = [0.02 + frame / 25 for frame in range(50)]
    assert numbers(videos[25], times) == [frame % 20 for frame in range(50)]


def test_the_last_frame(videos):
    assert numbers(videos[25], [149 / 25]) == [149 % 20]
    with pytest.raises(Damaged, match=r"end at 5\.96 s, before 6\.10 s"):
        numbers(videos[25], [6.1])


def test_seeking_decodes_little(videos, monkeypatch):
    import livetalk_jax.data.decode as module

    decoded = collections.Counter()
    monkeypatch.setattr(module, "to_rgb", lambda frame, plain=module.to_rgb: decoded.update(frames=1) or plain(frame))
    assert numbers(videos[25], [5.0]) == [125 % 20]
    assert decoded["frames"] == 1, "only what is wanted becomes RGB"


def test_what_lies_beyond_damage_is_damaged(tmp_path):
    path = sets.truncate(write_video(tmp_path / "a.mp4", seconds=4.0), 0.6)
    assert numbers(path, [0.0, 0.04]) == [0, 1], "the beginning can be used"
    with pytest.raises(Damaged) as caught:
        numbers(path, [3.9])
    assert caught.value.reason == "damaged"
    with pytest.raises(Damaged):
        read_sound(str(path), 3.0, 0.9, RATE)


@pytest.mark.parametrize(("content", "reason"), [(None, "file missing"), (b"", "not a video"), (b"no video at all", "not a video")])
def test_files_that_are_no_videos(tmp_path, content, reason):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Damaged) as caught:
        probe(record_of(path))
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_probe(videos, tmp_path):
    assert probe(record_of(videos[30])) == (96, 96, 6.0, str(videos[30]))
    silent = write_video(tmp_path / "silent.mp4", seconds=1.0, sound=False, height=64, width=96)
    with pytest.raises(Damaged, match="no sound"):
        probe(record_of(silent))
    beside = record_of(silent, sound=(str(silent), str(tmp_path / "none.m4a"), str(videos[25])))
    assert probe(beside) == (64, 96, 1.0, str(videos[25]))


# Places


def lay(seconds, stream, *, key="folder/x", **changes):
    return choose_clips(record_of("x.mp4", key=key), seconds, "x.mp4", stream, dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize(("chunks", "frames"), [(1, 33), (3, 89), (5, 145)])
def test_clip_length(stream, chunks, frames):
    assert clip_frames(stream, chunks) == frames
    assert lay((frames + 1) / 25, stream, chunks=chunks)
    with pytest.raises(Damaged, match=f"has {frames} frames at 25 a second, a clip needs {frames} frames and one outside"):
        lay(frames / 25, stream, chunks=chunks)


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("seconds", [1.4, 3.7, 10.0, 31.0])
def test_places(stream, seconds, chunks):
    length = clip_frames(stream, chunks)
    if seconds * 25 <= length:
        return
    references = []
    for number in range(20):
        clips = lay(seconds, stream, key=f"folder/{number}", chunks=chunks)
        assert len(clips) == int(seconds * 25) // length
        assert len({clip.key for clip in clips}) == len(clips)
        starts = sorted(clip.start for clip in clips)
        assert starts[0] >= 0
        assert starts[-1] + length <= seconds * 25
        assert all(after - before >= length for before, after in itertools.pairwise(starts)), "they do not overlap"
        for clip in clips:
            assert 0 <= clip.reference < seconds * 25
            before, after = clip.start - clip.reference, clip.reference - (clip.start + length - 1)
            assert max(before, after) >= 1, "outside of the clip"
            assert max(before, after) <= 25, "within a second of it"
            references.append(before > 0)
    assert 0 < sum(references) < len(references), "before and after"


def test_reference_anywhere_outside(stream):
    clips = [lay(20.0, stream, key=f"folder/{number}", reference_seconds=0.0, clips_per_record=1)[0] for number in range(40)]
    distances = [max(clip.start - clip.reference, clip.reference - clip.start - 32) for clip in clips]
    assert min(distances) >= 1
    assert max(distances) > 100


def test_fewer_clips_than_would_fit(stream):
    assert len(lay(10.0, stream, clips_per_record=2)) == 2
    assert lay(10.0, stream, clips_per_record=2) == lay(10.0, stream)[:2], "the same ones"


def test_seeds(stream):
    assert lay(10.0, stream) == lay(10.0, stream)
    assert lay(10.0, stream, seed=1) != lay(10.0, stream)
    assert lay(10.0, stream, key="folder/y")[0].start != lay(10.0, stream)[0].start


# Split


def test_split_keeps_persons_apart():
    sides = collections.defaultdict(set)
    for number in range(3000):
        person = record_of(f"{number}.mp4", person=str(number % 1000))
        sides[person.person].add(split_of(person, 0.1))
    assert all(len(side) == 1 for side in sides.values())
    share = sum(side == {"test"} for side in sides.values()) / 1000
    assert 0.07 < share < 0.13
    assert split_of(record_of("a.mp4", person="597"), 0.0) == "train"
    assert split_of(record_of("a.mp4", person="597"), 1.0) == "test"


def test_split_is_the_documented_one():
    import hashlib

    for number in range(50):
        person = record_of("a.mp4", person=str(number), source="talkvid")
        digest = hashlib.sha256(f"talkvid/{number}".encode()).digest()
        assert split_of(person, 0.3) == ("test" if int.from_bytes(digest[:8], "big") / 2**64 < 0.3 else "train")


# Pictures


def test_buckets():
    sizes = ((720, 416), (416, 720), (544, 544))
    assert buckets.choose((1080, 1920), None, sizes) == (416, 720)
    assert buckets.choose((1080, 1920), (0.25, 0.0, 0.75, 1.0), sizes) == (544, 544)
    assert buckets.choose((1080, 1920), (0.35, 0.0, 0.65, 1.0), sizes) == (720, 416)


def test_fit():
    picture = np.zeros((96, 192, 3), np.uint8)
    picture[:, :48], picture[:, 144:] = 255, 255
    assert buckets.fit(picture, None, (48, 96)).shape == (48, 96, 3)
    assert buckets.fit(picture, None, (48, 96))[:, :20].min() == 255
    assert buckets.fit(picture, (0.25, 0.0, 0.75, 1.0), (48, 48)).max() == 0, "nothing of what was cut off"
    assert buckets.fit(picture, None, (48, 48))[:, 1:-1].max() == 0, "the middle"


# Clips


def read_clip(path, stream, *, start, reference=0, chunks=1):
    return read(Clip("k", record_of(path), start, reference, str(path)), (32, 32), stream, chunks)


@pytest.mark.parametrize("fps", [24, 25, 30])
def test_frames_of_a_clip(videos, stream, fps):
    media = read_clip(videos[fps], stream, start=40, reference=38, chunks=2)
    assert media.frames.shape == (61, 32, 32, 3)
    nearest = [int(np.ceil(frame / 25 * fps - 0.5 - 1e-3)) % 20 for frame in range(38, 101)]
    assert [grey_to_number(frame) for frame in media.frames] == nearest[2:]
    assert grey_to_number(media.reference) == nearest[0]


def test_a_record_within_a_file(videos, stream):
    record = record_of(videos[25], start=2.0, end=5.0)
    media = read(Clip("k", record, 10, 2, str(videos[25])), (32, 32), stream, 1)
    assert grey_to_number(media.frames[0]) == 60 % 20
    assert grey_to_number(media.reference) == 52 % 20


def clicks_in(samples) -> list[float]:
    """Seconds at which clicks begin."""
    loud = np.flatnonzero(np.abs(samples) > 0.25)
    return [float(group[0]) / RATE for group in np.split(loud, np.flatnonzero(np.diff(loud) > RATE // 10) + 1) if len(group)]


@pytest.mark.parametrize("fps", [24, 25, 30])
@pytest.mark.parametrize("start", [0, 20, 70, 100])
def test_a_click_lands_where_it_was_heard(videos, stream, start, fps):
    media = read_clip(videos[fps], stream, start=start, reference=start + 34)
    (speech,) = media.speech
    assert speech.shape == (8 * RATE,)
    end = (start + 33) / 25  # of the chunk, where the context ends
    expected = [time - end + 8 for time in (1.0, 4.0) if time < end]
    assert clicks_in(speech) == pytest.approx(expected, abs=0.003)
    before = round((8 - end) * RATE)
    assert not speech[:before].any(), "silence before the recording began"


def test_each_chunk_hears_until_its_own_end(videos, stream):
    media = read_clip(videos[25], stream, start=5, reference=0, chunks=3)
    for chunk, speech in enumerate(media.speech):
        end = (5 + 28 * chunk + 33) / 25
        assert clicks_in(speech) == pytest.approx([time - end + 8 for time in (1.0, 4.0) if time < end], abs=0.003)
    first, second, _ = media.speech
    step = 28 * RATE // 25
    np.testing.assert_array_equal(first[step:], second[:-step])


def test_nothing_before_the_record_is_heard(videos, stream):
    record = record_of(videos[25], start=2.0, end=6.0)
    (speech,) = read(Clip("k", record, 40, 0, str(videos[25])), (32, 32), stream, 1).speech
    end = 2.0 + 73 / 25
    assert clicks_in(speech) == pytest.approx([4.0 - end + 8], abs=0.003), "the click at 1 s is another's"


def test_sound_far_into_a_file_is_where_it_should_be(tmp_path):
    path = write_video(tmp_path / "long.mp4", seconds=40.0, height=16, width=16, clicks=(30.0, 37.5))
    sound = read_sound(str(path), 28.0, 10.0, RATE)
    assert clicks_in(sound) == pytest.approx([2.0, 9.5], abs=0.003)
    whole = read_sound(str(path), 0.0, 40.0, RATE)
    assert np.abs(whole[28 * RATE : 38 * RATE] - sound).max() < 0.02


def test_sound_that_ends_early(tmp_path):
    path = write_video(tmp_path / "a.mp4", seconds=2.0)
    assert len(read_sound(str(path), 1.0, 1.2, RATE)) == round(1.2 * RATE)
    with pytest.raises(Damaged, match="its sound ends at 2"):
        read_sound(str(path), 1.0, 2.0, RATE)


def test_a_phones_video_is_turned_upright(tmp_path, stream):
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:24, :48] = 255, 0, 0  # what is at its top left …
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 48, 96, fps=25, sample_rate=RATE) as writer:
        writer.write_frames(np.stack([picture] * 50))
        writer.write_audio(np.zeros(2 * RATE, np.float32))
    content = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    place = content.index(matrix, content.index(b"tkhd"))
    content[place : place + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000)  # x' = 48 − y, y' = x
    path.write_bytes(content)
    assert probe(record_of(path))[:2] == (96, 48)
    (frame,) = read_frames(str(path), [0.5], np.copy)
    assert frame.shape == (96, 48, 3)
    assert frame[10, -10, 0] > 240, "… comes to the top right"
    assert frame[10, 10, 0] < 16


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_streams_that_do_not_begin_at_zero(videos, tmp_path, shift):
    path = tmp_path / "late.mkv"
    with av.open(str(videos[25])) as source, av.open(str(path), "w") as target:
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.pts += round(shift / packet.time_base)
                packet.dts += round(shift / packet.time_base)
                packet.stream = streams[packet.stream]
                target.mux(packet)
    assert numbers(path, [0.0, 2.0]) == [0, 50 % 20]
    # Without MP4's edit list, AAC's 1024 samples of padding are heard.
    assert clicks_in(read_sound(str(path), 0.5, 5.0, RATE)) == pytest.approx([0.5, 3.5], abs=0.07)
