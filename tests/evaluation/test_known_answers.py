"""Videos whose faults are known: each moves the metric that should see it, and not the others."""

import functools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from livetalk_jax.data.procedural.dataset import person_numbers
from livetalk_jax.evaluation.metric import Absent, Clip, Truth
from livetalk_jax.evaluation.registry import METRICS
from livetalk_jax.evaluation.scoring import Sample, score
from tests.data.procedural import recording

PERSON, OTHER = person_numbers("test")[5], person_numbers("test")[6]
PLAIN = [metric for metric in METRICS if not metric.weights and not metric.sets]
JOINS = 28


@functools.cache
def real() -> tuple[np.ndarray, np.ndarray, np.ndarray, Truth]:
    """Frames, sound, portrait and truth of six seconds."""
    someone = recording(PERSON, seed=3)
    return someone.frames(), someone.waveform(), someone.portrait(), Truth(someone.truth(), PERSON, 3)


def numbers(frames: np.ndarray | None = None, waveform: np.ndarray | None = None, only: str = "") -> dict[str, float]:
    truly, sound, portrait, truth = real()
    frames = truly if frames is None else frames
    waveform = sound if waveform is None else waveform
    clip = Clip(name="a", height=128, width=128, fps=25.0, waveform=waveform, portrait=portrait, joins=JOINS, truth=truth)
    blocks = [frames[k : k + 20] for k in range(0, len(frames), 20)]
    metrics = [metric for metric in PLAIN if only in metric.name]
    result = score(Sample(clip, lambda: blocks), metrics, None, lambda _: None)
    assert not result.absent
    return result.numbers


@functools.cache
def perfect() -> dict[str, float]:
    return numbers()


# How far a fault may move what it is not a fault of.
QUIET = {
    "Frozen": 0.1,
    "Colour": 2.0,
    "Sharpness": 0.1,
    "Join jump": 0.15,
    "A/V offset": 0.5,
    "Lip r": 0.02,
    "Lip lag": 0,
    "Identity": 6,
    "Identity drift": 6,
    "Background drift": 1,
}


def moved(found: dict[str, float], *expected: str) -> None:
    """What was expected has moved by more than is allowed to the others, or cannot be told any more; the others have not."""
    for name, allowed in QUIET.items():
        change = abs(found.get(name, np.inf) - perfect()[name])
        assert change > 2 * allowed if name in expected else change <= allowed, f"{name}: {perfect()[name]} became {found[name]}"


def test_the_real_video_is_perfect():
    found = perfect()
    assert found["Lip r"] > 0.98 and found["Lip lag"] == 0 and found["Lip error"] < 0.01
    assert found["Width r"] > 0.95 and found["m b p closed"] > 95 and found["Rest in silence"] > 95
    assert found["Identity"] < 6 and found["Background drift"] < 0.1
    assert found["Frozen"] == 0 and abs(found["A/V offset"]) < 1
    assert abs(found["Join jump"] - 1) < 0.5 and abs(found["Sharpness"] - 1) < 0.3


@pytest.mark.parametrize("late", [-4, 3, 7])
def test_the_offset_follows_the_sound(late):
    """Sound `late` frames early makes pictures `late` frames late; no other metric listens."""
    _, sound, _, _ = real()
    found = numbers(waveform=np.roll(sound, -late * 640), only="mouth")
    assert found["A/V offset"] - perfect()["A/V offset"] == pytest.approx(late, abs=0.3)


def test_late_pictures_are_late_against_the_truth():
    frames, *_ = real()
    found = numbers(np.concatenate([frames[:1]] * 3 + [frames[:-3]]), only="drawn")
    assert found["Lip lag"] == 3 and found["Lip r best"] > 0.98 > found["Lip r"]


def test_freezing():
    frames, *_ = real()
    frozen = frames.copy()
    frozen[100:] = frozen[100]
    found = numbers(frozen)
    assert found["Frozen"] == pytest.approx(100 * 49 / 149, abs=0.1) and found["Longest freeze"] == pytest.approx(49 / 25)
    assert found["Lip r"] < 0.95 and "A/V offset" not in found, "a mouth that stands still goes with nothing"
    moved(found, "Frozen", "Lip r", "A/V offset")


def test_blurring():
    frames, *_ = real()
    found = numbers(gaussian_filter(frames, (0, 1.0, 1.0, 0)))
    assert found["Sharpness"] < 0.4
    moved(found, "Sharpness")


def test_recolouring():
    frames, *_ = real()
    found = numbers(np.clip(frames * [0.85, 1.0, 0.9] + [0, 0, 12], 0, 255).astype(np.uint8))
    moved(found, "Colour")


def test_slow_recolouring_is_drift():
    frames, *_ = real()
    fading = 1 - 0.15 * np.linspace(0, 1, len(frames))[:, None, None, None]
    found = numbers((frames * fading).astype(np.uint8))
    assert found["Colour drift"] > perfect()["Colour drift"] + 5 and abs(found["Identity drift"] - perfect()["Identity drift"]) < 6


def test_cutting_to_another_person():
    frames, *_ = real()
    other = recording(OTHER, seed=3).frames(75)
    found = numbers(np.concatenate([frames[:75], other]))
    assert found["Identity drift"] > 30 and found["Identity"] > 15
    assert "A/V offset" not in found
    # Another skin, another mouth and a jump, before the same wall.
    moved(found, "Identity", "Identity drift", "Colour", "Sharpness", "Join jump", "Lip r", "A/V offset")


def test_chunks_that_do_not_join():
    frames, *_ = real()
    odd = (np.arange(len(frames)) // JOINS % 2)[:, None, None, None]
    found = numbers(np.clip(frames + 3.0 * odd, 0, 255).astype(np.uint8))
    assert found["Join jump"] > 1.5
    moved(found, "Join jump", "Background drift", "A/V offset")  # all of the picture gets brighter, the wall and the mouth


def test_a_mouth_that_moves_in_silence():
    _, sound, _, truth = real()
    assert truth.frames["silent"].any()
    found = numbers(waveform=np.where(np.arange(len(sound)) < len(sound) // 2, sound, 0).astype(np.float32), only="mouth")
    assert found["Silent mouth"] > 0.5 > perfect().get("Silent mouth", 0)


def test_what_cannot_be_measured_is_absent():
    frames, _, portrait, _ = real()
    silent = np.zeros(0, np.float32)
    clip = Clip(name="a", height=128, width=128, fps=25.0, waveform=silent, portrait=portrait)
    result = score(Sample(clip, lambda: [frames[:30]]), PLAIN, None, lambda _: None)
    assert set(result.absent) == {"joins", "mouth", "drawn"}
    assert "Lip r" not in result.numbers and "A/V offset" not in result.numbers and result.frames == 30
    with pytest.raises(ValueError, match="no frames"):
        score(Sample(clip, lambda: []), PLAIN, None, lambda _: None)
    with pytest.raises(Absent, match="two frames"):
        from livetalk_jax.evaluation.metrics import flicker

        flicker.begin(clip, None).scores()
