"""Aspect buckets: every recording is fitted to the size of the configuration whose shape is nearest to its own."""

import numpy as np

from livetalk_jax import media

Size = tuple[int, int]
Crop = tuple[float, float, float, float] | None


def choose(picture: Size, crop: Crop, buckets: tuple[Size, ...]) -> Size:
    """The (height, width) of `buckets` nearest in aspect ratio to what is left of a picture (height, width) by `crop`."""
    left, top, right, bottom = crop or (0, 0, 1, 1)
    return media.nearest_bucket((round(picture[0] * (bottom - top)) or 1, round(picture[1] * (right - left)) or 1), buckets)


def fit(picture: np.ndarray, crop: Crop, bucket: Size) -> np.ndarray:
    """uint8 [Y, X, 3] -> [height, width, 3] of the bucket: cropped, scaled to cover, the middle cut out.

    Raises:
        ValueError: hardly any of the picture would be left.
    """
    if crop is not None:
        rows, columns = picture.shape[:2]
        left, top, right, bottom = crop
        picture = picture[round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)]
    return media.cover(np.ascontiguousarray(picture), *bucket)
