"""Scores that obey the points and scribbles on the target."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsicl_jax.prompts import Box, Negative, Point, Scribble, enforced

SHAPE = (16, 20, 12)
voxels = st.tuples(*(st.integers(0, side - 1) for side in SHAPE))


@given(voxels, st.integers(0, 2**31), st.booleans())
def test_a_marked_voxel_is_on_the_marked_side_of_the_threshold(voxel, seed, is_inside):
    scores = np.random.default_rng(seed).random(SHAPE, np.float32)
    point = Point(*map(float, voxel))
    changed = enforced(scores, [point if is_inside else Negative(point)], 0.5)
    assert (changed[voxel] > 0.5) == is_inside
    # All voxels move to the same side.
    assert (changed >= scores).all() if is_inside else (changed <= scores).all()


def test_the_change_decreases_with_the_distance():
    changed = enforced(np.full(SHAPE, 0.4, np.float32), [Point(8, 10, 6)], 0.5)
    line = changed[8:, 10, 6]
    assert (np.diff(line) < 0).all() and line[-1] == pytest.approx(0.4, abs=1e-3)


def test_scores_that_agree_with_the_prompts_do_not_change():
    scores = np.zeros(SHAPE, np.float32)
    scores[4:8] = 1
    prompts = [Point(6, 10, 6), Negative(Point(12, 10, 6))]
    np.testing.assert_array_equal(enforced(scores, prompts, 0.5), scores)


def test_every_voxel_of_a_scribble_counts():
    line = Scribble(((2.0, 3.0, 4.0), (12.0, 3.0, 4.0)))
    changed = enforced(np.ones(SHAPE, np.float32), [Negative(line)], 0.5)
    assert (changed[2:13, 3, 4] < 0.5).all()


def test_boxes_and_masks_change_nothing():
    scores = np.full(SHAPE, 0.4, np.float32)
    prompts = [Box((0, 0, 3), (9, 9, 4)), np.ones(SHAPE, bool)]
    np.testing.assert_array_equal(enforced(scores, prompts, 0.5), scores)
