"""Videos whose faults are known: each moves the columns that should see it, and all others stand still, or the table says why not."""

import dataclasses
import functools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from livetalk_jax.data.procedural.dataset import person_numbers
from livetalk_jax.evaluation.metric import Absent, Clip, Truth
from livetalk_jax.evaluation.metrics.mouth import SURE
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


# How far a column that stands still may go: a little more than was measured, so far below what models differ by.
STILL = {
    "Temporal-F": 2e-5, "Frozen": 0, "Longest freeze": 0, "Colour": 0.02, "Colour drift": 0.05, "Sharpness": 0.025,
    "Sharpness drift": 0.025, "Join jump": 0.05, "A/V offset": 0.1, "A/V match": 0.1, "Silent mouth": 0.01, "Lip r": 0.002,
    "Lip r best": 0.002, "Lip lag": 0, "Lip error": 0.002, "Width r": 0.002, "Width error": 0.0005, "m b p closed": 0,
    "Rest in silence": 0, "Identity": 0.1, "Identity drift": 0.2, "Identity sway": 0.2, "Background drift": 0.05,
    "Head motion": 2.0,
}  # fmt: skip

# What each fault does to each column: "=" nothing, "+" and "-" move it by more than three times what is allowed above, "gone" takes the
# number away; a word in brackets is why it may move: a share of sharpness, joins of still pictures, which count as 1, another person's
# mouth, and five frames that are interpolated. "!" marks moves for what the column is not meant to see: docs/evaluation.md tells them.
FAULTS = """
                  freezing  blurring     recolouring  fading  cut      joins   shifting
Temporal-F        +!        +!           +            -       -        -       =
Frozen            +         =            =            =       =        =       =
Longest_freeze    +         =            =            =       =        =       =
Colour            =         +!           +            +       +        +       =
Colour_drift      =         =            =            +       +        =       =
Sharpness         =         -            =            =       +        =       =
Sharpness_drift   =         (sharpness)  =            =       +        =       =
Join_jump         (stills)  =            =            =       =        +       =
A/V_offset        gone      =            =            =       gone     (five)  +
A/V_match         -         =            =            =       -!       =       =
Silent_mouth      =         =            =            +!      (mouth)  =       =
Lip_r             -         =            =            =       -        =       =
Lip_r_best        -         =            =            =       -        =       =
Lip_lag           =         =            =            =       =        =       =
Lip_error         +         =            =            =       +        =       =
Width_r           -         -!           =            =       -        =       =
Width_error       +         +!           =            =       +        =       =
m_b_p_closed      -         =            =            =       -        =       =
Rest_in_silence   -         =            =            =       -        =       =
Identity          =         =            =            =       +        =       =
Identity_drift    =         =            =            =       +        =       =
Identity_sway     =         =            =            =       +        =       =
Background_drift  =         =            =            +       =        +       =
Head_motion       -         =            =            =       (mouth)  =       =
"""


def expected(fault: str) -> dict[str, str]:
    heads, *rows = (line.split() for line in FAULTS.strip().splitlines())
    return {row[0].replace("_", " "): row[1 + heads.index(fault)] for row in rows}


def check(fault: str, found: dict[str, float]) -> None:
    """Every column has done what the table says."""
    assert set(expected(fault)) == set(STILL) == set(perfect()) == {column.name for metric in PLAIN for column in metric.columns}
    wrong = []
    for name, move in expected(fault).items():
        before, allowed = perfect()[name], STILL[name]
        change = found.get(name, np.nan) - before
        fine = {"=": abs(change) <= allowed, "+": change > 3 * allowed, "-": -change > 3 * allowed, "gone": name not in found}
        if not (move.startswith("(") or fine[move.rstrip("!")]):
            wrong.append(f"{name}: {before:.4g} became {found.get(name, np.nan):.4g}, not {move}")
    assert not wrong, "; ".join(wrong)


def with_jumps(begin: int) -> np.ndarray:
    """The real video, three levels brighter in every second stretch of a chunk's length, the first of which is `begin` frames late."""
    frames, *_ = real()
    odd = ((np.arange(len(frames)) - begin) // JOINS % 2)[:, None, None, None]
    return np.clip(frames + 3.0 * odd, 0, 255).astype(np.uint8)


def test_the_real_video_is_perfect():
    found = perfect()
    assert found["Lip r"] > 0.98 and found["Lip lag"] == 0 and found["Lip error"] < 0.01
    assert found["Width r"] > 0.95 and found["m b p closed"] > 95 and found["Rest in silence"] > 95
    assert found["Identity"] < 6 and found["Background drift"] < 0.1
    assert found["Frozen"] == 0 and abs(found["A/V offset"]) < 1
    assert abs(found["Join jump"] - 1) < 0.5 and abs(found["Sharpness"] - 1) < 0.3 and abs(found["Sharpness drift"]) < 0.06
    assert found["Colour"] < 0.6 and found["Colour drift"] < 0.7 and found["Identity drift"] < 2
    assert found["Longest freeze"] == 0 and found["A/V match"] > 2 and found["Silent mouth"] < 0.1
    assert found["Lip r best"] == found["Lip r"] and found["Width error"] < 0.02
    assert abs(found["Head motion"] - 100) < 5


def test_a_head_that_moves_half_as_far():
    someone = recording(PERSON, seed=3)
    middle = someone.poses.mean(0)
    stiff = dataclasses.replace(someone, poses=middle + (someone.poses - middle) / 2)
    assert abs(numbers(stiff.frames(), only="drawn")["Head motion"] - 50) < 5


def test_flicker_is_measured_exactly():
    """Greys of 100 and 104 in turn differ by 4 of 255; the last ten frames stand still."""
    frames, *_ = real()
    greys = np.where(np.arange(150) % 2, 104, 100)
    greys[140:] = greys[139]
    found = numbers(np.broadcast_to(greys[:, None, None, None], frames.shape).astype(np.uint8), only="flicker")
    assert found["Temporal-F"] == pytest.approx(1 - 4 * 139 / 149 / 255)
    assert found["Frozen"] == pytest.approx(100 * 10 / 149) and found["Longest freeze"] == pytest.approx(0.4)


@pytest.mark.parametrize("late", [-4, 3, 7])
def test_the_offset_follows_the_sound(late):
    """Sound `late` frames early makes pictures `late` frames late."""
    _, sound, _, _ = real()
    found = numbers(waveform=np.roll(sound, -late * 640), only="mouth")
    assert found["A/V offset"] - perfect()["A/V offset"] == pytest.approx(late, abs=0.1)


def test_shifting_the_sound():
    """Only the offset moves: no other metric listens, and the match does not mind."""
    _, sound, _, _ = real()
    check("shifting", numbers(waveform=np.roll(sound, -3 * 640)))


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
    check("freezing", found)  # a mouth that stands still goes with nothing


def test_blurring():
    frames, *_ = real()
    found = numbers(gaussian_filter(frames.astype(np.float32), (0, 1.0, 1.0, 0)).round().astype(np.uint8))
    assert found["Sharpness"] < 0.4
    check("blurring", found)


def test_recolouring():
    frames, *_ = real()
    found = numbers(np.clip(frames * [0.85, 1.0, 0.9] + [0, 0, 12], 0, 255).astype(np.uint8))
    check("recolouring", found)


def test_slow_recolouring_is_drift():
    frames, *_ = real()
    fading = 1 - 0.15 * np.linspace(0, 1, len(frames))[:, None, None, None]
    found = numbers((frames * fading).astype(np.uint8))
    assert found["Colour drift"] > perfect()["Colour drift"] + 5
    check("fading", found)


def test_cutting_to_another_person():
    frames, *_ = real()
    other = recording(OTHER, seed=3).frames(75)
    found = numbers(np.concatenate([frames[:75], other]))
    assert found["Identity drift"] > 30 and found["Identity"] > 15
    # Both go with the sound, but no cell holds both mouths; the other's own rests at 0.09.
    assert found["Silent mouth"] < 0.12
    check("cut", found)


def test_who_comes_back_sways_and_does_not_drift():
    frames, *_ = real()
    other = recording(OTHER, seed=3).frames(50)
    found = numbers(np.concatenate([frames[:50], other, frames[:50]]), only="drawn")
    assert found["Identity drift"] == 0 and found["Identity sway"] > 30


def test_chunks_that_do_not_join():
    found = numbers(with_jumps(0))
    assert found["Join jump"] > 1.5
    assert abs(found["A/V offset"] - perfect()["A/V offset"]) < 0.2
    check("joins", found)


def brighter(levels: float) -> np.ndarray:
    """The real video, so much brighter from the middle of its third chunk."""
    frames, *_ = real()
    return np.clip(frames + levels * (np.arange(len(frames)) >= 70)[:, None, None, None], 0, 255).astype(np.uint8)


def frozen_inside() -> np.ndarray:
    """The real video, that stands still for twenty frames inside its third chunk."""
    frames = real()[0].copy()
    frames[60:80] = frames[60]
    return frames


@pytest.mark.parametrize(
    "fault",
    [lambda: with_jumps(14), lambda: brighter(40), lambda: brighter(3), frozen_inside],
    ids=["jumps", "cut", "small", "freeze"],
)
def test_what_happens_inside_of_chunks_does_not_move_the_joins(fault):
    assert numbers(fault(), only="joins")["Join jump"] == pytest.approx(perfect()["Join jump"], abs=STILL["Join jump"])


@pytest.mark.parametrize("levels", [-40, 3, 40])
def test_one_jump_of_the_picture_does_not_move_the_match(levels):
    found = numbers(brighter(levels), only="mouth")
    assert set(found) == {"A/V match", "A/V offset", "Silent mouth"}
    for name, value in found.items():
        assert value == pytest.approx(perfect()[name], abs=STILL[name])


def test_a_cut_matches_no_sound():
    """What nobody in the picture says has no match, and gets none from a cut."""
    _, sound, *_ = real()
    backwards = sound[::-1].copy()
    before, found = numbers(None, backwards, only="mouth"), numbers(brighter(40), backwards, only="mouth")
    assert found["A/V match"] == pytest.approx(before["A/V match"], abs=STILL["A/V match"])
    assert found["A/V match"] < SURE and "A/V offset" not in found


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
