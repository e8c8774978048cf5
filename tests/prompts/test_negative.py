"""Negative prompts: drawn outside the structure, and painted below zero."""

import numpy as np
import pytest
from scipy import ndimage

from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.prompts import (
    Negative,
    Point,
    Scribble,
    ball,
    ball_radius,
    correct,
    draw_negative,
    kind_of,
    on_crop,
    on_grid,
    smoothed_prompts,
    to_channel,
    turned_bounds,
)

SHAPE = (20, 24, 22)
LINE = Scribble(((3.0, 4.0, 5.0), (9.0, 4.0, 5.0)))


@pytest.fixture
def mask():
    mask = np.zeros(SHAPE, bool)
    mask[4:10, 5:12, 6:13] = True
    return mask


@pytest.fixture
def image(mask):
    """Bright like the structure in one far corner, dark elsewhere."""
    image = np.where(mask, 0.8, 0.1).astype(np.float32)
    image[12:, 15:, 12:] = 0.8
    return image


def places(points):
    return np.array([negative.prompt for negative in points]).astype(int)


def test_negative_points_keep_a_distance_from_the_structure(mask, image):
    distance = ndimage.distance_transform_edt(~mask)
    for seed in range(20):
        drawn = draw_negative(mask, image, 4, np.random.default_rng(seed))
        assert 1 <= len(drawn) <= 4 and len(set(drawn)) == len(drawn)
        assert (distance[tuple(places(drawn).T)] >= 1.5).all()


def test_negative_points_are_beside_the_structure_or_look_like_it(mask, image):
    distance = ndimage.distance_transform_edt(~mask)
    drawn = draw_negative(mask, image, 200, np.random.default_rng(0))
    here = tuple(places(drawn).T)
    near, alike = distance[here] < 6, image[here] == np.float32(0.8)
    assert (near | alike).mean() > 0.95
    assert near.mean() > 0.3 and alike.mean() > 0.2


def test_a_structure_that_fills_the_image_has_no_negative_points(image):
    assert draw_negative(np.ones(SHAPE, bool), image, 3, np.random.default_rng(0)) == []


def test_the_same_generator_draws_the_same_negative_points(mask, image):
    first, second = (draw_negative(mask, image, 5, np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_a_negative_prompt_has_the_values_of_a_positive_one_below_zero():
    for prompt in (Point(8.0, 9.0, 10.0), LINE):
        assert np.array_equal(to_channel([Negative(prompt)], SHAPE), -to_channel([prompt], SHAPE))


def test_a_negative_prompt_takes_the_place_of_others_in_any_order(mask):
    point = Point(9.0, 11.0, 12.0)
    expected = to_channel([point], SHAPE)
    for prompts in ([mask, Negative(point)], [Negative(point), mask]):
        channel = to_channel(prompts, SHAPE)
        assert np.array_equal(channel[expected > 0], -expected[expected > 0])
        assert np.array_equal(channel[expected == 0], mask[expected == 0])


def test_negative_values_are_neither_smoothed_nor_part_of_the_smoothing(mask):
    point, excluded = Point(6.0, 8.0, 9.0), Negative(Point(17.0, 20.0, 18.0))
    channel = to_channel([point, excluded], SHAPE)[None]
    alone = smoothed_prompts(to_channel([point], SHAPE)[None], [False], 0.2)
    smoothed = smoothed_prompts(channel, [False], 0.2)
    assert np.array_equal(smoothed[channel < 0], channel[channel < 0])
    assert np.array_equal(smoothed[channel >= 0], alone[channel >= 0])
    only = to_channel([excluded], SHAPE)[None]
    assert np.array_equal(smoothed_prompts(only, [False], 0.2), only)


def test_a_negative_prompt_moves_to_a_grid_as_the_prompt_that_it_is():
    affine = np.diag([-1.0, 2.0, 1.0, 1.0])
    grid = WorkingGrid.of(SHAPE, affine, (10, 16, 11))
    for prompt in (Point(3.0, 4.0, 5.0), LINE):
        assert on_grid(Negative(prompt), grid) == Negative(on_grid(prompt, grid))
        assert kind_of(Negative(prompt)) == kind_of(prompt)


def test_a_crop_keeps_a_negative_prompt_only_where_it_lies():
    crop = WorkingGrid(SHAPE, (10, 10, 10), crop=Box((0, 0, 0), (10, 10, 10)))
    assert on_crop(Negative(Point(15.0, 3.0, 3.0)), crop) is None
    assert on_crop(Negative(Point(5.0, 3.0, 3.0)), crop) == Negative(Point(5.0, 3.0, 3.0))


def test_negative_prompts_do_not_extend_the_bounds_of_a_structure():
    grid = WorkingGrid(SHAPE, SHAPE)
    point, excluded = Point(6.0, 8.0, 9.0), Negative(Point(17.0, 20.0, 18.0))
    alone, both = (turned_bounds(p, grid) for p in ([point], [point, excluded]))
    assert np.array_equal(alone, both)
    assert np.array_equal(turned_bounds([excluded], grid)[0], [17, 20, 18])


def test_the_larger_error_decides_whether_a_correction_is_negative(mask):
    excess = mask.copy()
    excess[14:18, 14:18, 14:18] = True
    found = correct("point", mask, excess, [], (1.0, 1.0, 1.0), negative=True)
    assert isinstance(found, Negative) and (np.array(found.prompt) >= 14).all()
    line = correct("scribble", mask, excess, [], (1.0, 1.0, 1.0), negative=True)
    assert isinstance(line, Negative) and excess[tuple(np.array(line.prompt.path, int).T)].all()
    assert correct("point", mask, excess, [], (1.0, 1.0, 1.0)) is None
    lost = np.zeros(SHAPE, bool)
    assert isinstance(correct("point", mask, lost, [], (1.0, 1.0, 1.0), negative=True), Point)
    assert correct("point", mask, mask, [], (1.0, 1.0, 1.0), negative=True) is None


def test_a_ball_on_a_neighbour_marks_little_of_the_structure(mask, image):
    """A prompt that says "not here" must not say it of the structure."""
    radius = ball_radius(SHAPE)
    assert ball(radius).shape[0] <= 3
    drawn = draw_negative(mask, image, 50, np.random.default_rng(1))
    assert (to_channel(drawn, SHAPE)[mask] < 0).mean() < 0.02
