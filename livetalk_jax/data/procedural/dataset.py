"""The data set: recordings of drawn people who talk, each made from (seed, split, number) alone whenever it is asked for."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from livetalk_jax.config import StreamConfig
from livetalk_jax.data.clips import Media, clip_frames
from livetalk_jax.data.procedural import motion, phonemes
from livetalk_jax.data.procedural.face import FACE_UNIT, REST, Mouth, mouth_gap, mouth_span
from livetalk_jax.data.procedural.identity import Identity, Scene, make_identity, make_scene
from livetalk_jax.data.procedural.render import Pose, Puppet, view
from livetalk_jax.data.procedural.speech import SAMPLE_RATE, Speech, Split, Synthesiser, make_speech, split_of

FPS = 25
ESPEAK = Synthesiser()
PERSONS = 4096  # numbers of identities that recordings draw from, both splits together
CAPTION = "A person is talking."

Truth = dict[str, np.ndarray]
"""What is known of each frame, arrays [F]:

    openness    gap between the lips in the middle, in face units (the distance between an average person's eyes)
    width       distance between the mouth's corners, in face units
    rounding, teeth, tongue, press, tuck    0 to 1, as `face.Mouth` has them
    closed      bool: the lips of an /m/, /b/ or /p/ touch
    silent      bool: nothing is said within 0.15 s
    phoneme     the name of what sounds, "" in silence
    yaw, pitch, roll, x, y, scale, body_x, body_roll, blink, gaze_x, gaze_y, brow    as `render.Pose` has them
    mouth_x, mouth_y    pixels: where the middle of the closed mouth's line is seen, from the picture's corner
    unit        pixels: a face unit as it is seen
"""


def person_numbers(split: Split) -> list[int]:
    return [number for number in range(PERSONS) if split_of(f"person/{number}") == split]


@functools.cache
def _persons(split: Split) -> tuple[int, ...]:
    return tuple(person_numbers(split))


@dataclasses.dataclass(frozen=True)
class Recording:
    """A person speaking for some seconds; pictures are drawn when they are asked for.

    Attributes:
        mouth: [F, phonemes.PARTS], frame f shows the time (f + 0.5) / 25 s.
        poses: [F, motion.PARTS].
        height, width: of the pictures.
    """

    who: Identity
    scene: Scene
    speech: Speech
    mouth: np.ndarray
    poses: np.ndarray
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.mouth)

    @functools.cached_property
    def _puppet(self) -> Puppet:
        return Puppet(self.who, self.scene, self.height, self.width)

    def frame(self, number: int) -> np.ndarray:
        """uint8 [Y, X, 3]."""
        return self._puppet.frame(Mouth(*map(float, self.mouth[number])), motion.pose_of(self.poses[number]))

    def frames(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """uint8 [F, Y, X, 3]."""
        return np.stack([self.frame(number) for number in range(start, len(self) if stop is None else stop)])

    def portrait(self) -> np.ndarray:
        """uint8 [Y, X, 3]: the person at rest, looking at the viewer."""
        return self._puppet.frame(REST, Pose())

    def waveform(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The sound of some frames, float32 [samples]."""
        stop = len(self) if stop is None else stop
        return self.speech.waveform[start * SAMPLE_RATE // FPS : stop * SAMPLE_RATE // FPS]

    def truth(self, start: int = 0, stop: int | None = None) -> Truth:
        stop = len(self) if stop is None else stop
        times = (np.arange(start, stop) + 0.5) / FPS
        mouths = [Mouth(*map(float, row)) for row in self.mouth[start:stop]]
        truth: Truth = {name: self.mouth[start:stop, k] for k, name in enumerate(phonemes.PARTS)}
        truth |= {name: self.poses[start:stop, k] for k, name in enumerate(motion.PARTS)}
        truth["openness"] = np.array([mouth_gap(self.who, mouth) for mouth in mouths], np.float32)
        truth["width"] = np.array([mouth_span(self.who, mouth) for mouth in mouths], np.float32)
        truth["closed"] = phonemes.closed_at(self.speech.phonemes, times)
        truth["phoneme"] = np.array(phonemes.name_at(self.speech.phonemes, times))
        starts, ends = (np.array(t) for t in ([p.start for p in self.speech.phonemes], [p.end for p in self.speech.phonemes]))
        speaking = (starts < times[:, None] + 0.15) & (ends > times[:, None] - 0.15)
        truth["silent"] = np.logical_not(speaking.any(1))
        screen = view(self.height, self.width, self.scene)
        seen = np.array([Puppet.seen(motion.pose_of(row), 0.5, self.who.mouth_y) for row in self.poses[start:stop]])
        truth["mouth_x"] = ((seen[:, 0] - screen.left) / screen.step).astype(np.float32)
        truth["mouth_y"] = ((seen[:, 1] - screen.top) / screen.step).astype(np.float32)
        truth["unit"] = (FACE_UNIT * self.poses[start:stop, motion.PARTS.index("scale")] / screen.step).astype(np.float32)
        return truth

    def about(self) -> dict:
        """What else is known, as JSON can hold it."""
        return {
            "person": self.who.number,
            "identity": dataclasses.asdict(self.who),
            "scene": dataclasses.asdict(self.scene),
            "language": self.speech.language,
            "voice": self.speech.voice,
            "lines": list(self.speech.lines),
            "phonemes": [list(phoneme) for phoneme in self.speech.phonemes],
        }


def make_recording(
    seed: int,
    split: Split,
    number: int,
    seconds: float,
    height: int,
    width: int,
    synthesiser: Synthesiser,
    recorded: bool | None = None,
) -> Recording:
    """The recording of this number, the same at every call with the same version of espeak-ng.

    Args:
        recorded: rooms, microphones and noise in the sound (`make_speech`); left out, the train split has them and the test split
            has not.

    Raises:
        NoSynthesiser: espeak-ng is missing.
    """
    rng = np.random.default_rng([0xDA7A, seed, split == "test", number])
    persons = _persons(split)
    who = make_identity(persons[int(rng.integers(len(persons)))])
    scene = make_scene(int(rng.integers(2**31)))
    speech = make_speech(rng, seconds, split, synthesiser, split == "train" if recorded is None else recorded)
    return record_speech(rng, who, scene, speech, height, width)


def record_speech(rng: np.random.Generator, who: Identity, scene: Scene, speech: Speech, height: int, width: int) -> Recording:
    """A person saying what is given."""
    count = len(speech.waveform) * FPS // SAMPLE_RATE
    times = (np.arange(count) + 0.5) / FPS
    mouth = phonemes.mouth_track(speech.phonemes, times)
    return Recording(who, scene, speech, mouth, motion.make_poses(rng, count, FPS), height, width)


class Sample(NamedTuple):
    """Attributes:
    frames: uint8 [F, Y, X, 3].
    waveform: float32 [F · 640], 16 kHz.
    portrait: uint8 [Y, X, 3], the person at rest.
    truth: of each frame.
    about: the rest.
    """

    frames: np.ndarray
    waveform: np.ndarray
    portrait: np.ndarray
    truth: Truth
    about: dict


@dataclasses.dataclass(frozen=True)
class ProceduralSet:
    """`count` recordings in random access; what grain calls a data source.

    Making a second of 128×128 takes about 0.12 s of one core, so `grain`'s or `multiprocessing`'s workers make them as they are
    read; `store` keeps clips that were drawn once.

    Args:
        split: persons, voices and lines of "train" and "test" differ.
        seconds: of a recording.
        height, width: pixels.
    """

    seed: int
    split: Split
    count: int
    seconds: float = 10.0
    height: int = 128
    width: int = 128
    synthesiser: Synthesiser = ESPEAK

    def __len__(self) -> int:
        return self.count

    def recording(self, number: int) -> Recording:
        """Raises IndexError behind the last."""
        if not 0 <= number < self.count:
            raise IndexError(f"recording {number} of {self.count}")
        return make_recording(self.seed, self.split, number, self.seconds, self.height, self.width, self.synthesiser)

    def __getitem__(self, number: int) -> Sample:
        recording = self.recording(number)
        return Sample(recording.frames(), recording.waveform(), recording.portrait(), recording.truth(), recording.about())

    def __iter__(self) -> Iterator[Sample]:
        return (self[number] for number in range(self.count))


@dataclasses.dataclass(frozen=True)
class ProceduralClips:
    """Clips of K chunks as the networks take them: `livetalk_jax.data.clips.Media`, with the truth of their frames.

    A recording is as long as a clip and the context that is heard before; what is before the clip is not drawn. A third of the
    clips begin with their recording, so that what was heard before is silence, as when a session begins. The reference is a frame
    within a second before or after the clip, or the person at rest, as a user's portrait.

    Args:
        chunks: K.
        resting: share of clips whose reference is the person at rest.
    """

    seed: int
    split: Split
    count: int
    stream: StreamConfig
    chunks: int
    height: int = 128
    width: int = 128
    resting: float = 0.3
    synthesiser: Synthesiser = ESPEAK

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[Media, Truth]:
        if not 0 <= number < self.count:
            raise IndexError(f"clip {number} of {self.count}")
        rng = np.random.default_rng([0xC11B, self.seed, self.split == "test", number])
        length, context = clip_frames(self.stream, self.chunks), self.stream.audio_context_seconds * FPS
        begin = 0 if rng.random() < 1 / 3 else int(rng.integers(1, context + 1))
        seconds = (begin + length + FPS) / FPS
        recording = make_recording(self.seed, self.split, number, seconds, self.height, self.width, self.synthesiser)
        if rng.random() < self.resting:
            reference = recording.portrait()
        else:
            around = [*range(max(begin - FPS, 0), begin), *range(begin + length, begin + length + FPS)]
            reference = recording.frame(around[int(rng.integers(len(around)))])
        step = self.stream.frames - self.stream.motion_frames
        padded = np.concatenate([np.zeros(context * SAMPLE_RATE // FPS, np.float32), recording.speech.waveform])
        speech = []
        for chunk in range(self.chunks):
            end = begin + chunk * step + self.stream.frames
            speech.append(padded[end * SAMPLE_RATE // FPS :][: context * SAMPLE_RATE // FPS])
        media = Media(recording.frames(begin, begin + length), reference, np.stack(speech))
        return media, recording.truth(begin, begin + length)
