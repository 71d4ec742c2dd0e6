"""Small data sets in the published layouts, with real MP4s and one broken file of each kind."""

import io
import json
import math
import tarfile
import wave
from pathlib import Path

import numpy as np

from livetalk_jax.media import VideoWriter

RATE = 16_000


def number_to_grey(index: int) -> int:
    """A frame's number as a grey that H.264 keeps apart from its neighbours'; numbers repeat after 20."""
    return 16 + 11 * (index % 20)


def grey_to_number(pixels: np.ndarray) -> int:
    return round((float(pixels.mean()) - 16) / 11)


def write_video(
    path: Path, *, seconds: float, fps: int = 25, height: int = 96, width: int = 96, sound: bool = True, clicks=(), hum=200
) -> Path:
    """An MP4 whose frames tell their own number by their grey; its sound hums, or clicks at the times given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = round(seconds * fps)
    frames = np.stack([np.full((height, width, 3), number_to_grey(index), np.uint8) for index in range(count)])
    samples = np.zeros(round(seconds * RATE), np.float32)
    if clicks:
        for time in clicks:
            samples[round(time * RATE) : round(time * RATE) + 32] = 0.9
    else:
        samples += (0.2 * np.sin(2 * math.pi * hum * np.arange(len(samples)) / RATE)).astype(np.float32)
    with VideoWriter(path, height, width, fps=fps, sample_rate=RATE if sound else None, preset="ultrafast", crf=10) as writer:
        writer.write_frames(frames)
        if sound:
            writer.write_audio(samples)
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    """Cut a file as a broken download does; its header stays, so that it looks whole."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


# TalkVid


def talkvid_entry(video: str, start: float, end: float, person: str, **changes) -> dict:
    return {
        "id": f"videovideo{video}-scene1-scene1",
        "height": 96,
        "width": 96,
        "fps": 25.0,
        "start-time": start,
        "start-frame": 0,
        "end-time": end,
        "end-frame": round((end - start) * 25),
        "durations": f"{end - start:.3f}s",
        "info": {"Person ID": person, "Video Link": f"https://www.youtube.com/watch?v={video}", "Language": "English"},
        "description": f"Person {person} talks.",
        "dover_scores": 8.9,
        "cotracker_ratio": 0.93,
        "head_detail": {"scores": {"avg_movement": 97.9, "avg_orientation": 80.3, "avg_resolution": 383.1}},
        **changes,
    }


TALKVID_GOOD = 6


def make_talkvid(root: Path) -> Path:
    """Six usable clips of six persons, one of them 16:9, one with its sound beside it; and what is broken, each once."""
    entries = []

    def clip(video: str, start: float, seconds: float, person: str, number: int = 0, **options) -> Path:
        end = start + seconds
        entries.append(talkvid_entry(video, start, end, person))
        return write_video(root / video / f"{video}_{number:03d}_{start:.3f}_{end:.3f}.mp4", seconds=seconds, **options)

    clip("Tr6MMsoWAog", 0.1, 2.0, "1", fps=30)
    clip("a_b-c_d_e_f", 12.5, 2.0, "2", number=3, fps=24)  # an id with "_" in it
    clip("ccccccccccc", 3.0, 2.2, "3", height=96, width=160)
    clip("ddddddddddd", 3.0, 1.8, "4")
    clip("eeeeeeeeeee", 0.0, 2.0, "5")
    beside = clip("fffffffffff", 0.0, 2.0, "6", sound=False)
    whole = write_video(root / "spare.mp4", seconds=2.0, clicks=(0.7,))
    whole.rename(beside.with_suffix(".m4a"))
    entries[1]["start-time"] += 0.04  # cut at another frame than asked for

    truncate(clip("truncated01", 0.0, 2.0, "7"))
    clip("silent00001", 0.0, 2.0, "8", sound=False)
    clip("short000001", 0.0, 1.0, "9")
    clip("nothing0001", 0.0, 2.0, "10").write_bytes(b"this is no video")
    entries.append(talkvid_entry("missing0001", 0.0, 5.0, "11"))
    entries.append({"id": "videovideobadrecord01-scene1-scene1", "start-time": "soon"})
    entries.append("no record")
    (root / "filtered_video_clips.json").write_text(json.dumps(entries))
    (root / "filtered_video_clips_with_captions.json").write_text('[{"id": "videovideo')  # a download that broke off
    return root


TALKVID_LEFT_OUT = {
    "damaged": 1,
    "no sound": 1,
    "too short": 1,
    "not a video": 1,
    "not downloaded": 1,
    "annotation unreadable": 3,
}


# SpeakerVid-5M


def speakervid_annotation(name: str, seconds: float, **changes) -> dict:
    return {
        "video_name": name,
        "num_frames": round(seconds * 25),
        "is_talking": 1,
        "clip_speaker_num": 1,
        "clear": 0.9,
        "start": 101.0,
        "duration": 1.5,
        "start_seconds": 100.5,
        "end_seconds": 100.5 + seconds,
        "bbox": [0.25, 0.0, 0.75, 1.0],
        "conf": 0.9,
        "sync": {"00": [[6.1, 7.0, 0], [4.1, 8.0, 1]]},
        "dover": 0.7,
        "anno": {"movement_caption": "The person nods.", "expression_caption": "The person smiles."},
        **changes,
    }


SPEAKERVID_GOOD = 4


def make_speakervid(root: Path) -> Path:
    """Four usable clips, one annotated in a tar and one to be cut from a whole video; and what is broken, each once."""
    merged = root / "merged_anno"
    packed = {}
    names = []

    def clip(
        video: str, scene: int, role: str = "None", *, seconds: float = 2.2, pack: bool = False, options=None, **changes
    ) -> Path:
        name = f"{video}_96x96_full_video_{scene:03d}_{role}_00"
        names.append(name)
        annotation = speakervid_annotation(name, seconds, **changes)
        if pack:
            packed[name] = annotation
        else:
            path = merged / "tar_batch_3" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(annotation))
        return write_video(root / "clips" / video / f"{name}.mp4", seconds=seconds, **(options or {}))

    first = clip("ab_cd-ef_gh", 1, "A")
    with wave.open(str(first.with_suffix(".wav")), "wb") as sound:  # the others silenced
        sound.setparams((1, 2, RATE, 0, "NONE", ""))
        sound.writeframes(np.zeros(round(2.2 * RATE), np.int16).tobytes())
    clip("ab_cd-ef_gh", 2, "B_None", pack=True)
    clip("bbbbbbbbbbb", 1, "B", options=dict(fps=30))
    clip("wholevideo1", 4).unlink()
    write_video(root / "raw" / "wholevideo1_96x96_full_video.mp4", seconds=6.0, height=96, width=192)
    (merged / "tar_batch_3" / "wholevideo1_96x96_full_video_004_None_00.json").write_text(
        json.dumps(speakervid_annotation("", 2.2, start=3.0, duration=2.0, start_seconds=2.5, end_seconds=5.5))
    )

    truncate(clip("truncated_1", 1))
    clip("silent_0001", 1, options=dict(sound=False))
    clip("missing_001", 1).unlink()
    clip("wrongjson_1", 1)
    (merged / "tar_batch_3" / "wrongjson_1_96x96_full_video_001_None_00.json").write_text("{'single': quotes}")
    clip("listening_1", 1, is_talking=0)
    clip("outofsync_1", 1, sync={"00": [[1.2, 9.0, 4]]})
    clip("test_set_01", 1)
    (root / "testset.json").write_text(json.dumps(["test_set_01_96x96_full_video_001_None_00"]))
    names.append("unknown_001_96x96_full_video_001_None_00")
    (root / "SFT_set.json").write_text(json.dumps({"a": [f"{name}.json" for name in names[:3]], "b": names[3:]}))
    clip("notchosen_1", 1)

    with tarfile.open(merged / "tar_batch_0.tar.gz", "w:gz") as tar:
        for name, annotation in packed.items():
            content = json.dumps(annotation).encode()
            member = tarfile.TarInfo(f"tar_batch_0/{name}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (merged / "tar_batch_1.tar.gz").write_bytes((merged / "tar_batch_0.tar.gz").read_bytes()[:60])
    return root


SPEAKERVID_LEFT_OUT = {
    "damaged": 1,
    "no sound": 1,
    "not downloaded": 1,
    "annotation unreadable": 2,
    "filter talking": 1,
    "filter sync": 1,
    "in the published test set": 1,
    "not annotated": 1,
}
