"""Frames of a person: the layers moved as the pose says, sampled at the picture's pixels and laid upon each other."""

import dataclasses

import numpy as np

from livetalk_jax.data.procedural.backdrop import draw_wall
from livetalk_jax.data.procedural.canvas import Grid
from livetalk_jax.data.procedural.face import Face, Mouth
from livetalk_jax.data.procedural.identity import Identity, Scene
from livetalk_jax.data.procedural.portrait import draw_portrait

DENSITY = 2  # texture pixels for each of the picture's
MARGIN = 0.1  # of the textures around what is seen at rest
PIVOT = (0.5, 0.60)  # the head turns around the top of the neck
SEAT = (0.5, 1.15)  # the body sways around the seat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pose:
    """Everything that moves but the mouth. Angles are in radians, distances in the drawing's coordinates.

    Attributes:
        yaw: head turned to the picture's right. pitch: nodded down. roll: leant to the picture's right.
        x, y: head moved. scale: nearer, a factor.
        body_x, body_roll: body moved and leant.
        blink, gaze_x, gaze_y, brow: as `Face.draw` takes them.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    body_x: float = 0.0
    body_roll: float = 0.0
    blink: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    brow: float = 0.0


def view(height: int, width: int, scene: Scene) -> Grid:
    """The picture's pixels: as near as a head with its hair fits in."""
    step = max(0.57 / width, 0.70 / height) / scene.framing
    return Grid(0.5 + scene.shift - step * width / 2, 0.425 - step * height * 0.5, step, height, width)


def _sample(texture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear: texture [rows, columns, 4] at float positions in pixels -> [..., 4]."""
    rows, columns = texture.shape[:2]
    x, y = np.clip(x, 0, columns - 1.001), np.clip(y, 0, rows - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    across, down = (x - left)[..., None], (y - top)[..., None]
    flat, index = texture.reshape(-1, 4), top * columns + left
    upper = flat.take(index, 0)
    upper += (flat.take(index + 1, 0) - upper) * across
    index += columns
    lower = flat.take(index, 0)
    lower += (flat.take(index + 1, 0) - lower) * across
    lower -= upper
    lower *= down
    lower += upper
    return lower


def _lay_over(picture: np.ndarray, layer: np.ndarray) -> None:
    picture *= 1 - layer[..., 3:]
    picture += layer[..., :3]


class Puppet:
    """A person in a scene, drawn once, who can then be seen in any pose.

    Args:
        height, width: of the pictures, at least 64.
    """

    def __init__(self, who: Identity, scene: Scene, height: int, width: int):
        self.who, self.scene = who, scene
        screen = self.screen = view(height, width, scene)
        step = screen.step / DENSITY
        rows, columns = (round(n * DENSITY + 2 * MARGIN / step) for n in (height, width))
        grid = Grid(screen.left - MARGIN, screen.top - MARGIN, step, rows, columns)
        portrait = draw_portrait(grid, who, scene)
        self.face = Face(portrait, who, scene)
        self._wall = draw_wall(screen, scene)
        self._body = portrait.body.pixels
        self._hair = portrait.hair.pixels if portrait.hair.pixels[..., 3].any() else None

    def _texels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grid = self.face.grid
        return (x - grid.left) / grid.step - 0.5, (y - grid.top) / grid.step - 0.5

    def _turned(self, pivot: tuple[float, float], x: float, y: float, roll: float, scale: float, rows: slice = slice(None)):
        """Where each pixel of the screen comes from, for a layer moved and turned around a pivot: [rows, columns] twice."""
        c, s = np.float32(np.cos(roll) / scale), np.float32(np.sin(roll) / scale)
        across, down = self.screen.x - (pivot[0] + x), self.screen.y[rows] - (pivot[1] + y)
        return pivot[0] + (c * across + s * down), pivot[1] + (-s * across + c * down)

    @staticmethod
    def depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How far the face stands out towards the viewer, for points of the head as it is seen from the front."""
        dome = np.exp(-(((x - 0.5) / 0.16) ** 2)) * np.exp(-(((y - 0.44) / 0.24) ** 2))
        nose = np.exp(-(((x - 0.5) / 0.035) ** 2)) * np.exp(-(((y - 0.49) / 0.05) ** 2))
        return 0.11 * dome + 0.035 * nose

    @classmethod
    def _depth_seen(cls, x: np.ndarray, y: np.ndarray, pose: Pose) -> np.ndarray:
        """The depth of what a pose shows at points: it was moved there by its depth, and half a step back is near enough."""
        return cls.depth(
            x - pose.x - 0.05 * np.float32(np.sin(pose.yaw)) - pose.roll * (PIVOT[1] - 0.44),
            y - pose.y - 0.05 * np.float32(np.sin(pose.pitch)),
        )

    @classmethod
    def seen(cls, pose: Pose, x: float, y: float) -> tuple[float, float]:
        """Where a pose shows a point of the head, both in the drawing's coordinates."""
        c, s = np.cos(pose.roll) * pose.scale, np.sin(pose.roll) * pose.scale
        at = np.array([x, y])
        for _ in range(4):
            depth = float(cls._depth_seen(at[:1], at[1:], pose)[0])
            across, down = x + depth * np.sin(pose.yaw) - PIVOT[0], y + depth * np.sin(pose.pitch) - PIVOT[1]
            at = np.array([PIVOT[0] + pose.x + c * across - s * down, PIVOT[1] + pose.y + s * across + c * down])
        return float(at[0]), float(at[1])

    def frame(self, mouth: Mouth, pose: Pose) -> np.ndarray:
        """uint8 [height, width, 3]."""
        picture = self._wall.copy()
        turn = np.float32(np.sin(pose.yaw)), np.float32(np.sin(pose.pitch))
        x, y = self._turned(PIVOT, pose.x, pose.y, pose.roll, pose.scale)
        if self._hair is not None:  # behind the head: it goes the other way
            _lay_over(picture, _sample(self._hair, *self._texels(x + 0.05 * turn[0], y + 0.05 * turn[1])))
        _lay_over(picture, _sample(self._body, *self._texels(*self._turned(SEAT, pose.body_x, 0.0, pose.body_roll, 1.0))))
        depth = self._depth_seen(self.screen.x, self.screen.y, pose)
        head = self.face.draw(mouth, pose.blink, (pose.gaze_x, pose.gaze_y), pose.brow)
        _lay_over(picture, _sample(head, *self._texels(x - depth * turn[0], y - depth * turn[1])))
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
