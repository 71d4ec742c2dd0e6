"""How well livetalk_jax/data/procedural/measure.py measures persons, voices and sentences of the test split.

    python tools/check_measure.py [--clips 12] [--seconds 8]

Prints a table; docs/procedural.md holds one. Needs espeak-ng.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from livetalk_jax.data.procedural import measure
from livetalk_jax.data.procedural.dataset import FPS, ProceduralSet, Recording
from livetalk_jax.data.procedural.measure import SIDE
from livetalk_jax.media import VideoWriter, read_video


def coded(frames: np.ndarray, crf: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(path, *frames.shape[1:3], fps=FPS, crf=crf) as writer:
            writer.write_frames(frames)
        return read_video(path).frames


def noisy(frames: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, frames.shape)
    return np.clip(frames + noise, 0, 255).round().astype(np.uint8)


SPOILT = {
    "as drawn": lambda frames: frames,
    "H.264, crf 23": lambda frames: coded(frames, 23),
    "H.264, crf 30": lambda frames: coded(frames, 30),
    "blur of 0.7 pixels": lambda frames: gaussian_filter(frames, (0, 0.7, 0.7, 0)),
    "blur of 1.2 pixels": lambda frames: gaussian_filter(frames, (0, 1.2, 1.2, 0)),
    "noise of 5 levels": lambda frames: noisy(frames, 5),
}


def row(clips: list[tuple[Recording, measure.FaceMeasure]], frames: list[np.ndarray], spoil) -> str:
    opens, widths, errors, agree, labial, moved = [], [], [], [], [], []
    for (recording, meter), pictures in zip(clips, frames, strict=True):
        found, truth = meter(spoil(pictures)), recording.truth()
        opens.append(measure.correlation(found.openness, truth["openness"]))
        widths.append(measure.correlation(found.width, truth["width"]))
        errors.append(np.abs(found.openness - truth["openness"]).mean())
        agree.append((found.closed == (truth["openness"] < measure.CLOSED)).mean())
        labial.append(found.closed[truth["closed"]].mean())
        moved.append(np.hypot(found.x - truth["mouth_x"], found.y - truth["mouth_y"]).mean())
    return (
        f"{np.mean(opens):.4f} ({min(opens):.4f}) | {np.mean(widths):.4f} ({min(widths):.4f}) | {np.mean(errors):.4f} | "
        f"{np.mean(agree):.4f} | {np.mean(labial):.4f} | {np.mean(moved):.2f}"
    )


def table_row(halves: list[float], pairs: list[float]) -> str:
    return f"{np.mean(halves):.3f} ({max(halves):.3f}) | {np.mean(pairs):.2f} ({min(pairs):.2f})"


def halves(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return clip[: len(clip) // 2], clip[len(clip) // 2 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()

    def drawn(*size: int) -> tuple[list[Recording], list[np.ndarray]]:
        data = ProceduralSet(77, "test", arguments.clips, arguments.seconds, *size)
        recordings = [data.recording(number) for number in range(arguments.clips)]
        return recordings, [recording.frames() for recording in recordings]

    recordings, frames = drawn(SIDE, SIDE)
    meters = [measure.FaceMeasure(recording.who, recording.scene) for recording in recordings]
    clips = list(zip(recordings, meters, strict=True))
    print("| | openness, mean (least) r | width, mean (least) r | openness, error | closed | closed on m, b, p | place, pixels |")
    print("|---|---|---|---|---|---|---|")
    for name, spoil in SPOILT.items():
        print(f"| 128×128, {name} | {row(clips, frames, spoil)} |", flush=True)
    for size in ((160, 96), (96, 160), (256, 256)):
        others, pictures = drawn(*size)
        print(
            f"| {size[0]}×{size[1]}, as drawn | {row(list(zip(others, meters, strict=True)), pictures, SPOILT['as drawn'])} |",
            flush=True,
        )

    print("\n| | halves of one clip, mean (most) | two clips, mean (least) |\n|---|---|---|")
    looks = [meter(pictures).looks for meter, pictures in zip(meters, frames, strict=True)]
    within = [meter.identity_distance(*halves(clip)) for meter, clip in zip(meters, looks, strict=True)]
    between = [m.identity_distance(m(a).looks, m(b).looks) for m, a, b in zip(meters, frames, frames[1:] + frames[:1], strict=True)]
    print(f"| identity | {table_row(within, between)} |")
    walls = [measure.background_distance(*halves(clip)) for clip in frames]
    others = [measure.background_distance(a, b) for k, a in enumerate(frames) for b in frames[:k]]
    print(f"| background | {table_row(walls, others)} |")


if __name__ == "__main__":
    main()
