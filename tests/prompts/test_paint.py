import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from wsicl_jax.errors import PromptError
from wsicl_jax.geometry.axes import Box
from wsicl_jax.prompts import Point, Scribble, SliceMask, ball, ball_radius, draw, to_channel

PUBLISHED = (128, 128, 128)
KINDS = ("point", "box", "scribble", "mask2d", "box3d", "mask")
quick = settings(max_examples=60, deadline=None)
masks = arrays(bool, st.tuples(*[st.integers(1, 5)] * 3))
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "data/prompts.npz") as file:
        return dict(file)


def box_of(ranges):
    return Box(tuple(low for low, _ in ranges), tuple(high for _, high in ranges))


def test_the_ball_is_the_authors(golden):
    np.testing.assert_array_equal(ball(ball_radius(PUBLISHED)), golden["sphere_radius6"])


@pytest.mark.parametrize("number", range(3))
def test_points_are_painted_as_the_authors_do(golden, number):
    points = json.loads(str(golden["points"]))[number]
    channel = to_channel([Point(*map(float, p)) for p in points], PUBLISHED)
    expected = np.zeros(PUBLISHED, np.float32)
    expected[tuple(golden[f"points_{number}_index"].T)] = golden[f"points_{number}_value"]
    np.testing.assert_array_equal(channel, expected)


@pytest.mark.parametrize("number", range(5))
def test_boxes_are_painted_as_the_authors_do(golden, number):
    ranges = json.loads(str(golden["boxes"]))[number]
    channel = to_channel([box_of(ranges)], PUBLISHED)
    expected = np.zeros(PUBLISHED, np.float32)
    expected[box_of(golden["boxes_filled_extent"][number].tolist()).slices] = 1
    np.testing.assert_array_equal(channel, expected)


def test_kinds_mix_and_the_larger_value_wins():
    mask = np.zeros((32, 32, 32), bool)
    mask[0] = True
    prompts = [
        Point(16.0, 16.0, 16.0),
        Box((15, 2, 2), (18, 16, 16)),
        Scribble(((14.0, 14.0, 20.0), (20.0, 14.0, 14.0))),
        SliceMask(1, 16, np.eye(32, dtype=bool)),
        mask,
    ]
    parts = [to_channel([prompt], mask.shape) for prompt in prompts]
    np.testing.assert_array_equal(to_channel(prompts, mask.shape), np.max(parts, axis=0))
    assert to_channel(prompts, mask.shape).dtype == np.float32


@quick
@given(masks, st.sampled_from(KINDS), seeds)
def test_what_is_drawn_can_be_painted_between_0_and_1(mask, kind, rng):
    for prompt in draw(kind, mask, 3, rng):
        channel = to_channel([prompt], mask.shape)
        assert channel.min() >= 0
        assert channel.max() == 1


def test_no_prompt_paints_nothing():
    assert not to_channel([], (3, 4, 5)).any()


def test_a_slice_of_a_thin_image_is_not_thickened_beyond_it():
    assert to_channel([Box((0, 0, 0), (1, 4, 5))], (2, 4, 5)).sum() == 2 * 4 * 5


@pytest.mark.parametrize("side", [8, 32, 64, 128, 256])
def test_the_radius_scales_with_the_grid(side):
    assert ball_radius((side, side, side)) == pytest.approx(6 * side / 128)
    assert ball_radius((side // 2, side, side * 2)) == pytest.approx(6 * side / 128)


@pytest.mark.parametrize("radius", [0.4, 1.5, 3.0, 6.0])
def test_a_ball_falls_from_one_at_its_centre_to_its_rim(radius):
    values = ball(radius)
    centre = values.shape[0] // 2
    offsets = np.indices(values.shape) - centre
    np.testing.assert_array_equal(values > 0, (offsets**2).sum(axis=0) <= radius**2)
    assert values.max() == values[centre, centre, centre] == 1


def test_a_ball_is_shared_and_cannot_be_changed():
    assert ball(2.0) is ball(2.0)
    with pytest.raises(ValueError, match="read-only"):
        ball(2.0)[0] = 1


# At 64 voxels a point's ball has a radius of 3, a scribble's of 1.5.
GRID = (64, 64, 64)


def balls(places, radius):
    """The larger of the balls at these voxels, painted by hand."""
    values = ball(radius)
    reach = values.shape[0] // 2
    padded = np.zeros(np.add(GRID, 2 * reach), np.float32)
    for place in places:
        here = tuple(slice(p, p + 2 * reach + 1) for p in place)
        padded[here] = np.maximum(padded[here], values)
    return padded[(slice(reach, -reach),) * 3]


def test_a_scribble_of_one_position_is_a_ball_of_half_the_radius():
    found = to_channel([Scribble(((10.0, 20.0, 30.0),))], GRID)
    np.testing.assert_array_equal(found, balls([(10, 20, 30)], 1.5))


@pytest.mark.parametrize(
    ("path", "passed"),
    [
        ([(5, 9, 9), (9, 9, 9)], [(x, 9, 9) for x in range(5, 10)]),
        ([(9, 9, 9), (5, 9, 9)], [(x, 9, 9) for x in range(5, 10)]),
        ([(61, 0, 63), (63, 0, 63)], [(x, 0, 63) for x in (61, 62, 63)]),
        (
            [(5, 5, 9), (8, 8, 9), (8, 6, 9)],
            [(5, 5, 9), (6, 6, 9), (7, 7, 9), (8, 8, 9), (8, 7, 9), (8, 6, 9)],
        ),
    ],
    ids=["ahead", "back", "in a corner", "diagonal with a bend"],
)
def test_a_scribble_is_a_line_of_balls_clipped_at_the_border(path, passed):
    scribble = Scribble(tuple(tuple(map(float, place)) for place in path))
    np.testing.assert_array_equal(to_channel([scribble], GRID), balls(passed, 1.5))


# Halves as well: they are where a grid is twice as fine as the image's own.
positions = st.tuples(*[st.integers(0, 60).map(lambda n: n / 4)] * 3)


@quick
@given(positions, positions)
def test_between_two_positions_a_scribble_has_no_gap_and_keeps_to_the_straight_line(a, b):
    # At 16 voxels the ball of a scribble is a single voxel.
    channel = to_channel([Scribble((a, b))], (16, 16, 16))
    places = np.argwhere(channel)
    assert ndimage.label(channel, np.ones((3, 3, 3)))[1] == 1
    a, b = np.array(a), np.array(b)
    share = np.clip((places - a) @ (b - a) / max((b - a) @ (b - a), 1e-9), 0, 1)
    assert np.abs(places - (a + share[:, None] * (b - a))).max() < 1
    assert {tuple(np.floor(end + 0.5)) for end in (a, b)} <= set(map(tuple, places))


def test_positions_far_apart_are_joined_as_many_close_ones_are():
    ends = Scribble(((3.0, 40.0, 20.0), (43.0, 20.0, 20.0)))
    steps = Scribble(tuple((3.0 + i, 40.0 - i / 2, 20.0) for i in range(41)))
    np.testing.assert_array_equal(to_channel([ends], GRID), to_channel([steps], GRID))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("index", "thick"), [(2, (1, 4)), (0, (0, 3)), (6, (4, 7))])
def test_a_mask_on_a_slice_is_thickened_to_three_voxels_inward_at_the_border(axis, index, thick):
    flat = np.random.default_rng(0).random((5, 6)) < 0.4
    shape = tuple(np.insert(flat.shape, axis, 7).tolist())
    channel = np.moveaxis(to_channel([SliceMask(axis, index, flat)], shape), axis, 0)
    for place, found in enumerate(channel):
        expected = flat if thick[0] <= place < thick[1] else np.zeros_like(flat)
        np.testing.assert_array_equal(found, expected)


def test_a_mask_on_a_slice_of_a_thin_image_fills_its_thickness():
    flat = np.eye(4, dtype=bool)
    channel = to_channel([SliceMask(0, 1, flat)], (2, 4, 4))
    np.testing.assert_array_equal(channel, [flat, flat])


FLAT = np.ones((3, 5), bool)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Point(3.0, 0.0, 0.0), r"point \(3.0, 0.0, 0.0\) lies outside"),
        (Point(0.0, -1.0, 0.0), r"outside the image of \(3, 4, 5\)"),
        (Box((0, 0, 0), (3, 4, 6)), r"leaves the image of \(3, 4, 5\)"),
        (Box((-1, 0, 0), (1, 1, 1)), r"box \(-1, 0, 0\) to \(1, 1, 1\)"),
        (Box((0, 2, 0), (1, 2, 1)), "is empty"),
        (Scribble(()), "scribble has no position; give one or more"),
        (Scribble(((0.0, 0.0, 0.0), (0.0, 4.0, 0.0))), r"\(0.0, 4.0, 0.0\) lies outside the image"),
        (SliceMask(1, 4, FLAT), r"leaves the image of \(3, 4, 5\)"),
        (SliceMask(1, -1, FLAT), r"leaves the image of \(3, 4, 5\)"),
        (SliceMask(1, 0, FLAT.T), r"across axis 1 is \(5, 3\) but its image \(3, 4, 5\)"),
        (SliceMask(0, 0, FLAT), r"across axis 0 is \(3, 5\) but its image \(3, 4, 5\)"),
        (SliceMask(3, 0, FLAT), r"across axis 3 is \(3, 5\) but its image \(3, 4, 5\)"),
        (SliceMask(1, 2, ~FLAT), "mask on slice 2 across axis 1 marks no voxel"),
        (np.ones((3, 5, 4), bool), r"mask is \(3, 5, 4\) but its image \(3, 4, 5\)"),
        (np.zeros((3, 4, 5), bool), r"mask marks no voxel at \(3, 4, 5\)"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(prompt, message):
    with pytest.raises(PromptError, match=message):
        to_channel([prompt], (3, 4, 5))
