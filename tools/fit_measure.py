"""Fit the two small networks of livetalk_jax/data/procedural/measure.py to drawn persons of the train split.

    python tools/fit_measure.py [--persons 700] [--frames 40] [--steps 6000]

Writes livetalk_jax/data/procedural/measure.npz. Needs espeak-ng; about 20 minutes on two CPU cores. The same
arguments give the same pictures; the fit is the same on the same kind of machine.
"""

import argparse
import io
import multiprocessing
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
from scipy.ndimage import gaussian_filter

from livetalk_jax.data.procedural import measure
from livetalk_jax.data.procedural.dataset import person_numbers, record_speech
from livetalk_jax.data.procedural.identity import HAIR_STYLES, Identity, make_identity, make_scene
from livetalk_jax.data.procedural.speech import Synthesiser, make_speech

OUT = Path(measure.__file__).with_name("measure.npz")
LOCATE = ((3, 12, 2), (12, 24, 2), (24, 32, 1), (32, 48, 2), (48, 24, 1))  # in, out, stride
MOUTH = ((3, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 16, 1))


def identity_targets(who: Identity) -> np.ndarray:
    """What "locate" learns of a person, to tell persons apart."""
    colors = np.concatenate([who.skin, who.hair_color, who.lip_color, who.iris_glow]) / 60
    shape = [
        who.face_width / 0.04,
        who.jaw / 0.08,
        who.eye_distance / 0.003,
        who.mouth_width / 0.004,
        who.brow_width / 0.25,
        who.age * 2,
    ]
    styles = [2.0 * (who.hair == name) for name, _ in HAIR_STYLES] + [2.0 * (who.beard == b) for b in ("none", "stubble", "full")]
    return np.array([*colors, *shape, *styles, 2.0 * (who.glasses != "none")], np.float32)


def random_mouths(rng: np.random.Generator, count: int) -> np.ndarray:
    """Shapes that speech may not bring."""
    openness = np.where(rng.random(count) < 0.2, 0, rng.random(count) ** 1.3)
    rounding = rng.random(count) * (rng.random(count) < 0.5)
    width = rng.uniform(-0.2, 1, count) * (1 - rounding)
    parts = [
        openness,
        width,
        rounding,
        rng.random(count),
        rng.random(count) ** 2,
        rng.random(count) * 0.6 * (openness < 0.05),
        rng.random(count) * (rng.random(count) < 0.1),
    ]
    return np.stack(parts, 1).astype(np.float32)


def spoil(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """What coders and networks do to pictures."""
    if rng.random() < 0.35:
        picture = gaussian_filter(picture, (s := rng.uniform(0.3, 1.3), s, 0))
    if rng.random() < 0.4:
        shift = rng.normal(0, 6, 3) + rng.normal(0, 8)
        picture = np.clip((picture.astype(np.float32) - 128) * rng.uniform(0.85, 1.15) + 128 + shift, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        noisy = picture + rng.normal(0, rng.uniform(1, 9), picture.shape)
        picture = np.clip(noisy, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        coded = io.BytesIO()
        Image.fromarray(picture).save(coded, "JPEG", quality=int(rng.integers(25, 92)))
        picture = np.asarray(Image.open(coded))
    return picture


def draw(task: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Frames of one person of the train split."""
    number, person, count = task
    rng = np.random.default_rng([0xF17, number])
    who, scene = make_identity(person), make_scene(int(rng.integers(2**31)))
    seconds = 12.0
    speech = make_speech(rng, seconds, "train", Synthesiser(), False)
    recording = record_speech(rng, who, scene, speech, measure.SIDE, measure.SIDE)
    wild = rng.random(len(recording)) < 0.3
    recording.mouth[wild] = random_mouths(rng, int(wild.sum()))
    recording.poses[:, :6] = (recording.poses[:, :6] - [0, 0, 0, 0, 0, 1]) * rng.uniform(0.5, 1.6) + [0, 0, 0, 0, 0, 1]
    truth = recording.truth()
    chosen = np.sort(rng.choice(len(recording), count, replace=False))
    frames = np.stack([spoil(rng, recording.frame(int(f))) for f in chosen])
    found = {name: truth[name][chosen] for name in ("openness", "width", "mouth_x", "mouth_y", "unit", "roll")}
    return {"frames": frames, "identity": np.tile(identity_targets(who), (count, 1)), **found}


def initial(key: jax.Array, name: str, convs, size: tuple[int, int], hidden: int, outputs: int) -> dict[str, jax.Array]:
    numbers = {}
    rows, columns = size
    for k, (channels, features, stride) in enumerate(convs):
        key, own = jax.random.split(key)
        numbers[f"{name}/conv{k}/{stride}"] = jax.random.normal(own, (3, 3, channels, features)) * np.sqrt(2 / (9 * channels))
        numbers[f"{name}/conv{k}/{stride}/bias"] = jnp.zeros(features)
        rows, columns = -(-rows // stride), -(-columns // stride)
    for k, (wide, narrow) in enumerate(((rows * columns * convs[-1][1], hidden), (hidden, outputs))):
        key, own = jax.random.split(key)
        numbers[f"{name}/dense{k}"] = jax.random.normal(own, (wide, narrow)) * np.sqrt((2 - k) / wide)
        numbers[f"{name}/dense{k}/bias"] = jnp.zeros(narrow)
    return numbers


def fit(name: str, numbers, sample, steps: int, weights: np.ndarray, rate: float = 2e-3) -> dict[str, np.ndarray]:
    """Adam on the smooth absolute error; `sample(rng)` gives pictures 0 to 255 and targets."""
    schedule = optax.warmup_cosine_decay_schedule(0, rate, steps // 20, steps, 1e-6)
    optimizer = optax.adamw(schedule, weight_decay=1e-4)
    state = optimizer.init(numbers)

    @jax.jit
    def step(numbers, state, pictures, targets):
        def loss(numbers):
            error = measure.network(numbers, name, pictures / 127.5 - 1) - targets
            return (weights * (jnp.sqrt(error**2 + 0.01) - 0.1)).sum(-1).mean()

        value, gradient = jax.value_and_grad(loss)(numbers)
        updates, state = optimizer.update(gradient, state, numbers)
        return optax.apply_updates(numbers, updates), state, value

    rng, begun, losses = np.random.default_rng(0), time.time(), []
    for k in range(steps):
        numbers, state, value = step(numbers, state, *sample(rng))
        losses.append(float(value))
        if (k + 1) % 250 == 0:
            print(f"{name} {k + 1}: {np.mean(losses[-250:]):.4f}, {time.time() - begun:.0f} s", flush=True)
    return {key: np.asarray(value) for key, value in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--persons", type=int, default=700)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    begun = time.time()
    numbers = person_numbers("train")[: arguments.persons]
    tasks = [(number, person, arguments.frames) for number, person in enumerate(numbers)]
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        parts = pool.map(draw, tasks, chunksize=4)
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    count = len(data["frames"])
    print(f"{count} frames of {len(tasks)} persons in {time.time() - begun:.0f} s", flush=True)

    mean = data["identity"].mean(0)
    place = measure.location_targets(data["mouth_x"], data["mouth_y"], data["unit"], data["roll"])
    targets = np.concatenate([place, data["identity"] - mean], 1).astype(np.float32)
    small = measure.halved(data["frames"]).astype(np.float16)

    def locations(rng):
        chosen = rng.integers(count, size=128)
        return small[chosen].astype(np.float32), targets[chosen]

    weights = np.concatenate([np.full(measure.LOCATION, 1.0), np.full(targets.shape[1] - measure.LOCATION, 0.15)])
    locate = fit(
        "locate", initial(jax.random.key(0), "locate", LOCATE, (64, 64), 64, targets.shape[1]), locations, arguments.steps, weights
    )

    def mouths(rng):
        chosen = rng.integers(count, size=128)
        x, y = (data[name][chosen] + rng.normal(0, 0.6, 128) for name in ("mouth_x", "mouth_y"))
        unit = data["unit"][chosen] * np.exp(rng.normal(0, 0.02, 128))
        roll = data["roll"][chosen] + rng.normal(0, 0.02, 128)
        crops = measure.crop_mouths(data["frames"][chosen], x, y, unit, roll)
        # The gap is one in the face, whatever size "locate" takes the face for.
        return crops, np.stack([data["openness"][chosen] * 5, (data["width"][chosen] - 0.85) * 5], 1)

    mouth = fit(
        "mouth", initial(jax.random.key(1), "mouth", MOUTH, measure.CROP, 48, 2), mouths, arguments.steps, np.array([1.5, 1.0])
    )

    # The typical distance of two persons, as it is measured.
    found = {**locate, **mouth}
    seen = np.concatenate(
        [
            np.asarray(measure.network(found, "locate", small[k : k + 512].astype(np.float32) / 127.5 - 1))
            for k in range(0, count, 512)
        ]
    )
    means = seen[:, measure.LOCATION :].reshape(len(tasks), arguments.frames, -1).mean(1)
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1)
    found["identity/typical"] = apart[~np.eye(len(means), dtype=bool)].mean()
    np.savez_compressed(OUT, **{key: value.astype(np.float16) for key, value in found.items()})
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB, {time.time() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
