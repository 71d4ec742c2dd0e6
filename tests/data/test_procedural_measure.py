"""Measurements on pixels, against the truth of persons of the test split."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from livetalk_jax.data.procedural import measure
from livetalk_jax.data.procedural.dataset import Recording, person_numbers
from livetalk_jax.media import VideoWriter, read_video
from tests.data.procedural import recording

PERSONS = person_numbers("test")[5:7]


@pytest.fixture(scope="module")
def someone() -> tuple[Recording, np.ndarray, measure.FaceMeasure]:
    made = recording(PERSONS[0])
    return made, made.frames(), measure.FaceMeasure(made.who, made.scene)


def spoilt(frames: np.ndarray, how: str, folder) -> np.ndarray:
    if how == "blur":
        return gaussian_filter(frames, (0, 1.0, 1.0, 0))
    if how == "noise":
        return np.clip(frames + np.random.default_rng(0).normal(0, 5, frames.shape), 0, 255).astype(np.uint8)
    if how == "H.264":
        with VideoWriter(folder / "clip.mp4", 128, 128, fps=25, crf=23) as writer:
            writer.write_frames(frames)
        return read_video(folder / "clip.mp4").frames
    return frames


@pytest.mark.parametrize("how", ["as drawn", "H.264", "blur", "noise"])
def test_mouths_are_measured(someone, how, tmp_path):
    made, frames, meter = someone
    truth, found = made.truth(), meter(spoilt(frames, how, tmp_path))
    sync = measure.synchrony(found.openness, truth["openness"])
    assert sync.correlation > 0.98 and sync.lag == 0 and sync.error < 0.02
    assert measure.correlation(found.width, truth["width"]) > (0.95 if how == "as drawn" else 0.9)
    assert found.closed[truth["closed"]].mean() > 0.9
    assert (found.closed == (truth["openness"] < measure.CLOSED)).mean() > 0.95
    assert np.hypot(found.x - truth["mouth_x"], found.y - truth["mouth_y"]).mean() < 0.5
    assert np.abs(found.unit / truth["unit"] - 1).max() < 0.03


def test_other_sizes(someone):
    _, square, meter = someone
    found = meter(square[:20])
    for size in ((160, 96), (96, 160), (192, 192)):
        made = recording(PERSONS[0], size=size)
        other, truth = meter(made.frames(0, 20)), made.truth(0, 20)
        assert np.hypot(other.x - truth["mouth_x"], other.y - truth["mouth_y"]).max() < 1.0
        assert np.abs(other.openness - found.openness).mean() < 0.02


def test_persons_are_told_apart(someone):
    _, frames, meter = someone
    looks, other = meter(frames[:80]).looks, meter(recording(PERSONS[1]).frames(0, 20)).looks
    assert meter.identity_distance(looks[:40], looks[40:]) < 0.1
    assert meter.identity_distance(looks, other) > 0.3


def test_light_is_not_identity(someone):
    _, frames, meter = someone
    dim = np.clip(frames[:20] * [0.8, 0.9, 1.0] + 5, 0, 255).astype(np.uint8)
    assert meter.identity_distance(meter(frames[:20]).looks, meter(dim).looks) < 0.05


def test_background(someone):
    frames = someone[1]
    assert measure.background_distance(frames[:40], frames[40:]) < 0.5
    assert measure.background_distance(frames, recording(PERSONS[0], seed=1).frames(0, 20)) > 5


def test_noise_is_measured_without_complaint(someone):
    found = someone[2](np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8))
    assert all(np.isfinite(values).all() for values in found)


@pytest.mark.parametrize("late", [-3, 0, 5])
def test_lag_is_found(late):
    rng = np.random.default_rng(0)
    truth = gaussian_filter1d(rng.standard_normal(300), 2)
    measured = np.roll(truth, late) + 0.01 * rng.standard_normal(300)
    sync = measure.synchrony(measured, truth)
    assert sync.lag == late and sync.best > 0.95
    assert (sync.correlation > 0.95) == (late == 0)


def test_tracks_that_cannot_be_compared(someone):
    assert measure.correlation(np.ones(5), np.arange(5.0)) == 0
    with pytest.raises(ValueError, match="one length above 24 frames"):
        measure.synchrony(np.zeros(10), np.zeros(10))
    with pytest.raises(ValueError, match="uint8"):
        someone[2](np.zeros((2, 128, 128, 3), np.float32))
