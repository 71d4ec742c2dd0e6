"""The stream's geometry at the published sizes, and sizes that do not fit."""

import pytest

from livetalk_jax.shapes import Geometry, latent_frames


@pytest.mark.parametrize(
    ("size", "latents", "tokens", "count"),
    [
        ((720, 416, 33, 5), (9, 90, 52), (9, 45, 26), 10_530),
        ((416, 720, 33, 5), (9, 52, 90), (9, 26, 45), 10_530),
        ((768, 448, 33, 5), (9, 96, 56), (9, 48, 28), 12_096),
        ((640, 640, 81, 9), (21, 80, 80), (21, 40, 40), 33_600),
        ((16, 16, 5, 1), (2, 2, 2), (2, 1, 1), 2),
    ],
)
def test_geometry(size, latents, tokens, count):
    geometry = Geometry(*size)
    assert geometry.latent_grid == latents
    assert geometry.token_grid == tokens
    assert geometry.tokens == count


@pytest.mark.parametrize(
    ("frames", "motion", "latents", "first", "new"), [(33, 5, 2, 4, 28), (81, 9, 3, 9, 72), (33, 1, 1, 3, 32), (5, 1, 1, 2, 4)]
)
def test_motion(frames, motion, latents, first, new):
    geometry = Geometry(32, 32, frames, motion)
    assert geometry.motion_latents == latents
    assert geometry.first_latents == first
    assert geometry.new_frames == new


def test_latent_frames():
    assert [latent_frames(n) for n in (1, 5, 9, 33, 81)] == [1, 2, 3, 9, 21]


@pytest.mark.parametrize("frames", [-3, 0, 2, 3, 4, 32, 34, 80])
def test_frames_that_the_vae_does_not_take(frames):
    line = rf"^a video of {frames} frames does not fit the VAE: it must have 4n\+1 frames \(1, 5, …, 33, …, 81\)$"
    with pytest.raises(ValueError, match=line):
        latent_frames(frames)
    with pytest.raises(ValueError, match=line):
        Geometry(720, 416, frames, 1)
    with pytest.raises(ValueError, match=line):
        Geometry(720, 416, 33, frames)


@pytest.mark.parametrize(
    ("height", "width", "line"),
    [
        (721, 416, "^height 721 is not a multiple of 16; the nearest that fits is 720$"),
        (720, 430, "^width 430 is not a multiple of 16; the nearest that fits is 432$"),
        (100, 100, "^height 100 is not a multiple of 16; the nearest that fits is 96$"),
        (0, 416, "^height 0 is not a multiple of 16; the nearest that fits is 16$"),
        (720, -16, "^width -16 is not a multiple of 16; the nearest that fits is 16$"),
        (7, 416, "^height 7 is not a multiple of 16; the nearest that fits is 16$"),
    ],
)
def test_sizes_that_do_not_fit(height, width, line):
    with pytest.raises(ValueError, match=line):
        Geometry(height, width, 33, 5)


@pytest.mark.parametrize("motion", [33, 37])
def test_motion_must_leave_room(motion):
    with pytest.raises(ValueError, match=f"^motion_frames {motion} must be fewer than the chunk's 33 frames$"):
        Geometry(720, 416, 33, motion)
