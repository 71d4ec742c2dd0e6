"""Sync-C, Sync-D and the offset by SyncNet, as joonson/syncnet_python's `run_syncnet.py` has them ("Out of time", ACCV Workshops 2016).

Each five frames of the face are compared with the sound of the same 0.2 s and with that of up to 15 frames before and behind. Of the
distances, averaged over the video for every shift, the least is Sync-D, its shift is the offset, and the median of all shifts less
the least is Sync-C.

The published pipeline cuts out the face that S3FD finds in each frame. Here the box is one for the video: found by S3FD in the
portrait, or beside the procedural set known. To follow a face, give `begin` a function of the frames to come.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.fft import dct
from scipy.ndimage import median_filter

from livetalk_jax.evaluation.metric import SAMPLE_RATE, Absent, Clip, Scores, curve, weight_file
from livetalk_jax.evaluation.networks import s3fd, syncnet
from livetalk_jax.evaluation.networks.running import Windows, evaluate, published
from livetalk_jax.evaluation.networks.syncnet import COEFFICIENTS, FRAMES, SIZE, STEPS, SyncNet

WEIGHTS = "syncnet_v2.model"
FACE_WEIGHTS = "sfd_face.pth"

Faces = Callable[[np.ndarray], np.ndarray]
"""The next frames uint8 [F, Y, X, 3] of a video -> boxes [F, 4] of a face from forehead to chin: left, top, right, bottom."""

FPS = 25
SHIFTS = 15
BATCH = 20
SURE = 0.9  # likelihood of a face, as the published pipeline asks for it
MARGIN = 0.4  # of the crop around the box, and twice that below
BORDER = 110  # level beyond the picture's edge

# python_speech_features.mfcc as it comes: 25 ms every 10 ms without a window, 26 bands, lifter 22, first coefficient the energy.
WINDOW, HOP, FFT, BANDS, LIFTER, EMPHASIS = 400, 160, 512, 26, 22, 0.97


def mfcc(sound: np.ndarray) -> np.ndarray:
    """int16 [samples] at 16 kHz -> [steps, 13], 100 steps a second."""
    sound = sound.astype(np.float64)
    sound = np.append(sound[:1], sound[1:] - EMPHASIS * sound[:-1])
    steps = 1 + max(-(-(len(sound) - WINDOW) // HOP), 0)
    sound = np.pad(sound, (0, (steps - 1) * HOP + WINDOW - len(sound)))
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT

    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    corners = np.floor((FFT + 1) * 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1) / SAMPLE_RATE)
    low, middle, high = (corners[k : k + BANDS, None] for k in range(3))
    bins = np.arange(FFT // 2 + 1)
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    bank = np.where(bins < middle, rising, falling) * ((bins >= low) & (bins < high))

    least = np.finfo(np.float64).eps
    bands, energy = power @ bank.T, power.sum(1)
    coefficients = dct(np.log(np.where(bands == 0, least, bands)), norm="ortho")[:, :COEFFICIENTS]
    coefficients *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    coefficients[:, 0] = np.log(np.where(energy == 0, least, energy))
    return coefficients


def distances(lips: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Of each window's lips with the sound at every shift, features [N, D] twice -> [31, N]; beyond the ends sound is zero.

    PyTorch's `pairwise_distance` adds 1e-6 to each difference.
    """
    padded = np.pad(audio, ((SHIFTS, SHIFTS), (0, 0)))
    count = len(lips)
    return np.stack([np.linalg.norm(lips - padded[k : k + count] + 1e-6, axis=1) for k in range(2 * SHIFTS + 1)])


def crop(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The face with room around, uint8 [Y, X, 3] -> [224, 224, 3], red first as the frame."""
    left, top, right, bottom = box
    half = max(bottom - top, right - left) / 2
    room = int(half * (1 + 2 * MARGIN))
    x, y = (left + right) / 2 + room, (top + bottom) / 2 + room
    padded = np.pad(frame, ((room, room), (room, room), (0, 0)), constant_values=BORDER)
    rows = slice(int(y - half), int(y + half * (1 + 2 * MARGIN)))
    columns = slice(int(x - half * (1 + MARGIN)), int(x + half * (1 + MARGIN)))
    return _stretch(padded[rows, columns])


def _stretch(picture: np.ndarray) -> np.ndarray:
    """To 224×224, bilinear between pixel centres, rounded, as cv2.resize does."""

    def taps(size):
        centre = np.clip((np.arange(SIZE) + 0.5) * size / SIZE - 0.5, 0, size - 1)
        low = centre.astype(int)
        return low, np.minimum(low + 1, size - 1), centre - low

    (top, bottom, down), (left, right, across) = (taps(size) for size in picture.shape[:2])
    rows = picture[top] * (1 - down[:, None, None]) + picture[bottom] * down[:, None, None]
    return np.rint(rows[:, left] * (1 - across[:, None]) + rows[:, right] * across[:, None]).astype(np.uint8)


def one_box(clip: Clip, weights: Path | None) -> np.ndarray:
    """The face's box [4] in all frames of a video.

    Raises:
        Absent: nothing says where the face is.
    """
    if clip.truth is not None:
        x, y, unit = (float(np.median(clip.truth.frames[name])) for name in ("mouth_x", "mouth_y", "unit"))
        # A face is about so wide and tall around its mouth, in distances between the eyes.
        return np.array([x - 1.05 * unit, y - 2.05 * unit, x + 1.05 * unit, y + 0.6 * unit])
    network = published(s3fd.S3FD, s3fd.TABLE, weight_file(weights, FACE_WEIGHTS))
    likely, box = s3fd.find_face(network, clip.portrait)
    if likely < SURE:
        raise Absent(f"no face was found in the portrait (the likeliest has {likely:.2f}, {SURE} is needed)")
    return box


class Meter:
    def __init__(self, clip: Clip, network: SyncNet, faces: Faces):
        self.clip, self.network, self.faces = clip, network, faces
        self._windows = Windows(self._lips, BATCH + FRAMES - 1, BATCH)

    def add(self, frames: np.ndarray) -> None:
        self._windows.add(np.stack([crop(frame, box) for frame, box in zip(frames, self.faces(frames), strict=True)]))

    def _lips(self, faces: np.ndarray) -> np.ndarray:
        return np.asarray(evaluate(self.network.lips, faces[None, ..., ::-1].astype(np.float32)))[0]

    def _audio(self, count: int) -> np.ndarray:
        """Features of the first windows' sound, [count, 1024]."""
        steps = mfcc(np.rint(np.clip(self.clip.waveform, -1, 1) * 32767).astype(np.int16)).astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(steps, STEPS, 0)[::4][:count].swapaxes(1, 2)
        filled = np.concatenate([windows, windows[-1:].repeat(-count % BATCH, 0)])
        found = [np.asarray(evaluate(self.network.audio, filled[k : k + BATCH])) for k in range(0, len(filled), BATCH)]
        return np.concatenate(found)[:count]

    def scores(self) -> Scores:
        # The published code leaves out the last whole window.
        count = min(self._windows.count, len(self.clip.waveform) * FPS // SAMPLE_RATE) - FRAMES
        if count < 1:
            raise Absent(f"needs {FRAMES + 1} frames with sound")
        each = distances(self._windows.all(count), self._audio(count))
        means = each.mean(1)
        best = int(means.argmin())
        confidence = float(np.median(means) - means[best])
        numbers = {"Sync-C": confidence, "Sync-D": float(means[best]), "Sync offset": float(SHIFTS - best)}
        over_time = median_filter(np.median(means) - each[best], 9, mode="constant")
        return Scores(numbers, {"Sync-C": curve(over_time, self.clip.fps)})


def begin(clip: Clip, weights: Path | None, faces: Faces | None = None) -> Meter:
    network = published(SyncNet, syncnet.TABLE, weight_file(weights, WEIGHTS))
    if not len(clip.waveform):
        raise Absent("the video has no sound")
    if faces is None:
        box = one_box(clip, weights)
        return Meter(clip, network, lambda frames: np.tile(box, (len(frames), 1)))
    return Meter(clip, network, faces)
