"""The portrait's way from a file to the network's input."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from livetalk_jax.media import SAMPLES, load_image, nearest_bucket, prepare_portrait
from tests.stream import GOLDEN, relative_error


def test_equals_published():
    golden = load_file(GOLDEN / "image_preparation.safetensors")
    pixels = prepare_portrait(golden["in/image"], 48, 32)
    assert pixels.dtype == np.float32
    assert relative_error(pixels, golden["out/pixels"][0, :, 0].transpose(1, 2, 0)) < 1e-6


@pytest.mark.parametrize("size", [(70, 50), (50, 70), (48, 32), (96, 64), (1, 1), (3, 2), (1318, 2366), (417, 721), (719, 415)])
@pytest.mark.parametrize("target", [(48, 32), (32, 48), (720, 416)])
def test_fills_the_picture(size, target):
    image = np.full((*size, 3), 51, np.uint8)
    pixels = prepare_portrait(image, *target)
    assert pixels.shape == (*target, 3)
    np.testing.assert_allclose(pixels, 51 / 127.5 - 1, atol=1e-6)


def test_range_and_centre():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 255
    pixels = prepare_portrait(image, 40, 40)
    assert (pixels == 1).all()
    assert (prepare_portrait(255 - image, 40, 40) == -1).all()


@pytest.mark.parametrize(("extra", "left"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4)])
def test_odd_margins_round_as_torchvision_does(extra, left):
    """Halves go to the even number: int(round(extra / 2))."""
    image = np.zeros((32, 32 + extra, 3), np.uint8)
    image[:, left] = 200
    assert (prepare_portrait(image, 32, 32)[:, 0] > 0).all()


def test_elongated_picture_is_an_error():
    with pytest.raises(ValueError, match="5000×10 is too elongated to fill 32×48"):
        prepare_portrait(np.zeros((10, 5000, 3), np.uint8), 48, 32)


BUCKETS = ((720, 416), (416, 720), (512, 512))


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1318, 2366), (416, 720)),
        ((2366, 1318), (720, 416)),
        ((500, 480), (512, 512)),
        ((720, 416), (720, 416)),
        ((100, 1), (720, 416)),
        ((131, 100), (512, 512)),  # the middle of 1 and 720/416 is 1.3156, by ratio it would be 1.365
        ((132, 100), (720, 416)),
        ((100, 131), (512, 512)),
        ((100, 132), (416, 720)),
    ],
)
def test_nearest_bucket(size, bucket):
    assert nearest_bucket(size, BUCKETS) == bucket


def test_first_of_equal_buckets():
    assert nearest_bucket((100, 100), ((720, 416), (416, 720))) == (720, 416)


def test_shipped_portrait():
    path = SAMPLES / "portrait.png"
    assert path.stat().st_size <= 250 * 1024
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (512, 512))
    pixels = prepare_portrait(load_image(path), 128, 128)
    assert pixels.std() > 0.2
