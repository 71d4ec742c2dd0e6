"""Draw livetalk_jax/samples/portrait.png and docs/images/procedural.jpg, and synthesise livetalk_jax/samples/speech.flac.

    python tools/make_samples.py

The portrait is a person of the procedural data set's test split at rest, in clothes and on a wall chosen for her; the speech needs
espeak-ng (`apt-get install espeak-ng`, made with 1.51). All are the same every time.
"""

import dataclasses
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from livetalk_jax.data.procedural.dataset import ProceduralSet, record_speech
from livetalk_jax.data.procedural.face import REST
from livetalk_jax.data.procedural.identity import make_identity, make_scene
from livetalk_jax.data.procedural.render import Pose, Puppet
from livetalk_jax.data.procedural.speech import Speech, Synthesiser
from livetalk_jax.media import SAMPLES, load_audio
from livetalk_jax.stream.audio import normalize_loudness

TEXT = (
    "Hello! I am a drawing, and a machine made my voice. "
    "Live Talk takes one portrait and live speech, and shows a person who talks."
)

SHEET = Path(__file__).parents[1] / "docs/images/procedural.jpg"
SIZE = 512
PERSON = 21


def draw_portrait() -> Image.Image:
    scene = dataclasses.replace(
        make_scene(0), cloth=(44, 96, 112), collar="round", pattern="knit", backdrop="plaster", wall_light=(222, 214, 200),
        wall_dark=(104, 112, 120), light=-0.8, warmth=0.0, brightness=1.0, framing=1.0, shift=0.0,
    )  # fmt: skip
    return Image.fromarray(Puppet(make_identity(PERSON), scene, SIZE, SIZE).frame(REST, Pose()))


def draw_sheet() -> Image.Image:
    """Persons of the test split, and below one of them saying a sentence, frame by frame."""
    persons = ProceduralSet(seed=1, split="test", count=24, seconds=1.0)
    people = [persons.recording(number).frame(18) for number in range(len(persons))]
    ((sound, phonemes),) = Synthesiser().say(["My mother bought a big paper bag."], "en-us+f3", 150, 50, 50)
    speech = Speech(sound, tuple(phonemes), "English", "en-us+f3", ())
    speaker = record_speech(np.random.default_rng(0), make_identity(42), make_scene(5), speech, 256, 256)
    truth, mouths = speaker.truth(), []
    for number in range(48):
        x, y = round(float(truth["mouth_x"][number])), round(float(truth["mouth_y"][number]))
        mouths.append(speaker.frame(number)[y - 28 : y + 36, x - 32 : x + 32])
    return Image.fromarray(np.concatenate([rows(people, 8), rows(mouths, 16)]))


def rows(pictures: list[np.ndarray], columns: int) -> np.ndarray:
    return np.concatenate([np.concatenate(pictures[k : k + columns], 1) for k in range(0, len(pictures), columns)])


def synthesise_speech(path):
    """FLAC, 16 kHz, mono, 16 bits."""
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder) / "speech.wav"
        subprocess.run(["espeak-ng", "-v", "en-us+f3", "-s", "150", "-p", "48", "-w", spoken, TEXT], check=True)
        samples = normalize_loudness(load_audio(spoken, 16_000), 16_000, -20.0)
    samples = np.concatenate([np.zeros(3200), samples / max(1, np.abs(samples).max() / 0.98), np.zeros(3200)])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray((samples * 32767).round().astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    SAMPLES.mkdir(exist_ok=True)
    draw_portrait().save(SAMPLES / "portrait.png", optimize=True)
    synthesise_speech(SAMPLES / "speech.flac")
    draw_sheet().save(SHEET, quality=88)
    for path in (*sorted(SAMPLES.iterdir()), SHEET):
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
