"""How a person moves while speaking or silent: head, body, eyes and brows, slowly and without jumps."""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from livetalk_jax.data.procedural.render import Pose

PARTS = ("yaw", "pitch", "roll", "x", "y", "scale", "body_x", "body_roll", "blink", "gaze_x", "gaze_y", "brow")  # of `Pose`


def _drift(rng: np.random.Generator, count: int, fps: int, seconds: float, deviation: float) -> np.ndarray:
    """Smooth noise that changes within about `seconds`."""
    width = seconds * fps / 2
    pad = int(4 * width)
    noise = gaussian_filter1d(rng.standard_normal(count + 2 * pad), width)[pad : pad + count]
    # The deviation that filtering leaves of white noise.
    return noise * deviation * np.sqrt(2 * width * np.sqrt(np.pi))


def _limited(values: np.ndarray, most: float) -> np.ndarray:
    return most * np.tanh(values / most)


def _blinks(rng: np.random.Generator, count: int, fps: int) -> np.ndarray:
    """Shut within 0.1 s, open again within 0.17 s, every few seconds."""
    times = (np.arange(count) + 0.5) / fps
    shut = np.zeros(count)
    at = rng.uniform(0, 4)
    while at < count / fps + 1:
        before, after = np.clip((times - at + 0.1) / 0.1, 0, 1), np.clip((at + 0.04 + 0.17 - times) / 0.17, 0, 1)
        lid = np.minimum(before, after)
        shut = np.maximum(shut, lid * lid * (3 - 2 * lid))
        at += 0.35 if rng.random() < 0.08 else rng.uniform(1.6, 6)
    return shut


def _gaze(rng: np.random.Generator, count: int, fps: int) -> np.ndarray:
    """Mostly at the viewer, at times aside: [count, 2]."""
    gaze = np.zeros((count, 2))
    at = 0
    while at < count:
        until = at + int(rng.uniform(0.6, 3.0) * fps)
        away = rng.normal(0, (0.45, 0.3)) if rng.random() < 0.4 else rng.normal(0, 0.08, 2)
        gaze[at:until] = np.clip(away, -0.9, 0.9)
        at = until
    return gaussian_filter1d(gaze, 0.03 * fps, axis=0, mode="nearest")


def make_poses(rng: np.random.Generator, count: int, fps: int) -> np.ndarray:
    """Poses of `count` frames: float32 [count, PARTS]."""
    body_x = _limited(_drift(rng, count, fps, 3.0, 0.005), 0.012)
    body_roll = _limited(_drift(rng, count, fps, 3.0, 0.006), 0.015)
    yaw = _limited(_drift(rng, count, fps, 1.6, 0.085), 0.20)
    pitch = _limited(_drift(rng, count, fps, 1.2, 0.045), 0.11)
    roll = _limited(_drift(rng, count, fps, 1.8, 0.03), 0.07) + 0.5 * body_roll
    x = body_x + _limited(_drift(rng, count, fps, 2.0, 0.005), 0.012) + 0.02 * yaw
    y = _limited(_drift(rng, count, fps, 2.0, 0.0035), 0.009) + 0.03 * pitch
    scale = 1 + _limited(_drift(rng, count, fps, 2.5, 0.008), 0.02)
    brow = _limited(_drift(rng, count, fps, 0.7, 0.35), 0.9)
    gaze = _gaze(rng, count, fps)
    # Eyes stay on the viewer while the head turns a little.
    gaze_x, gaze_y = np.clip(gaze[:, 0] - 1.5 * yaw, -1, 1), np.clip(gaze[:, 1] - 1.2 * pitch, -1, 1)
    parts = [yaw, pitch, roll, x, y, scale, body_x, body_roll, _blinks(rng, count, fps), gaze_x, gaze_y, brow]
    return np.stack(parts, 1).astype(np.float32)


def pose_of(row: np.ndarray) -> Pose:
    return Pose(**dict(zip(PARTS, map(float, row), strict=True)))
