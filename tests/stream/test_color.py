"""Colour match against the published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from livetalk_jax.parallel.seams import Parallel
from livetalk_jax.stream.color import lab_statistics, lab_to_rgb, match_colors, rgb_to_lab
from tests.stream import GOLDEN, relative_error


@pytest.fixture(scope="module")
def golden():
    """Channels-last [B, F, Y, X, 3]."""
    return {name: np.moveaxis(array, 1, -1) for name, array in load_file(GOLDEN / "color_correction.safetensors").items()}


@pytest.mark.parametrize(("strength", "name"), [(1.0, "out/full"), (0.5, "out/half")])
def test_equals_published(golden, strength, name):
    statistics = lab_statistics(golden["in/reference"])
    matched = jax.jit(match_colors, static_argnums=2)(golden["in/video"], statistics, strength)
    assert relative_error(matched, golden[name]) < 1e-5


def test_matched_frames_have_the_references_statistics(golden):
    # In the middle of the colours, where nothing is clamped.
    reference, video = 0.2 * golden["in/reference"], 0.3 * golden["in/video"]
    statistics = lab_statistics(reference)
    lab = rgb_to_lab((match_colors(video, statistics, 1.0) + 1) / 2)
    np.testing.assert_allclose(lab.mean((2, 3), keepdims=True), np.broadcast_to(statistics.mean, (1, 4, 1, 1, 3)), atol=2e-2)
    np.testing.assert_allclose(
        lab.std((2, 3), keepdims=True), np.broadcast_to(statistics.deviation, (1, 4, 1, 1, 3)), rtol=2e-3, atol=2e-2
    )


def test_lab_round_trip():
    rgb = np.random.default_rng(0).uniform(0, 1, (1, 2, 8, 8, 3)).astype(np.float32)
    rgb[0, 0, 0, :3] = [[0, 0, 0], [1, 1, 1], [0.02, 0.01, 0.03]]
    np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=2e-3)
    np.testing.assert_allclose(rgb_to_lab(rgb)[0, 0, 0, 1], [100, 0, 0], atol=1e-2)


def test_strength_zero_is_the_video_itself(golden):
    assert match_colors(golden["in/video"], lab_statistics(golden["in/reference"]), 0.0) is golden["in/video"]


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_outside_is_an_error(golden, strength):
    with pytest.raises(ValueError, match="between 0 and 1"):
        match_colors(golden["in/video"], lab_statistics(golden["in/reference"]), strength)


def test_one_colour_frame_takes_the_references_mean(golden):
    statistics = lab_statistics(0.2 * golden["in/reference"])
    matched = match_colors(jnp.full((1, 2, 8, 8, 3), 0.3), statistics, 1.0)
    assert np.isfinite(matched).all()
    np.testing.assert_allclose(matched[0, 1, 3, 5], 2 * lab_to_rgb(statistics.mean)[0, 0, 0, 0] - 1, atol=1e-3)


def test_values_beyond_the_range_stay_finite(golden):
    matched = match_colors(3 * golden["in/video"], lab_statistics(golden["in/reference"]), 1.0)
    assert np.isfinite(matched).all()
    assert np.abs(matched).max() <= 1


def test_bfloat16_is_computed_in_float32(golden):
    video = jnp.asarray(golden["in/video"], jnp.bfloat16)
    statistics = lab_statistics(golden["in/reference"])
    matched = match_colors(video, statistics, 1.0)
    assert matched.dtype == jnp.bfloat16
    assert (matched == match_colors(video.astype(jnp.float32), statistics, 1.0).astype(jnp.bfloat16)).all()


def test_sharded_picture_gives_the_same_answer(golden):
    """Two halves of the rows, as two devices hold them, with means over both."""
    parallel = Parallel(mean=lambda x, axes: jax.lax.pmean(jnp.mean(x, axes, keepdims=True), "rows"))

    def halves(x):
        return jnp.stack(jnp.split(x, 2, axis=2))

    def run(video, reference):
        return match_colors(video, lab_statistics(reference, parallel), 1.0, parallel)

    matched = jax.vmap(run, axis_name="rows")(halves(golden["in/video"]), halves(golden["in/reference"]))
    assert relative_error(jnp.concatenate(list(matched), 2), golden["out/full"]) < 1e-5
