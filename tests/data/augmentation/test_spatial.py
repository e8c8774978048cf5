import numpy as np
import pytest

from wsicl_jax.data.augmentation.spatial import (
    Deformation,
    quarter_turns,
    sample_quarter_turns,
    subsampled,
)

SHAPE = (16, 24, 16)


def test_quarter_turns_are_made_plane_by_plane():
    volume = np.arange(27).reshape(3, 3, 3)
    expected = np.rot90(np.rot90(volume, 1, (0, 1)), 3, (1, 2))
    np.testing.assert_array_equal(quarter_turns(volume, (1, 0, 3)), expected)


@pytest.mark.parametrize(
    ("plane", "minimum", "expected"),
    [(1, 1, {1, 2, 3}), (1, 0, {0, 1, 2, 3}), (0, 1, {2}), (2, 0, {0, 2})],
)
def test_planes_of_unequal_sides_are_turned_by_halves(plane, minimum, expected):
    rng = np.random.default_rng(0)
    assert {sample_quarter_turns(SHAPE, plane, rng, minimum=minimum) for _ in range(60)} == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_deformation_is_bounded_and_does_not_fold(seed):
    found = Deformation.sample(SHAPE, 0.1, np.random.default_rng(seed)).positions
    moved = found - np.indices(SHAPE)
    assert found.dtype == np.float32
    for axis, side in enumerate(SHAPE):
        assert 0.2 * 0.1 * side < np.abs(moved[axis]).max() < 0.1 * side
    jacobian = np.stack([np.stack(np.gradient(part)) for part in found])
    assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0


def test_a_deformed_image_has_what_lay_at_its_positions():
    deformation = Deformation.sample(SHAPE, 0.1, np.random.default_rng(0))
    for axis, side in enumerate(SHAPE):
        ramp = np.indices(SHAPE, np.float32)[axis]
        expected = np.clip(deformation.positions[axis], 0, side - 1)
        np.testing.assert_allclose(deformation.image(ramp), expected, atol=1e-4)


def test_a_deformed_mask_is_cut_at_one_half():
    deformation = Deformation.sample(SHAPE, 0.1, np.random.default_rng(0))
    mask = np.random.default_rng(1).random(SHAPE) < 0.5
    expected = deformation.image(mask.astype(np.float32)) >= 0.5
    np.testing.assert_array_equal(deformation.mask(mask), expected)


@pytest.mark.parametrize(("axis", "factor", "first"), [(0, 2, 1), (1, 4, 0), (2, 3, 2)])
def test_subsampled_planes_are_interpolated_between_those_kept(axis, factor, first):
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    kept = np.arange(first, SHAPE[axis], factor)
    lines = np.moveaxis(image, axis, -1)
    expected = np.apply_along_axis(
        lambda line: np.interp(np.arange(SHAPE[axis]), kept, line[kept]), -1, lines
    )
    given = subsampled(image, axis, factor, first)
    assert given.dtype == np.float32
    np.testing.assert_allclose(np.moveaxis(given, axis, -1), expected, atol=1e-6)
