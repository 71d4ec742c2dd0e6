"""Clips drawn once and kept as plain arrays that grain, or anything else, reads at random places.

    frames.npy     uint8   [N, K · new + motion, Y, X, 3]
    reference.npy  uint8   [N, Y, X, 3]
    speech.npy     float16 [N, K, context · 16,000]
    truth/NAME.npy         [N, frames], the numbers of `dataset.Truth`
    clips.json             written last: how the clips were made; a folder without it is not finished

A clip of five chunks at 128×128 takes 7.1 MB of pictures and 1.3 MB of speech. Writers and readers map the files into memory.
"""

import dataclasses
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from livetalk_jax.data.clips import Media, clip_frames
from livetalk_jax.data.procedural import motion, phonemes
from livetalk_jax.data.procedural.dataset import FPS, ProceduralClips, Truth
from livetalk_jax.data.procedural.speech import SAMPLE_RATE

NUMBERS = (*phonemes.PARTS, *motion.PARTS, "mouth_x", "mouth_y", "unit")
FLAGS = ("closed", "silent")


def _write(task: tuple[str, ProceduralClips, int]) -> int:
    root, clips, number = Path(task[0]), task[1], task[2]
    media, truth = clips[number]
    parts = {"frames": media.frames, "reference": media.reference, "speech": media.speech}
    parts |= {f"truth/{name}": truth[name] for name in (*NUMBERS, *FLAGS)}
    for name, values in parts.items():
        np.load(root / f"{name}.npy", mmap_mode="r+")[number] = values
    return number


def write_clips(root: Path, clips: ProceduralClips, workers: int) -> Iterator[int]:
    """Draw all clips into a new folder by several processes; yields the number of each as it is there.

    Raises:
        FileExistsError: the folder holds clips already.
        NoSynthesiser: espeak-ng is missing.
    """
    if (root / "clips.json").exists():
        raise FileExistsError(f"{root} holds clips already; give a new folder")
    clips.synthesiser.say(["Hello."], "en-us", 150, 50, 50)  # who has none leaves no gigabytes of empty files behind
    (root / "truth").mkdir(parents=True, exist_ok=True)
    count, length = len(clips), clip_frames(clips.stream, clips.chunks)
    size = (clips.height, clips.width, 3)
    samples = clips.stream.audio_context_seconds * SAMPLE_RATE
    shapes: dict[str, tuple[tuple[int, ...], type]] = {
        "frames": ((count, length, *size), np.uint8),
        "reference": ((count, *size), np.uint8),
        "speech": ((count, clips.chunks, samples), np.float16),
    }
    shapes |= {f"truth/{name}": ((count, length), np.float32) for name in NUMBERS}
    shapes |= {f"truth/{name}": ((count, length), np.bool_) for name in FLAGS}
    for name, (shape, kind) in shapes.items():
        open_memmap(root / f"{name}.npy", "w+", kind, shape).flush()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_write, [(str(root), clips, number) for number in range(count)])
    made = dataclasses.asdict(clips) | {"frames_a_second": FPS, "frames_of_a_clip": length}
    (root / "clips.json").write_text(json.dumps(made, indent=1))


class StoredClips:
    """What `write_clips` wrote, in random access: (Media, Truth) of a clip, as `ProceduralClips` gives them.

    Attributes:
        made: how (clips.json).
        frames, reference, speech, truth: all clips, in files.

    Raises:
        FileNotFoundError: the folder holds no clips, or is not finished.
    """

    def __init__(self, root: str):
        path = Path(root)
        if not (path / "clips.json").is_file():
            raise FileNotFoundError(f"{root} holds no finished clips (clips.json is missing)")
        self.made = json.loads((path / "clips.json").read_text())
        self.frames, self.reference, self.speech = (
            np.load(path / f"{name}.npy", mmap_mode="r") for name in ("frames", "reference", "speech")
        )
        self.truth = {name: np.load(path / "truth" / f"{name}.npy", mmap_mode="r") for name in (*NUMBERS, *FLAGS)}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, number: int) -> tuple[Media, Truth]:
        frames, reference, speech = (np.array(part[number]) for part in (self.frames, self.reference, self.speech))
        return Media(frames, reference, speech.astype(np.float32)), {name: np.array(v[number]) for name, v in self.truth.items()}
