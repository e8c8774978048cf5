import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsicl_jax.axes import Box
from wsicl_jax.errors import PromptError
from wsicl_jax.prompts import Point, ball, ball_radius, draw, to_channel

PUBLISHED = (128, 128, 128)
quick = settings(max_examples=80, deadline=None)
masks = arrays(bool, st.tuples(*[st.integers(1, 5)] * 3))
counts = st.integers(1, 12)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "data/prompts.npz") as file:
        return dict(file)


def box_of(ranges):
    return Box(tuple(low for low, _ in ranges), tuple(high for _, high in ranges))


def tight_boxes(mask):
    """The different boxes around what slices along all axes show of the structure."""
    boxes = set()
    for axis, size in enumerate(mask.shape):
        for index in range(size):
            flat = np.zeros_like(mask)
            here = tuple(index if a == axis else slice(None) for a in range(3))
            flat[here] = mask[here]
            boxes.add(Box.around(flat))
    return boxes - {None}


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
    prompts = [Point(16.0, 16.0, 16.0), Box((15, 2, 2), (18, 16, 16)), mask]
    parts = [to_channel([prompt], mask.shape) for prompt in prompts]
    np.testing.assert_array_equal(to_channel(prompts, mask.shape), np.max(parts, axis=0))
    assert to_channel(prompts, mask.shape).dtype == np.float32


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


@quick
@given(masks, counts, seeds)
def test_points_are_distinct_and_inside_as_many_as_there_is_room_for(mask, count, rng):
    points = draw("point", mask, count, rng)
    assert len(set(points)) == len(points) == min(count, mask.sum())
    assert all(mask[tuple(map(int, point))] for point in points)


@quick
@given(masks, counts, seeds)
def test_boxes_are_distinct_and_tight_on_a_slice_as_many_as_there_are(mask, count, rng):
    boxes = draw("box", mask, count, rng)
    there = tight_boxes(mask)
    assert len(set(boxes)) == len(boxes) == min(count, len(there))
    assert set(boxes) <= there


def test_a_solid_structure_gets_a_box_on_each_slice_and_no_more():
    mask = np.zeros((6, 7, 8), bool)
    mask[1:4, 2:6, 3:8] = True
    rng = np.random.default_rng(0)
    assert len(draw("box", mask, 5, rng)) == 5
    assert len(draw("box", mask, 99, rng)) == 3 + 4 + 5


@pytest.mark.parametrize("seed", range(5))
def test_slices_that_show_the_same_box_count_once(seed):
    line = np.zeros((3, 4, 6), bool)
    line[1, 2, 1:5] = True
    # A box on each of 4 slices along z, and the line itself on one slice along x and one along y.
    assert len(draw("box", line, 5, np.random.default_rng(seed))) == 5


def test_a_mask_is_the_structure_once():
    mask = np.eye(3, dtype=bool)[None]
    (drawn,) = draw("mask", mask, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, mask)


@pytest.mark.parametrize("kind", ["point", "box", "mask"])
def test_an_absent_structure_gets_no_prompt(kind):
    assert len(draw(kind, np.zeros((3, 4, 5), bool), 2, np.random.default_rng(0))) == 0


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Point(3.0, 0.0, 0.0), r"point \(3.0, 0.0, 0.0\) lies outside"),
        (Point(0.0, -1.0, 0.0), r"outside the image of \(3, 4, 5\)"),
        (Box((0, 0, 0), (3, 4, 6)), r"leaves the image of \(3, 4, 5\)"),
        (Box((-1, 0, 0), (1, 1, 1)), r"box \(-1, 0, 0\) to \(1, 1, 1\)"),
        (Box((0, 2, 0), (1, 2, 1)), "is empty"),
        (np.ones((3, 5, 4), bool), r"mask is \(3, 5, 4\) but its image \(3, 4, 5\)"),
        (np.zeros((3, 4, 5), bool), r"mask marks no voxel at \(3, 4, 5\)"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(prompt, message):
    with pytest.raises(PromptError, match=message):
        to_channel([prompt], (3, 4, 5))
