"""Pictures of a finished video: docs/images/talking.webp, which moves, and docs/images/talking_strip.png, frames above their speech.

python tools/draw_talking.py out/demo.mp4 docs/images
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from livetalk_jax.media import Sound, read_video

SECONDS, FRAMES = 4.0, 10  # of the strip
SCALE, WAVE = 2, 48  # of the animation; height of the waveform, pixels
INK, PAPER = (40, 62, 80), (255, 255, 255)


def strip(frames: np.ndarray, sound: Sound, fps: float) -> Image.Image:
    """`FRAMES` frames of the first `SECONDS`, each above the middle of its stretch of the waveform."""
    _, height, width, _ = frames.shape
    sheet = Image.new("RGB", (FRAMES * width, height + WAVE), PAPER)
    part = SECONDS / FRAMES
    for number in range(FRAMES):
        sheet.paste(Image.fromarray(frames[round((number + 0.5) * part * fps)]), (number * width, 0))
    heard = np.abs(sound.samples[: round(SECONDS * sound.sample_rate)])
    columns = np.array([piece.max(initial=0.0) for piece in np.array_split(heard, sheet.width)])
    draw = ImageDraw.Draw(sheet)
    for x, level in enumerate(columns / max(columns.max(), 1e-6) * (WAVE / 2 - 2)):
        draw.line([(x, height + WAVE / 2 - level), (x, height + WAVE / 2 + level)], INK)
    return sheet


def main(path: str, folder: str) -> None:
    frames, fps, sound = read_video(path)
    if sound is None:
        sys.exit(f"{path} has no sound; give a video that somebody speaks in")
    strip(frames, sound, fps).save(Path(folder) / "talking_strip.png", optimize=True)
    moving = [
        Image.fromarray(frame).resize((SCALE * frame.shape[1], SCALE * frame.shape[0]), Image.Resampling.LANCZOS)
        for frame in frames
    ]
    moving[0].save(
        Path(folder) / "talking.webp", save_all=True, append_images=moving[1:], duration=round(1000 / fps), loop=0, quality=70
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tools/draw_talking.py VIDEO FOLDER")
    main(*sys.argv[1:])
