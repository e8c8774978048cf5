import numpy as np
from inference.volumes import LPS, VOLUME, volume

from wsicl_jax.geometry.axes import Box
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.geometry.intensity import normalise
from wsicl_jax.inference.prepared_images import prepare_image


def test_the_working_grid_has_the_image_as_training_prepares_it():
    given = volume(1, (30, 20, 15), LPS)
    grid = WorkingGrid.of(given.image.shape, LPS, VOLUME.grid)
    expected = grid.image(normalise(given.image, VOLUME.percentiles))
    np.testing.assert_array_equal(prepare_image(given, VOLUME, full=True).image, expected)
    np.testing.assert_array_equal(prepare_image(given, VOLUME, full=False).image, expected)


def test_a_view_at_own_resolution_is_the_image_within_a_step_of_65536():
    given = volume(1, (30, 20, 15), LPS)
    prepared = prepare_image(given, VOLUME, full=True)
    view = prepared.grid.cropped(Box((5, 3, 2), (13, 9, 12)), (8, 6, 10))
    expected = np.flip(normalise(given.image, VOLUME.percentiles), (0, 1))[5:13, 3:9, 2:12]
    np.testing.assert_allclose(prepared.on(view), expected, atol=1 / 65535)


def test_preparing_leaves_the_image_that_was_given_as_it_is():
    given = volume(1)
    before = given.image.copy()
    prepare_image(given, VOLUME, full=True)
    np.testing.assert_array_equal(given.image, before)


def test_spacing_is_along_the_turned_axes():
    affine = np.array([[0, 0, -3, 0], [0.7, 0, 0, 0], [0, 1.1, 0, 0], [0, 0, 0, 1.0]])
    prepared = prepare_image(volume(1, affine=affine), VOLUME, full=False)
    np.testing.assert_allclose(prepared.spacing_mm, (3, 0.7, 1.1))
