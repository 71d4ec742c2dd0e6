"""Drawn persons: the same every time, in any size, fast, and with nothing moving but what should."""

import dataclasses
import time

import numpy as np
import pytest

from livetalk_jax.data.procedural import motion
from livetalk_jax.data.procedural.face import FACE_UNIT, REST, Mouth
from livetalk_jax.data.procedural.identity import HAIR_STYLES, make_identity, make_scene
from livetalk_jax.data.procedural.measure import background_mask
from livetalk_jax.data.procedural.render import Pose, Puppet, view
from livetalk_jax.media import SAMPLES, load_image


@pytest.fixture(scope="module")
def puppet() -> Puppet:
    return Puppet(make_identity(21), make_scene(3), 128, 128)


def window(puppet: Puppet, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
    return puppet.screen.window(left, top, right, bottom)


def test_the_same_numbers_give_the_same_picture(puppet):
    mouth, pose = Mouth(openness=0.4), Pose(yaw=0.1, blink=0.3)
    again = Puppet(make_identity(21), make_scene(3), 128, 128)
    first = puppet.frame(mouth, pose)
    puppet.frame(Mouth(openness=1.0), Pose(roll=0.05))  # a frame leaves nothing behind
    np.testing.assert_array_equal(first, puppet.frame(mouth, pose))
    np.testing.assert_array_equal(first, again.frame(mouth, pose))
    assert make_identity(5) == make_identity(5) != make_identity(6)


@pytest.mark.parametrize("size", [(160, 96), (96, 160), (128, 128), (200, 300), (64, 64)])
def test_any_size(size):
    frame = Puppet(make_identity(2), make_scene(1), *size).frame(REST, Pose())
    assert frame.shape == (*size, 3) and frame.dtype == np.uint8
    assert frame.std() > 20


def test_every_hair_style_can_be_drawn():
    seen: dict[str, int] = {}
    for number in range(400):
        seen.setdefault(make_identity(number).hair, number)
    assert set(seen) == {name for name, _ in HAIR_STYLES}
    for number in seen.values():
        assert Puppet(make_identity(number), make_scene(number), 64, 64).frame(REST, Pose()).std() > 15


def test_small_and_large_pictures_are_the_same_person():
    who, scene = make_identity(21), make_scene(3)
    mouth, pose = Mouth(openness=0.6), Pose(yaw=0.1)
    large = Puppet(who, scene, 256, 256).frame(mouth, pose).reshape(128, 2, 128, 2, 3).mean((1, 3))
    small = Puppet(who, scene, 128, 128).frame(mouth, pose)
    assert np.abs(large - small).mean() < 3


def test_only_the_mouth_moves_when_it_speaks(puppet):
    changed = np.abs(puppet.frame(Mouth(openness=0.8), Pose()).astype(int) - puppet.frame(REST, Pose())).max(-1)
    mouth = window(puppet, 0.3, 0.5, 0.7, 0.78)
    assert changed[mouth].max() > 60
    changed[mouth] = 0
    assert changed.max() == 0


def test_only_the_eyes_move_in_a_blink(puppet):
    changed = np.abs(puppet.frame(REST, Pose(blink=1.0)).astype(int) - puppet.frame(REST, Pose())).max(-1)
    eyes = window(puppet, 0.36, 0.36, 0.64, 0.46)
    assert changed[eyes].max() > 60
    changed[eyes] = 0
    assert changed.max() == 0


def test_the_wall_stands_still_and_the_head_does_not(puppet):
    rng = np.random.default_rng(0)
    poses = [motion.pose_of(row) for row in motion.make_poses(rng, 200, 25)[::40]]
    frames = np.stack([puppet.frame(REST, pose) for pose in poses]).astype(int)
    wall = background_mask(128, 128)
    assert 0.02 < wall.mean() < 0.3
    assert np.abs(frames - frames[0])[:, wall].max() == 0
    assert np.abs(frames - frames[0])[1:, ~wall].max() > 40


@pytest.mark.parametrize("size", [(128, 128), (160, 96), (96, 160)])
@pytest.mark.parametrize("number", range(0, 60, 6))
def test_nobody_covers_much_of_the_wall_that_is_measured(number, size):
    someone = Puppet(make_identity(number), make_scene(number), *size)
    far = Pose(yaw=0.15, roll=0.05, x=0.012, scale=1.01)
    near = dataclasses.replace(far, yaw=-0.15, roll=-0.05, x=-0.012)
    frames = np.stack([someone.frame(REST, pose) for pose in (far, near)]).astype(int)
    wall = background_mask(*size)
    assert wall.sum() > 150
    assert (np.abs(frames[0] - frames[1]).max(-1)[wall] > 4).mean() < 0.3


def test_a_hundredth_of_a_pixel_moves_the_picture_a_hundredth(puppet):
    """No jagged edges: what moves by little changes by little."""
    step = puppet.screen.step
    here, there = (puppet.frame(REST, Pose(x=x)).astype(int) for x in (0.0, 0.02 * step))
    assert np.abs(here - there).max() <= 6


def test_the_gap_between_the_lips_is_what_the_truth_says():
    """Counted in the picture: dark, teeth and tongue between the lips along the middle, at three times the size."""
    who = dataclasses.replace(make_identity(21), lip_color=(0.0, 255.0, 0.0), beard="none")
    someone = Puppet(who, dataclasses.replace(make_scene(0), warmth=0.0, brightness=1.0, shift=0.0, framing=1.0), 384, 384)
    column = someone.screen.window(0.5, 0.4, 0.5, 0.8)[1].start
    for openness in (0.25, 0.5, 1.0):
        frame = someone.frame(Mouth(openness=openness, teeth=0.0), Pose()).astype(int)[:, column - 1 : column + 2].mean(1)
        rows = someone.screen.window(0.4, who.mouth_y - 0.06, 0.6, who.mouth_y + 0.1)[0]
        lips = np.flatnonzero((frame[rows, 1] - frame[rows, 0]) > 60)
        gap = np.diff(lips).max() - 1
        assert gap * someone.screen.step == pytest.approx(openness * who.gape, abs=4 * someone.screen.step)


def test_where_the_mouth_is_seen():
    someone = Puppet(make_identity(21), make_scene(3), 256, 256)
    for pose in (Pose(), Pose(yaw=0.18, roll=0.05, x=0.01), Pose(pitch=0.1, yaw=-0.15, scale=1.02, y=-0.01)):
        change = np.abs(someone.frame(Mouth(press=1.0), pose).astype(float) - someone.frame(REST, pose)).sum(-1)
        across, down = (change.sum(axis) @ np.arange(256) / change.sum() + 0.5 for axis in (0, 1))
        x, y = Puppet.seen(pose, 0.5, someone.who.mouth_y)
        screen = someone.screen
        assert across == pytest.approx((x - screen.left) / screen.step, abs=2.5)
        assert down == pytest.approx((y - screen.top) / screen.step, abs=2.5)


def test_motion_is_slow_and_stays_in_its_bounds():
    poses = motion.make_poses(np.random.default_rng(1), 2000, 25)
    columns = dict(zip(motion.PARTS, poses.T, strict=True))
    for name, most, step in (("yaw", 0.2, 0.025), ("pitch", 0.11, 0.02), ("roll", 0.08, 0.01), ("x", 0.035, 0.003)):
        assert np.abs(columns[name]).max() <= most + 1e-6
        assert columns[name].std() > most / 8
        assert np.abs(np.diff(columns[name])).max() < step
    assert columns["blink"].max() > 0.9 and (columns["blink"] > 0.5).mean() < 0.15
    assert (np.diff((columns["blink"] > 0.5).astype(int)) == 1).sum() > 10


def test_frames_are_drawn_fast_enough_for_hours_of_video(puppet):
    """The floor is low, for shared machines; docs/procedural.md has what was measured."""
    begun = time.thread_time()
    for k in range(40):
        puppet.frame(Mouth(openness=k / 40), Pose(yaw=k / 400))
    assert 40 / (time.thread_time() - begun) > 50


def test_the_shipped_portrait_is_of_this_style():
    portrait = load_image(SAMPLES / "portrait.png")
    screen = view(512, 512, dataclasses.replace(make_scene(0), framing=1.0, shift=0.0))
    assert portrait.shape == (512, 512, 3)
    assert FACE_UNIT / screen.step == pytest.approx(102.4)
