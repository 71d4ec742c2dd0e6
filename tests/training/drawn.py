"""A folder of clips as `livetalk data procedural --chunks` writes it, of random numbers: nothing is drawn or spoken."""

import json
from pathlib import Path

import numpy as np

from livetalk_jax.data.procedural.store import FLAGS, NUMBERS
from tests.training.sizes import HEIGHT, WIDTH

CLIPS, CHUNKS, FRAMES, MOTION, SAMPLES = 3, 2, 9, 5, 32_000


def write_folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    length = CHUNKS * (FRAMES - MOTION) + MOTION
    arrays = {
        "frames": rng.integers(0, 256, (CLIPS, length, HEIGHT, WIDTH, 3), np.uint8),
        "reference": rng.integers(0, 256, (CLIPS, HEIGHT, WIDTH, 3), np.uint8),
        "speech": (0.1 * rng.standard_normal((CLIPS, CHUNKS, SAMPLES))).astype(np.float16),
    }
    arrays |= {f"truth/{name}": rng.uniform(0, 1, (CLIPS, length)).astype(np.float32) for name in NUMBERS}
    arrays |= {f"truth/{name}": rng.random((CLIPS, length)) < 0.5 for name in FLAGS}
    arrays["truth/mouth_x"][:], arrays["truth/mouth_y"][:], arrays["truth/unit"][:] = 16.0, 20.0, 6.0
    (root / "truth").mkdir(parents=True)
    for name, values in arrays.items():
        np.save(root / f"{name}.npy", values)
    (root / "clips.json").write_text(json.dumps({"count": CLIPS, "seed": 0}))
    return root
