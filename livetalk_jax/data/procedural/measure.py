"""Measurements on pixels, for pictures in this data set's style, whoever made them.

The mouth is found and measured by two small networks that were fitted to drawn persons and their truth by
tools/fit_measure.py (numbers in measure.npz); docs/procedural.md says how well they do on persons, voices and sentences they never
saw, also after H.264, blur and noise. Everything else is plain arithmetic.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

SIDE = 128  # pictures are measured as squares of this many pixels
NOMINAL = (0.57, 0.70)  # of the drawing, across and down: what a picture shows at least (`render.view`)
UNIT = 25.6  # pixels of a face unit in such a square, where a person sits at the usual distance
CROP = (36, 48)  # rows and columns of the mouth's crop, `CROP_STEP` face units apart
CROP_STEP = 1 / 24
CROP_CENTER = 0.15  # face units from the mouth's line down to the crop's middle
CLOSED = 0.02  # lips touch when their gap is less, in face units: half a pixel
BATCH = 64

Numbers = Mapping[str, Any]


class Mouths(NamedTuple):
    """What is seen in each frame, float32 [F] but the last.

    Attributes:
        openness, width: as in `dataset.Truth`, in face units.
        closed: bool, the lips touch.
        x, y: the closed mouth's middle, in pixels of the frame.
        unit: pixels of a face unit.
        roll: radians.
        identity: [F, D] what kind of person it is, for `identity_distance`.
    """

    openness: np.ndarray
    width: np.ndarray
    closed: np.ndarray
    x: np.ndarray
    y: np.ndarray
    unit: np.ndarray
    roll: np.ndarray
    identity: np.ndarray


@functools.cache
def load_numbers() -> Numbers:
    path = Path(__file__).with_name("measure.npz")
    if not path.is_file():
        raise FileNotFoundError(f"the measurement's numbers {path} are not there; fit them: python tools/fit_measure.py")
    with np.load(path) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}


# The networks


def network(numbers: Numbers, name: str, x: jax.Array) -> jax.Array:
    """Convolutions with ReLU, then two dense layers: x [B, rows, columns, 3] in [-1, 1] -> [B, outputs].

    A convolution's stride is in its name: "locate/conv0/2".
    """
    for key in sorted(key for key in numbers if key.startswith(f"{name}/conv") and not key.endswith("bias")):
        stride = int(key.rsplit("/", 1)[1])
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, numbers[key], (stride, stride), "SAME", dimension_numbers=dimensions)
        x = jax.nn.relu(x + numbers[f"{key}/bias"])
    x = x.reshape(len(x), -1)
    x = jax.nn.relu(x @ numbers[f"{name}/dense0"] + numbers[f"{name}/dense0/bias"])
    return x @ numbers[f"{name}/dense1"] + numbers[f"{name}/dense1/bias"]


@functools.cache
def _compiled(name: str):
    numbers = load_numbers()
    return jax.jit(lambda pictures: network(numbers, name, pictures.astype(jnp.float32) / 127.5 - 1))


def _run(name: str, pictures: np.ndarray) -> np.ndarray:
    outputs = []
    for begin in range(0, len(pictures), BATCH):
        part = pictures[begin : begin + BATCH]
        padded = np.concatenate([part, np.zeros((BATCH - len(part), *part.shape[1:]), part.dtype)])
        outputs.append(np.asarray(_compiled(name)(padded))[: len(part)])
    return np.concatenate(outputs)


# Pictures


def square(frames: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """Frames of any size as squares in which faces have about the same size.

    Args:
        frames: uint8 [F, Y, X, 3].

    Returns:
        uint8 [F, 128, 128, 3], and where they lie in the frames: left, top, and frame pixels of a square's pixel.
    """
    height, width = frames.shape[1:3]
    side = max(NOMINAL[0] / width, NOMINAL[1] / height) ** -1 * NOMINAL[1]
    left, top = (width - side) / 2, (height - side) / 2
    if (height, width) == (SIDE, SIDE):
        return frames, 0.0, 0.0, 1.0
    margin = int(np.ceil(max(0.0, -left, -top)))
    frames = np.pad(frames, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    box = (left + margin, top + margin, left + margin + side, top + margin + side)
    squares = [np.asarray(Image.fromarray(f).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)) for f in frames]
    return np.stack(squares), left, top, side / SIDE


def halved(squares: np.ndarray) -> np.ndarray:
    """float32 [F, 64, 64, 3]."""
    count, side = squares.shape[:2]
    return squares.reshape(count, side // 2, 2, side // 2, 2, 3).astype(np.float32).mean((2, 4))


def crop_mouths(squares: np.ndarray, x: np.ndarray, y: np.ndarray, unit: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """The mouths, upright and of one size: float32 [F, *CROP, 3], bilinear.

    Args:
        x, y, unit, roll: [F] of each mouth.
    """
    rows, columns = CROP
    across = (np.arange(columns) - (columns - 1) / 2) * CROP_STEP
    down = (np.arange(rows) - (rows - 1) / 2) * CROP_STEP + CROP_CENTER
    c, s = (np.cos(roll) * unit)[:, None, None], (np.sin(roll) * unit)[:, None, None]
    at_x = x[:, None, None] + c * across[None, None] - s * down[None, :, None] - 0.5
    at_y = y[:, None, None] + s * across[None, None] + c * down[None, :, None] - 0.5
    at_x, at_y = np.clip(at_x, 0, SIDE - 1.001), np.clip(at_y, 0, SIDE - 1.001)
    left, top = at_x.astype(np.int32), at_y.astype(np.int32)
    fx, fy = (at_x - left)[..., None].astype(np.float32), (at_y - top)[..., None].astype(np.float32)
    number = np.arange(len(squares))[:, None, None]
    upper = squares[number, top, left] * (1 - fx) + squares[number, top, left + 1] * fx
    lower = squares[number, top + 1, left] * (1 - fx) + squares[number, top + 1, left + 1] * fx
    return upper + (lower - upper) * fy


LOCATION = 4  # x, y, log unit, roll: the first outputs of "locate"; the rest is the identity


def location_targets(x, y, unit, roll) -> np.ndarray:
    """How "locate" is told a mouth's place, [F, 4]."""
    return np.stack([(x - 64) / 8, (y - 91) / 8, np.log(unit / UNIT) * 10, roll * 10], -1)


def _place(outputs: np.ndarray) -> tuple[np.ndarray, ...]:
    x, y, size, roll = outputs[:, :LOCATION].T
    return x * 8 + 64, y * 8 + 91, np.exp(size / 10) * UNIT, roll / 10


def measure_mouths(frames: np.ndarray) -> Mouths:
    """Find and measure the mouth in each frame on its own: nothing is known of the frame before.

    Args:
        frames: uint8 [F, Y, X, 3], a person of this data set's style, alone and from the front.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 [F, Y, X, 3], not {frames.dtype} {list(frames.shape)}")
    squares, left, top, scale = square(frames)
    located = _run("locate", halved(squares))
    x, y, unit, roll = _place(located)
    openness, width = _run("mouth", crop_mouths(squares, x, y, unit, roll)).T
    openness, width = np.maximum(openness / 5, 0), 0.85 + width / 5
    return Mouths(openness, width, openness < CLOSED, left + x * scale, top + y * scale, unit * scale, roll, located[:, LOCATION:])


# Comparisons


def identity_distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far apart two persons look: between the means of `Mouths.identity` over some frames each, [F, D]. About 1 for two persons
    drawn at random."""
    return float(np.linalg.norm(a.mean(0) - b.mean(0)) / load_numbers()["identity/typical"])


def background_mask(height: int, width: int) -> np.ndarray:
    """bool [Y, X]: pixels beside and above the head, which hardly anybody of this style covers, and then not for long."""
    step = max(NOMINAL[0] / width, NOMINAL[1] / height)
    x = np.abs((np.arange(width) + 0.5 - width / 2) * step)[None]
    y = 0.425 + ((np.arange(height) + 0.5 - height / 2) * step)[:, None]
    return ((x > 0.335) & (y < 0.5)) | ((x > 0.30) & (y < 0.14)) | (y < -0.01)


def background_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of the walls, 0 to 255, of two videos uint8 [F, Y, X, 3].

    Each is taken as its median over time, so that a head which passes by does not count.
    """
    mask = background_mask(*a.shape[1:3])
    return float(np.abs(np.median(a[:, mask], 0) - np.median(b[:, mask], 0)).mean())


def sharpness(frames: np.ndarray) -> np.ndarray:
    """Mean gradient of the brightness in each frame, [F]: grey levels from one pixel to the next."""
    grey = frames @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.hypot(np.diff(grey, axis=2)[:, :-1], np.diff(grey, axis=1)[:, :, :-1]).mean((1, 2))


def color_statistics(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel over each frame, [F, 3] twice, 0 to 255."""
    pixels = frames.reshape(len(frames), -1, 3).astype(np.float32)
    return pixels.mean(1), pixels.std(1)


class Sync(NamedTuple):
    """How a measured track follows another.

    Attributes:
        correlation: at lag zero.
        error: mean absolute difference at lag zero.
        lag: frames by which the measured track is late, where it correlates best.
        best: the correlation there.
    """

    correlation: float
    error: float
    lag: int
    best: float


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where either does not change."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def synchrony(measured: np.ndarray, truth: np.ndarray, reach: int = 12) -> Sync:
    """Compare a track of each frame with the truth, [F] each.

    Args:
        reach: lags of so many frames to either side are tried.
    """
    if measured.shape != truth.shape or len(truth) <= 2 * reach:
        raise ValueError(f"tracks of one length above {2 * reach} frames are needed, not {measured.shape} and {truth.shape}")
    lags = range(-reach, reach + 1)
    count = len(truth)
    values = [correlation(measured[max(lag, 0) : count + min(lag, 0)], truth[max(-lag, 0) : count - max(lag, 0)]) for lag in lags]
    best = int(np.argmax(values))
    return Sync(values[reach], float(np.abs(measured - truth).mean()), lags[best], values[best])
