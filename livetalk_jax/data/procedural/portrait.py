"""What of a person is drawn once: hair behind, body, head without eyes and mouth, and what lies over them."""

import dataclasses

import numpy as np

from livetalk_jax.data.procedural.backdrop import draw_body
from livetalk_jax.data.procedural.canvas import Grid, Layer
from livetalk_jax.data.procedural.hair import draw_back_hair, draw_over
from livetalk_jax.data.procedural.head import draw_head
from livetalk_jax.data.procedural.identity import Identity, Scene
from livetalk_jax.data.procedural.style import lamp


@dataclasses.dataclass(frozen=True)
class Portrait:
    """A person's layers on one grid. `over` lies over the eyes and the mouth: hair of the front, glasses."""

    grid: Grid
    hair: Layer
    body: Layer
    head: Layer
    over: Layer


def draw_portrait(grid: Grid, who: Identity, scene: Scene) -> Portrait:
    """All layers, softened by one pixel: sampled at half the density, nothing is jagged."""
    head = draw_head(grid, who, scene)
    over = draw_over(grid, who, scene, head)
    head.pixels[..., :3] *= lamp(scene)
    layers = [draw_back_hair(grid, who, scene), draw_body(grid, who, scene), head, over]
    for layer in layers:
        for axis in (0, 1):
            padded = np.concatenate([np.take(layer.pixels, [0], axis), layer.pixels, np.take(layer.pixels, [-1], axis)], axis)
            size = layer.pixels.shape[axis]
            parts = [np.take(padded, range(k, k + size), axis) for k in range(3)]
            layer.pixels = 0.25 * parts[0] + 0.5 * parts[1] + 0.25 * parts[2]
    return Portrait(grid, *layers)
