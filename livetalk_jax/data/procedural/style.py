"""Colours and places that all parts of a drawn person share."""

import numpy as np

from livetalk_jax.data.procedural.identity import Identity, Scene, mix

CHIN = 0.667


EYES = 0.414


class Palette:
    """Colours of a skin under a light."""

    def __init__(self, who: Identity):
        skin = np.array(who.skin)
        self.base = skin
        self.dark = skin * [0.74, 0.62, 0.59]
        self.light = skin + (255 - skin) * np.array([0.55, 0.45, 0.4])
        self.blush = np.array(mix(skin * [0.98, 0.66, 0.64], (214, 84, 84), 0.25))
        # Shadows multiply; light skin turns redder in them.
        self.shadow = np.array([0.80, 0.70, 0.66])


def soften(shadow, amount: float) -> np.ndarray:
    """A shading factor made weaker (amount < 1) or stronger."""
    return 1 + (np.asarray(shadow, float) - 1) * amount


def lamp(scene: Scene) -> np.ndarray:
    """The light's colour, a factor for each channel."""
    return (scene.brightness * np.array([1 + scene.warmth, 1, 1 - 1.3 * scene.warmth])).astype(np.float32)
