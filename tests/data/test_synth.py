import numpy as np
import pytest

from wsicl_jax.data.synth import draw_cohort, smooth_field

SHAPE = (16, 20, 24)
SEEDS = range(20)


@pytest.fixture(scope="module")
def cohorts():
    return [draw_cohort((5, 0, index), SHAPE) for index in SEEDS]


@pytest.fixture(scope="module")
def subjects(cohorts):
    """Subjects 0 and 1 of each cohort: images and labels."""
    return [[cohort.subject(i) for i in range(2)] for cohort in cohorts]


def test_a_seed_gives_the_same_cohort_and_subjects(cohorts, subjects):
    again = draw_cohort((5, 0, 3), SHAPE)
    np.testing.assert_array_equal(again.template, cohorts[3].template)
    np.testing.assert_array_equal(again.brightness, cohorts[3].brightness)
    # In another order, and without what was drawn before.
    for index in (1, 0):
        for given, expected in zip(again.subject(index), subjects[3][index], strict=True):
            np.testing.assert_array_equal(given, expected)


def test_cohorts_can_be_compared_and_hashed(cohorts):
    assert len({cohorts[0], draw_cohort((5, 0, 0), SHAPE)}) == 2


@pytest.mark.parametrize("other", [(5, 0, 1), (5, 1, 0), (6, 0, 0)])
def test_every_part_of_the_seed_gives_another_anatomy(cohorts, other):
    assert (draw_cohort(other, SHAPE).template != cohorts[0].template).mean() > 0.05


def test_subjects_have_the_shape_and_type_that_they_should(cohorts, subjects):
    for cohort, pair in zip(cohorts, subjects, strict=True):
        for image, label in pair:
            assert image.shape == label.shape == SHAPE
            assert (image.dtype, label.dtype) == (np.float32, np.uint8)
            assert np.isfinite(image).all()
            assert label.max() <= cohort.structures
            assert cohort.structures >= 2


def test_subjects_of_a_cohort_share_their_anatomy_but_are_not_equal(subjects):
    overlaps, others = [], []
    for (a, b), (other, _) in zip(subjects, subjects[1:] + subjects[:1], strict=True):
        assert (a[0] != b[0]).any()
        assert (a[1] != b[1]).any()
        overlaps.append(((a[1] == b[1]) & (a[1] > 0)).sum() / (a[1] > 0).sum())
        others.append(((a[1] == other[1]) & (a[1] > 0)).sum() / (a[1] > 0).sum())
    assert np.mean(overlaps) > 0.4
    assert np.mean(overlaps) > 2 * np.mean(others)


def test_structures_differ_from_what_surrounds_them(cohorts):
    gaps = [np.diff(np.sort(cohort.brightness[1:])).min() for cohort in cohorts]
    assert np.median(gaps) > 0.02


def test_a_smooth_field_has_unit_variance_around_0():
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_field(rng, (8, 9, 10), 2, frequency=4.0) for _ in range(200)])
    assert fields.shape == (200, 8, 9, 10, 2)
    assert fields.dtype == np.float32
    np.testing.assert_allclose(fields.mean(), 0, atol=0.05)
    np.testing.assert_allclose(fields.var(axis=0).mean((0, 1, 2)), 1, atol=0.15)


def test_a_smooth_field_changes_slowly():
    field = smooth_field(np.random.default_rng(0), (64, 4, 4), 1, frequency=1.5)
    assert np.abs(np.diff(field, axis=0)).max() < 0.4
