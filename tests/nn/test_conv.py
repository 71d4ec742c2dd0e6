"""Ways to convolve a video: each is the convolution that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livetalk_jax.nn import conv


@pytest.mark.parametrize("way", [conv._cpu_conv3d, conv._gpu_conv3d])
@pytest.mark.parametrize(
    ("into", "out", "taps", "stride", "edge", "frames"),
    [
        (3, 8, 3, 1, 3, 7),
        (8, 16, 3, 1, 3, 12),
        (16, 16, 3, 2, 1, 9),
        (32, 64, 3, 1, 3, 5),
        (64, 128, 3, 1, 1, 6),
        (16, 8, 1, 1, 3, 5),
    ],
)
def test_a_video_is_convolved(way, into, out, taps, stride, edge, frames):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, frames, 6, 5, into))
    kernel = jax.random.normal(keys[1], (taps, edge, edge, into, out)) / (into * taps * edge * edge) ** 0.5

    def both(convolve):
        made = convolve(x, kernel, (stride, 1, 1))
        return made, jax.grad(lambda kernel: jnp.sum(jnp.sin(convolve(x, kernel, (stride, 1, 1)))))(kernel)

    for ours, expected in zip(both(way), both(conv._conv), strict=True):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
