"""Outlines as polygons: filled again, they are the mask."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import polygon2mask

from wsicl_jax.data.formats.contours import outlines


def filled(polygons, shape):
    """The mask again; polygons that overlap would exclude each other."""
    found = np.zeros(shape, bool)
    for polygon in polygons:
        found ^= polygon2mask(shape, polygon)
    return found


def area(polygon):
    row, column = polygon.T
    return abs(row @ np.roll(column, 1) - column @ np.roll(row, 1)) / 2


def random_mask(seed, smooth=1.0, shape=(40, 31)):
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, smooth) > 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("smooth", [0, 0.7, 2])
def test_filled_outlines_are_the_mask_again(seed, smooth):
    """Of any shape: regions in holes of regions, many holes, and at the edge of the image."""
    mask = random_mask(seed, smooth)
    polygons = outlines(mask)
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    # Each is enough by itself, for readers that join what overlaps.
    joined = np.any([polygon2mask(mask.shape, polygon) for polygon in polygons], axis=0)
    np.testing.assert_array_equal(joined, mask)


def test_a_keyhole_runs_to_its_hole_and_back_on_one_line():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8], mask[4, 4] = True, False
    (polygon,) = outlines(mask)
    # The outline has 8 corners, the hole 4; two of them are visited twice.
    points, counts = np.unique(polygon, axis=0, return_counts=True)
    assert sorted(counts)[-3:] == [1, 2, 2] and len(polygon) == len(points) + 2
    # 49 pixels without the tips of 4 corners, less a hole with 4 of its 8 halves.
    assert area(polygon) == pytest.approx(49 - 4 / 8 - 0.5)


def test_regions_that_touch_at_a_corner_are_apart_and_a_pixel_has_an_outline():
    polygons = outlines(np.eye(2, dtype=bool))
    assert [len(polygon) for polygon in polygons] == [4, 4]
    np.testing.assert_array_equal([p.mean(axis=0) for p in polygons], [[0, 0], [1, 1]])


def test_straight_edges_have_no_points_between_their_corners():
    (polygon,) = outlines(np.ones((300, 200), bool))
    assert len(polygon) == 8 and area(polygon) == pytest.approx(300 * 200, abs=1)


def test_an_empty_mask_has_no_outline():
    assert outlines(np.zeros((5, 5), bool)) == []
