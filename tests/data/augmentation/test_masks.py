import numpy as np
import pytest
from scipy import ndimage

from wsicl_jax.data.augmentation.masks import dilated, eroded, sobel_edge

SHAPE = (9, 12, 10)


def random_mask(seed: int, share: float = 0.05) -> np.ndarray:
    """Blobs, some of them at the border."""
    seeds = np.random.default_rng(seed).random(SHAPE) < share
    return ndimage.binary_dilation(seeds, iterations=2)


@pytest.mark.parametrize("seed", range(4))
def test_changes_agree_with_scipy_on_the_whole_volume(seed):
    mask = random_mask(seed)
    values = mask.astype(float)
    squares = sum(ndimage.sobel(values, axis, mode="nearest") ** 2 for axis in range(3))
    np.testing.assert_array_equal(sobel_edge(mask), np.sqrt(squares) >= 8)
    np.testing.assert_array_equal(dilated(mask), ndimage.binary_dilation(mask))
    np.testing.assert_array_equal(eroded(mask), ndimage.binary_erosion(mask, border_value=1))


def test_the_edge_of_a_flat_face_has_two_voxels_and_the_border_none():
    mask = np.zeros(SHAPE, bool)
    mask[:4] = True
    assert [bool(plane.all()) for plane in sobel_edge(mask)] == [i in (3, 4) for i in range(9)]
    np.testing.assert_array_equal(sobel_edge(mask).any((1, 2)), sobel_edge(mask).all((1, 2)))


def test_a_mask_of_nothing_or_everything_has_no_edge():
    for mask in (np.zeros(SHAPE, bool), np.ones(SHAPE, bool)):
        assert not sobel_edge(mask).any()
        np.testing.assert_array_equal(eroded(mask), mask)
