"""Draw livetalk_jax/samples/portrait.png and synthesise livetalk_jax/samples/speech.flac.

    python tools/make_samples.py

The portrait is a person of the procedural data set's test split at rest, in clothes and on a wall chosen for her; the speech needs
espeak-ng (`apt-get install espeak-ng`, made with 1.51). Both are the same every time.
"""

import dataclasses
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from livetalk_jax.data.procedural.face import REST
from livetalk_jax.data.procedural.identity import make_identity, make_scene
from livetalk_jax.data.procedural.render import Pose, Puppet
from livetalk_jax.media import SAMPLES, load_audio
from livetalk_jax.stream.audio import normalize_loudness

TEXT = (
    "Hello! I am a drawing, and a machine made my voice. "
    "Live Talk takes one portrait and live speech, and shows a person who talks."
)

SIZE = 512
PERSON = 21


def draw_portrait() -> Image.Image:
    scene = dataclasses.replace(
        make_scene(0), cloth=(44, 96, 112), collar="round", pattern="knit", backdrop="plaster", wall_light=(222, 214, 200),
        wall_dark=(104, 112, 120), light=-0.8, warmth=0.0, brightness=1.0, framing=1.0, shift=0.0,
    )  # fmt: skip
    return Image.fromarray(Puppet(make_identity(PERSON), scene, SIZE, SIZE).frame(REST, Pose()))


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
    for path in sorted(SAMPLES.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
