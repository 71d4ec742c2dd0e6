"""What a session knows before anybody speaks: persons' masks against the published path, mask and reference, first motion."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from livetalk_jax.nn.rotary import rotary_3d
from livetalk_jax.shapes import Geometry
from livetalk_jax.stream.conditioning import default_boxes, person_masks, prepare, reference_video

SMALL = Geometry(32, 48, 13, 5)
PORTRAIT = np.random.default_rng(0).uniform(-1, 1, (1, 1, 32, 48, 3)).astype(np.float32)


def published_masks(image_size, boxes, geometry):
    """Drawn on the image, then the published way: cover resize, centre crop, nearest to latents and to tokens."""
    rows, columns = image_size
    drawn = torch.zeros(1, 3, rows, columns)
    for person, (left, top, right, bottom) in enumerate(boxes):
        drawn[0, person, top:bottom, left:right] = 1
    drawn[0, 2] = (drawn[0, :2].sum(0) == 0).float()
    scale = max(geometry.height / rows, geometry.width / columns)
    size = math.ceil(scale * rows), math.ceil(scale * columns)
    top, left = round((size[0] - geometry.height) / 2.0), round((size[1] - geometry.width) / 2.0)
    masks = torch.nn.functional.interpolate(drawn, size=size, mode="nearest")
    masks = masks[:, :, top : top + geometry.height, left : left + geometry.width]
    for grid in (geometry.latent_grid, geometry.token_grid):
        masks = (torch.nn.functional.interpolate(masks, size=grid[1:], mode="nearest") > 0).float()
    return masks[0].reshape(3, -1).numpy()


@pytest.mark.parametrize("video", [(720, 416), (416, 720), (768, 448), (128, 128)])
@pytest.mark.parametrize("image", [(1318, 2366), (720, 416), (300, 300), (61, 247), (999, 1001), (1053, 378), (604, 205)])
def test_masks_as_published(image, video):
    geometry = Geometry(*video, 33, 5)
    rows, columns = image
    left, right = (0, 0, columns // 2, rows), (columns // 2, 0, columns, rows)
    overlapping = (columns // 5, rows // 7, columns * 2 // 3, rows), (columns // 3, 0, columns - 1, rows * 3 // 4)
    for boxes in (default_boxes(image), (left, right), overlapping):
        masks = person_masks(image, boxes, geometry)
        assert masks.dtype == np.float32
        np.testing.assert_array_equal(masks, published_masks(image, boxes, geometry))


def test_masks_at_every_border():
    """Scaled sizes are rounded up and ratios are float32: a box's edge must fall where torch lets it fall."""
    random = np.random.default_rng(0)
    geometry = Geometry(416, 720, 33, 5)
    for image in ((604, 205), (218, 702), (1053, 378), (86, 269)):
        for _ in range(20):
            (top, bottom), (left, right) = (np.sort(random.choice(n + 1, 2, replace=False)).tolist() for n in image)
            boxes = (left, top, right, bottom), (0, 0, image[1], image[0])
            expected = published_masks(image, boxes, geometry)
            if expected[0].any():
                np.testing.assert_array_equal(person_masks(image, boxes, geometry), expected)
            else:
                with pytest.raises(ValueError, match="covers nothing of the cropped picture"):
                    person_masks(image, boxes, geometry)


def test_masks_know_left_from_right():
    masks = person_masks((100, 200), [(0, 0, 100, 100), (100, 0, 200, 50)], Geometry(64, 128, 33, 5)).reshape(3, 4, 8)
    np.testing.assert_array_equal(masks[0], [[1, 1, 1, 1, 0, 0, 0, 0]] * 4)
    np.testing.assert_array_equal(masks[1], [[0, 0, 0, 0, 1, 1, 1, 1]] * 2 + [[0] * 8] * 2)
    np.testing.assert_array_equal(masks[2], [[0] * 8] * 2 + [[0, 0, 0, 0, 1, 1, 1, 1]] * 2)


def test_default_boxes():
    assert default_boxes((1318, 2366)) == ((59, 65, 1123, 1252), (1242, 65, 2306, 1252))


@pytest.mark.parametrize(
    ("boxes", "line"),
    [
        ([(0, 0, 50, 50)], "^two persons need two boxes, not 1$"),
        ([(0, 0, 50, 50)] * 3, "^two persons need two boxes, not 3$"),
        ([(0, 0, 50, 50), (50, 0, 50, 50)], r"^box 2 \(50,0,50,50\) is not left,top,right,bottom inside the 200×100 image$"),
        ([(50, 0, 0, 50), (0, 0, 50, 50)], r"^box 1 \(50,0,0,50\) is not left,top,right,bottom inside the 200×100 image$"),
        ([(0, 0, 201, 50), (0, 0, 50, 50)], r"^box 1 .*inside the 200×100 image$"),
        ([(0, 0, 50, 101), (0, 0, 50, 50)], r"^box 1 .*inside the 200×100 image$"),
        ([(0, -1, 50, 50), (0, 0, 50, 50)], r"^box 1 .*inside the 200×100 image$"),
        ([(0, 0, 50, 50), (60, 60, 61, 61)], r"^box 2 \(60,60,61,61\) covers nothing of the cropped picture; make it larger$"),
    ],
)
def test_boxes_that_do_not_do(boxes, line):
    with pytest.raises(ValueError, match=line):
        person_masks((100, 200), boxes, Geometry(64, 128, 33, 5))


@pytest.fixture(scope="module")
def prepared(networks, small):
    """Conditions and first motion with a negative prompt and two persons."""
    shape = (2, 1, small.model.dit.text_len, small.model.dit.text_dim)
    text = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    masks = np.ones((3, 6), np.float32)
    run = jax.jit(lambda dit, vae, clip: prepare(dit, vae, clip, PORTRAIT, text[0], text[1], masks, SMALL, "first"))
    return run(networks.dit, networks.vae, networks.clip)


def test_reference(networks, prepared):
    """Four mask channels, one on the portrait's frame alone, then the latents of portrait and blank frames."""
    reference = np.asarray(prepared[0].reference)
    assert reference.shape == (1, *SMALL.latent_grid, 20)
    np.testing.assert_array_equal(reference[..., :4], np.broadcast_to(np.arange(4)[:, None, None, None] == 0, (1, 4, 4, 6, 4)))
    video = np.concatenate([PORTRAIT, np.zeros((1, 12, 32, 48, 3), np.float32)], 1)
    latents = jax.jit(lambda vae, x: vae.encode(x))(networks.vae, video)
    np.testing.assert_allclose(reference[..., 4:], latents, atol=1e-5)


def test_reference_of_all_frames(networks, small):
    """The portrait over and over: encoded as the still video that it is."""
    video = np.repeat(PORTRAIT, 13, 1)
    np.testing.assert_array_equal(reference_video(PORTRAIT, 13, "all"), video)
    text, run = (
        np.zeros((1, small.model.dit.text_len, small.model.dit.text_dim), np.float32),
        jax.jit(prepare, static_argnums=(7, 8)),
    )
    conditions, _ = run(networks.dit, networks.vae, networks.clip, PORTRAIT, text, None, None, SMALL, "all")
    latents = jax.jit(lambda vae, x: vae.encode(x))(networks.vae, video)
    np.testing.assert_allclose(conditions.reference[..., 4:], latents, atol=1e-5)


def test_first_motion_is_the_portrait(prepared):
    """One frame of two: the VAE is causal, so it is the reference's first frame as well."""
    conditions, motion = prepared
    assert motion.latents.shape == (1, 2, 4, 6, 16)
    assert (motion.known, motion.known.dtype) == (1, jnp.int32)
    np.testing.assert_allclose(motion.latents[:, :1], conditions.reference[:, :1, ..., 4:], atol=1e-5)
    assert not motion.latents[:, 1:].any()


def test_rotary_tables_are_those_of_the_tokens(networks, prepared):
    expected = rotary_3d(SMALL.token_grid, networks.dit.config.head_dim)
    for ours, table in zip(prepared[0].rope, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(ours).reshape(SMALL.tokens, -1), table)


def test_prompts_differ_in_their_text_alone(prepared):
    conditions, _ = prepared
    assert len(conditions.context) == len(conditions.negative) == 1
    for ours, others in zip(conditions.context, conditions.negative, strict=True):
        np.testing.assert_array_equal(ours.image_k, others.image_k)
        assert not np.allclose(ours.text_k, others.text_k)
