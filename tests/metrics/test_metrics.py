import math
from itertools import permutations

import jaxtyping
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from wsicl_jax.errors import ConfigError, DataError, ShapeError
from wsicl_jax.metrics.image_quality import HIGHEST_PSNR, psnr, ssim
from wsicl_jax.metrics.overlap import dice, overlap
from wsicl_jax.metrics.surfaces import hd95_mm, surface_dice, surface_distances

SPACING = (1.0, 2.0, 3.0)
EMPTY = np.zeros((4, 5, 6), bool)

pairs = hnp.array_shapes(min_dims=3, max_dims=3, max_side=4).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)
# Whole numbers, of which squares and their sums are exact in any order of the axes.
spacings = st.tuples(*[st.integers(1, 5).map(float)] * 3)
tolerances = st.integers(0, 8).map(lambda n: n / 2)


def mask(*voxels: int) -> np.ndarray:
    return np.array(voxels, bool).reshape(-1, 1, 1)


def box(shape: tuple[int, int, int], start: tuple[int, ...], size: int) -> np.ndarray:
    found = np.zeros(shape, bool)
    found[tuple(slice(a, a + size) for a in start)] = True
    return found


@pytest.fixture
def without_shape_checks():
    """As for a user, whose calls are not checked against the signatures."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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


def test_the_surface_of_a_voxel_cuts_off_its_corners_half_way():
    voxel = box((3, 3, 3), (1, 1, 1), 1)
    found = surface_distances(voxel, voxel, SPACING)
    # Each corner is a triangle with legs of half a side: its area is |(ab, bc, ca)| / 8.
    np.testing.assert_allclose(found.mask_areas, math.hypot(2, 6, 3) / 8)
    assert found.mask_areas.shape == (8,)
    assert not found.from_mask.any()


def test_two_voxels_side_by_side_share_half_of_their_surface_elements():
    a, b = box((4, 3, 3), (1, 1, 1), 1), box((4, 3, 3), (2, 1, 1), 1)
    assert overlap(a, b, SPACING, 0.9) == pytest.approx((0, 0.5, 1))
    assert overlap(a, b, SPACING, 1.0) == pytest.approx((0, 1, 1))


@pytest.mark.parametrize("axis", range(3))
def test_a_cube_shifted_by_a_voxel_is_off_by_the_spacing_along_that_axis(axis):
    a = box((8, 8, 8), (2, 2, 2), 4)
    found = overlap(a, np.roll(a, 1, axis), SPACING, SPACING[axis])
    assert found == pytest.approx((3 / 4, 1, SPACING[axis]))


def test_surface_dice_of_a_shifted_cube_weighs_elements_by_their_area():
    a = box((8, 8, 8), (2, 2, 2), 4)
    # Of 5 x 5 x 5 corners those within a face weigh a voxel's side, those within an edge the
    # chamfer through it, and the eight at the ends a triangle.
    faces = {"x": 2 * 3, "y": 1 * 3, "z": 1 * 2}
    edges = {"x": math.hypot(1, 1.5), "y": 2 * math.hypot(0.5, 1.5), "z": 3 * math.hypot(0.5, 1)}
    corner = 7 / 8
    whole = 18 * sum(faces.values()) + 12 * sum(edges.values()) + 8 * corner
    # Off by a voxel along x: the face that is left behind, and the inside of the one in front.
    off = 18 * faces["x"] + 6 * edges["y"] + 6 * edges["z"] + 4 * corner
    assert overlap(a, np.roll(a, 1, 0), SPACING, 0.5).surface_dice == pytest.approx(1 - off / whole)


def test_hd95_of_nested_boxes_is_the_larger_of_both_directions():
    inner, outer = box((12, 12, 12), (3, 3, 3), 6), box((12, 12, 12), (1, 1, 1), 10)
    found = surface_distances(inner, outer, (1.0, 1.0, 1.0))
    # From within, 2 voxels to the nearest face; from an edge of the outer box, 2 and 2.
    assert set(found.from_mask) == {2}
    assert hd95_mm(found) == pytest.approx(math.hypot(2, 2))
    # Of the outer box those 7 x 7 corners of each face are near that lie straight over the inner.
    areas = [6 * (n - 1) ** 2 + 12 * (n - 1) * math.hypot(0.5, 0.5) + math.sqrt(3) for n in (6, 10)]
    assert surface_dice(found, 2.0) == pytest.approx((areas[0] + 6 * 7 * 7) / sum(areas))
    assert surface_dice(found, 1.9) == 0


def test_hd95_overlooks_the_worst_twentieth_of_a_surface():
    a = box((40, 20, 20), (2, 2, 2), 16)
    speck = box(a.shape, (38, 10, 10), 1)
    found = surface_distances(a | speck, a, (1.0, 1.0, 1.0))
    assert found.from_mask.max() == 21
    assert hd95_mm(found) == 0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (EMPTY, EMPTY, (1, 1, 0)),
        (EMPTY, ~EMPTY, (0, 0, math.hypot(4 * 1, 5 * 2, 6 * 3))),
        (~EMPTY, EMPTY, (0, 0, math.hypot(4 * 1, 5 * 2, 6 * 3))),
        (~EMPTY, ~EMPTY, (1, 1, 0)),
    ],
    ids=["both empty", "mask empty", "truth empty", "both full"],
)
@pytest.mark.parametrize("tolerance", [0.0, 1000.0])
def test_empty_masks_have_defined_scores(a, b, expected, tolerance):
    assert overlap(a, b, SPACING, tolerance) == expected


def test_a_tolerance_of_one_voxel_allows_one_voxel_of_a_32_bit_header():
    side = float(np.float32(0.8))
    assert side > 0.8
    a = box((8, 8, 8), (2, 2, 2), 4)
    assert overlap(a, np.roll(a, 1, 0), (side, side, side), 0.8).surface_dice == 1


def brute_force(a, b, spacing):
    """Distances from the corners on the surface of `a` to those of `b`, pair by pair."""

    def corners(mask):
        around = np.pad(mask, 1).astype(int)
        sums = sum(
            around[i : i - 1 or None, j : j - 1 or None, k : k - 1 or None]
            for i, j, k in np.ndindex(2, 2, 2)
        )
        return np.argwhere((sums > 0) & (sums < 8)) * np.array(spacing)

    return np.sort(cdist(corners(a), corners(b)).min(1))


@settings(max_examples=50, deadline=None)
@given(pairs, spacings)
def test_distances_are_those_of_brute_force(pair, spacing):
    a, b = pair
    assume(a.any() and b.any())
    found = surface_distances(a, b, spacing)
    np.testing.assert_allclose(found.from_mask, brute_force(a, b, spacing))
    np.testing.assert_allclose(found.from_truth, brute_force(b, a, spacing))


def test_areas_are_those_of_marching_cubes():
    from skimage.measure import marching_cubes, mesh_surface_area

    x, y, z = np.indices((24, 26, 20)) - np.array([12, 13, 10]).reshape(3, 1, 1, 1)
    ellipsoid = (x / 10) ** 2 + (y / 11) ** 2 + (z / 8) ** 2 < 1
    surface = marching_cubes(ellipsoid.astype(float), 0.5, spacing=SPACING)[:2]
    found = surface_distances(ellipsoid, ellipsoid, SPACING)
    assert found.mask_areas.sum() == pytest.approx(mesh_surface_area(*surface), rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(pairs, spacings, tolerances)
def test_surface_scores_are_shares_and_percentiles_of_area(pair, spacing, tolerance):
    a, b = pair
    assume(a.any() and b.any())
    found = surface_distances(a, b, spacing)
    sides = [(found.from_mask, found.mask_areas), (found.from_truth, found.truth_areas)]
    near = sum(area for side in sides for d, area in zip(*side, strict=True) if d <= tolerance)
    assert surface_dice(found, tolerance) == pytest.approx(near / sum(s[1].sum() for s in sides))
    # At least 95 % lie within the distance from either side, and less than that lie nearer.
    hd95 = hd95_mm(found)
    within = [area[d <= hd95].sum() / area.sum() for d, area in sides]
    nearer = [area[d < hd95].sum() / area.sum() for d, area in sides]
    assert min(within) >= 0.95 - 1e-6
    assert min(nearer) < 0.95


@settings(max_examples=50, deadline=None)
@given(pairs, spacings, tolerances)
def test_overlap_is_symmetric_and_bounded(pair, spacing, tolerance):
    a, b = pair
    found = overlap(a, b, spacing, tolerance)
    assert overlap(b, a, spacing, tolerance) == pytest.approx(found)
    assert 0 <= found.surface_dice <= 1
    assert 0 <= found.hd95_mm <= math.hypot(*np.multiply(a.shape, spacing))
    assert overlap(a, a, spacing, tolerance) == (1, 1, 0)


@settings(max_examples=30, deadline=None)
@given(pairs, spacings, tolerances)
def test_overlap_does_not_depend_on_the_order_of_the_axes(pair, spacing, tolerance):
    a, b = pair
    found = overlap(a, b, spacing, tolerance)
    for axes in permutations(range(3)):
        turned = tuple(spacing[axis] for axis in axes)
        again = overlap(a.transpose(axes), b.transpose(axes), turned, tolerance)
        assert again == pytest.approx(found)


@settings(max_examples=30, deadline=None)
@given(pairs, spacings, tolerances, st.tuples(*[st.integers(0, 3)] * 6))
def test_background_around_two_masks_changes_nothing(pair, spacing, tolerance, width):
    a, b = pair
    assume(a.any() and b.any())
    wider = [np.pad(m, np.reshape(width, (3, 2))) for m in pair]
    assert overlap(*wider, spacing, tolerance) == overlap(a, b, spacing, tolerance)


@pytest.mark.usefixtures("without_shape_checks")
def test_shapes_that_differ_are_refused_even_where_they_would_broadcast():
    a, b = np.ones((4, 4, 4), bool), np.ones((4, 4, 1), bool)
    for compared in (lambda: dice(a, b), lambda: overlap(a, b, SPACING, 1.0)):
        with pytest.raises(ShapeError, match=r"mask is \(4, 4, 4\) but the truth \(4, 4, 1\)"):
            compared()
    for score in (psnr, ssim):
        with pytest.raises(ShapeError, match=r"image is \(4, 4, 4\)"):
            score(a.astype(float), b.astype(float), 1.0)


@pytest.mark.parametrize("side", [0.0, -1.0, math.nan, math.inf])
def test_a_spacing_that_is_not_positive_is_refused(side):
    with pytest.raises(DataError, match="spacing"):
        overlap(~EMPTY, ~EMPTY, (1.0, side, 1.0), 1.0)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan])
def test_a_negative_tolerance_is_refused(tolerance):
    with pytest.raises(ConfigError, match="tolerance"):
        overlap(EMPTY, EMPTY, SPACING, tolerance)


def noisy(shape=(9, 10, 8), seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random(shape, np.float32)
    return np.clip(truth + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32), truth


def test_psnr_is_the_range_squared_over_the_mean_squared_error():
    truth = np.full((4, 4, 4), 0.25)
    assert psnr(truth + 0.1, truth, 1.0) == pytest.approx(20)
    assert psnr(truth + 0.1, truth, 10.0) == pytest.approx(40)


def test_psnr_of_equal_images_is_the_highest_and_nothing_is_above():
    truth = noisy()[1]
    assert psnr(truth, truth, 1.0) == HIGHEST_PSNR
    assert psnr(truth + np.float32(1e-7), truth, 1.0) == HIGHEST_PSNR


def naive_ssim(image, truth, side):
    """SSIM by its formula, window by window, with sample variances."""
    values = []
    for corner in np.ndindex(*(n - side + 1 for n in image.shape)):
        x, y = (v[tuple(slice(c, c + side) for c in corner)].ravel() for v in (image, truth))
        (xx, xy), (_, yy) = np.cov(x, y)
        c1, c2 = 0.01**2, 0.03**2
        mx, my = x.mean(), y.mean()
        values.append(
            ((2 * mx * my + c1) * (2 * xy + c2)) / ((mx**2 + my**2 + c1) * (xx + yy + c2))
        )
    return np.mean(values)


@pytest.mark.parametrize(
    ("shape", "side"), [((9, 10, 11), 7), ((9, 6, 8), 5), ((5, 9, 9), 5), ((3, 4, 6), 3)]
)
def test_ssim_is_the_mean_over_windows_that_fit_into_the_image(shape, side):
    image, truth = noisy(shape)
    assert ssim(image, truth, 1.0) == pytest.approx(
        naive_ssim(image.astype(float), truth.astype(float), side), abs=1e-6
    )


def test_ssim_is_1_for_equal_images_and_symmetric():
    image, truth = noisy()
    assert ssim(truth, truth, 1.0) == pytest.approx(1)
    assert ssim(image, truth, 1.0) == pytest.approx(ssim(truth, image, 1.0))
    assert ssim(image, truth, 1.0) < 0.99


def test_ssim_refuses_images_without_a_window():
    with pytest.raises(ShapeError, match="3 voxels"):
        ssim(*noisy((2, 9, 9)), 1.0)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_images_with_values_that_are_not_finite_are_refused(score):
    image, truth = noisy()
    image[1, 2, 3] = np.nan
    with pytest.raises(DataError, match="image has values that are not finite"):
        score(image, truth, 1.0)
    with pytest.raises(DataError, match="range"):
        score(truth, truth, 0.0)
