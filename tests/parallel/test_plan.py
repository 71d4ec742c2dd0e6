"""Plans: what is chosen, how it is explained, and what is refused with the nearest plan that works."""

import math

import pytest

from livetalk_jax.parallel.mesh import axes
from livetalk_jax.parallel.plan import Plan, make_plan, parse_pair, valid_plans

GRID = (45, 26)  # 720×416


@pytest.mark.parametrize(
    ("devices", "name", "padding"),
    [
        (1, "u1r1-g1x1", 0),
        (2, "u2r1-g1x2", 0),
        (4, "u4r1-g2x2", 1 / 45),
        (5, "u5r1-g5x1", 0),
        (8, "u8r1-g4x2", 3 / 45),
        (16, "u8r2-g8x2", 3 / 45),
        (3, "u1r3-g3x1", 0),
    ],
)
def test_default(devices, name, padding):
    plan = make_plan(devices, 40, GRID)
    assert plan.name == name
    assert plan.padding(GRID) == pytest.approx(padding)
    assert plan.devices == devices


def test_default_exists_for_every_number_of_devices_up_to_64():
    assert all(make_plan(n, 40, GRID).devices == n for n in (2, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64))


def test_no_padding_at_768x448_on_eight():
    assert make_plan(8, 40, (48, 28)).padding((48, 28)) == 0


def test_ulysses_stays_inside_a_host():
    assert make_plan(16, 40, GRID, per_host=4).name == "u4r4-g8x2"
    assert make_plan(8, 40, GRID, per_host=4).ulysses == 4


def test_one_plan_for_several_sizes():
    sizes = [(45, 26), (26, 45), (34, 34)]
    plan = make_plan(8, 40, *sizes)
    assert plan.ulysses == 8 and plan.problem(40, *sizes) is None
    assert make_plan(8, 40, (5, 8)).rows == 1
    assert make_plan(8, 40, (8, 5)).columns == 1
    with pytest.raises(ValueError, match=r"8 rows of devices are more than the picture's 5 token rows; .* grid"):
        make_plan(8, 40, (8, 5), (5, 8), grid="8x1")


def test_explanation():
    line = make_plan(8, 40, GRID, head_groups=5).explain(40, GRID)
    assert line == (
        "8 devices; Ulysses 8 (5 of 40 heads each) × ring 1; grid 4×2 of 45×26 tokens, 12×13 each (6.7% padding); "
        "heads in 5 groups; VAE with exact halos"
    )
    assert make_plan(1, 40, GRID).explain(40, GRID) == "1 device: all 40 heads and 45×26 tokens a frame"
    assert "2 copies × 2 with shared weights × 2 a video" in make_plan(8, 40, GRID, data=2, fsdp=2).explain(40, GRID)


def test_names_are_unique():
    plans = list(valid_plans(8, 40, GRID))
    assert len({plan.name for plan in plans}) == len(plans) > 10


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"sequence": "3x1"}, "sequence 3x1 is 3 devices, but one video has 8; the nearest plan that works: sequence"),
        ({"grid": "8x3"}, "grid 8x3 is 24 devices, but one video has 8"),
        ({"head_groups": 3}, "3 head groups do not divide the 5 heads of a device; the nearest plan that works: .*head_groups 1"),
        ({"sequence": "fast"}, "sequence must be auto or two numbers such as 4x2, not 'fast'"),
        ({"data": 3}, "8 devices cannot be split into data 3 × fsdp 1"),
        ({"grid": "4x2", "vae_split": "overlap"}, "overlapping VAE tiles need equal parts, but 90 latent rows on 4 rows are not"),
    ],
)
def test_refused(asked, line):
    with pytest.raises(ValueError, match=line):
        make_plan(8, 40, GRID, **asked)


def test_refused_by_the_model_and_the_picture():
    with pytest.raises(ValueError, match=r"Ulysses 6 does not divide the model's 4 heads; .* sequence 2x3, grid 1x6"):
        make_plan(6, 4, (10, 6), sequence="6x1")
    with pytest.raises(ValueError, match=r"8 rows of devices are more than the picture's 5 token rows; .* grid 4x2"):
        make_plan(8, 40, (5, 8), grid="8x1")
    with pytest.raises(ValueError, match="2 columns and Ulysses 5 cut the line of devices across each other"):
        make_plan(10, 40, GRID, sequence="5x2", grid="5x2")
    with pytest.raises(ValueError, match="leaves part 4 of the ring with nothing but padding"):
        make_plan(4, 40, (5, 3), sequence="1x4", grid="4x1")
    with pytest.raises(ValueError, match="no plan for 6 devices has a grid for 2×2 tokens; 4 devices have"):
        make_plan(6, 40, (2, 2))


def test_every_refusal_names_a_plan_that_works():
    for sequence in ("5x1", "1x5", "2x2", "8x1", "3x1"):
        try:
            make_plan(5, 40, GRID, sequence=sequence)
        except ValueError as error:
            nearest = dict(part.split() for part in str(error).split("works: ")[1].split(", "))
            assert make_plan(5, 40, GRID, **nearest).devices == 5


@pytest.mark.parametrize("text", ["4", "4x", "x2", "-1x2", "4x2x1", "", "a x b"])
def test_pairs_that_are_none(text):
    with pytest.raises(ValueError, match="must be auto or two numbers"):
        parse_pair(text, "parallel.grid")


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 5, 6, 8, 16, 40])
def test_both_counts_are_unions_of_mesh_axes(devices):
    """Rows above columns and ring above Ulysses are the same line of devices."""
    for plan in valid_plans(devices, 40, GRID):
        names = axes(plan)
        assert names.rows + names.columns == names.ring + names.ulysses == names.model
        assert math.prod(plan.local_tokens(GRID)) * devices >= math.prod(GRID)


def test_plans_that_count_below_one():
    assert Plan(ring=0).problem(40, GRID) == "ring is 0 but must be at least 1"
