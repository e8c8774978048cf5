import numpy as np
import pytest

from wsicl_jax.data.episodes.crops import FullResolutionCase, random_crop
from wsicl_jax.geometry.grids import WorkingGrid

GRID = (8, 8, 8)


def case(shape, spacing, start, size):
    """An image that counts mm along x from the structure's first face; a cuboid structure."""
    affine = np.diag([*spacing, 1.0])
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    along = (np.arange(shape[0]) + 0.5 - start[0]) * spacing[0]
    image = np.broadcast_to(along[:, None, None], shape).astype(np.float32)
    return FullResolutionCase(image, mask, affine, WorkingGrid.of(shape, affine, GRID))


def test_all_images_show_the_same_part_of_the_structure_at_the_same_extent():
    one = case((40, 40, 40), (1, 1, 1), (14, 16, 16), (12, 8, 8))
    other = case((80, 40, 40), (0.5, 1.0, 1.0), (28, 16, 16), (24, 8, 8))
    for seed in range(20):
        (image, image2), (mask, mask2) = random_crop([one, other], np.random.default_rng(seed))
        assert image.shape == mask.shape == GRID
        np.testing.assert_allclose(image[:, 4, 4], image2[:, 4, 4], atol=1.0)
        assert abs(mask.mean() - mask2.mean()) < 0.15


def test_crops_never_exceed_the_targets_full_resolution():
    one = case((40, 40, 40), (1, 1, 1), (10, 12, 14), (12, 8, 8))
    steps = []
    for seed in range(100):
        (image,), _ = random_crop([one], np.random.default_rng(seed))
        steps.append(np.diff(image[:, 0, 0]).mean())
    assert min(steps) >= 0.99
    assert min(steps) < 1.3 and 4 < max(steps) <= 5.01


def test_a_working_grid_at_full_resolution_has_no_crops():
    assert (
        random_crop([case((8, 8, 8), (1, 1, 1), (2, 2, 2), (3, 3, 3))], np.random.default_rng(0))
        is None
    )


@pytest.mark.parametrize("size", [(3, 3, 3), (30, 4, 4)])
def test_a_crop_shows_the_structure(size):
    one = case((40, 40, 40), (1, 1, 1), (5, 12, 14), size)
    is_seen = [random_crop([one], np.random.default_rng(s)).masks[0].any() for s in range(50)]
    assert np.mean(is_seen) > 0.8
