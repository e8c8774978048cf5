import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsicl_jax.metrics import dice

pairs = hnp.array_shapes(min_dims=3, max_dims=3, max_side=4).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


def mask(*voxels: int) -> np.ndarray:
    return np.array(voxels, bool).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("given", "truth", "expected"),
    [
        (mask(1, 1, 0, 0), mask(1, 1, 0, 0), 1),
        (mask(1, 1, 0, 0), mask(0, 1, 1, 1), 2 / 5),
        (mask(1, 0), mask(0, 1), 0),
        (mask(0, 0), mask(0, 1), 0),
        (mask(1, 0), mask(0, 0), 0),
        (mask(0, 0), mask(0, 0), 1),
    ],
)
def test_dice_is_twice_the_overlap_over_both_sizes(given, truth, expected):
    assert dice(given, truth) == expected


@given(pairs)
def test_dice_is_symmetric_between_0_and_1_and_1_only_for_equal_masks(pair):
    a, b = pair
    assert dice(a, b) == dice(b, a)
    assert 0 <= dice(a, b) <= 1
    assert (dice(a, b) == 1) == np.array_equal(a, b)


def test_dice_counts_more_voxels_than_a_byte_holds():
    full = np.ones((32, 32, 32), bool)
    assert dice(full, full) == 1
