import time
from dataclasses import replace

import numpy as np
import pytest

from wsicl_jax.config import KindsConfig, ScannerConfig, SynthConfig
from wsicl_jax.data.synthesis.cohort import sample_cohort

SHAPE = (16, 20, 24)
SEEDS = range(20)
NO_SCANNER = ScannerConfig(
    invert=0, bias=0, blur=0, thick_slices=0, gaussian=0, rician=0, speckle=0, cut_field_of_view=0
)
PLAIN = SynthConfig(intensity_sd=0, texture=0, scanner=NO_SCANNER)


def cohort_of(*seed: int, shape=SHAPE, settings=SynthConfig()):  # noqa: B008 - frozen
    return sample_cohort(seed, shape, settings)


@pytest.fixture(scope="module")
def cohorts():
    return [cohort_of(5, 0, index) for index in SEEDS]


@pytest.fixture(scope="module")
def subjects(cohorts):
    """Subjects 0 and 1 of each cohort: images and labels."""
    return [[cohort.subject(i) for i in range(2)] for cohort in cohorts]


def test_a_seed_gives_the_same_cohort_and_subjects_in_any_order(cohorts, subjects):
    again = cohort_of(5, 0, 3)
    np.testing.assert_array_equal(again.anatomy.tissue, cohorts[3].anatomy.tissue)
    np.testing.assert_array_equal(again.brightness, cohorts[3].brightness)
    assert again.names == cohorts[3].names
    for index in (1, 0):
        for given, expected in zip(again.subject(index), subjects[3][index], strict=True):
            np.testing.assert_array_equal(given, expected)


def test_cohorts_can_be_compared_and_hashed(cohorts):
    assert len({cohorts[0], cohort_of(5, 0, 0)}) == 2


@pytest.mark.parametrize("other", [(5, 0, 1), (5, 1, 0), (6, 0, 0)])
def test_every_part_of_the_seed_gives_another_anatomy(cohorts, other):
    assert (cohort_of(*other).anatomy.tissue != cohorts[0].anatomy.tissue).mean() > 0.05


def test_subjects_have_the_shape_and_type_that_they_should(cohorts, subjects):
    for cohort, pair in zip(cohorts, subjects, strict=True):
        assert list(cohort.names) == list(range(1, cohort.structures + 1))
        for image, label in pair:
            assert image.shape == label.shape == SHAPE
            assert (image.dtype, label.dtype) == (np.float32, np.uint8)
            assert np.isfinite(image).all()
            assert label.max() <= cohort.structures


def test_almost_every_label_is_in_every_subject(cohorts, subjects):
    there = [
        label in found
        for cohort, pair in zip(cohorts, subjects, strict=True)
        for _, found in pair
        for label in cohort.names
    ]
    assert np.mean(there) > 0.97


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
    assert np.median(gaps) > 0


def test_without_effects_an_image_is_its_tissues(subjects):
    for seed in range(6):
        cohort = cohort_of(seed, settings=PLAIN)
        image, label = cohort.subject(0)
        for value in np.unique(label[label > 0]):
            shown = set(image[label == value])
            assert shown <= set(cohort.brightness[cohort.anatomy.label_of == value])


def test_contrast_shifts_whole_tissues_by_subject():
    settings = SynthConfig(intensity_sd=0.1, texture=0, scanner=NO_SCANNER)
    cohort = cohort_of(1, settings=settings)
    (a, label), (b, other) = cohort.subject(0), cohort.subject(1)
    value = np.argmax(np.bincount(label[label > 0]))
    tissues = (cohort.anatomy.label_of == value).sum()
    assert len(set(a[label == value])) <= tissues
    assert set(a[label == value]).isdisjoint(b[other == value])


def test_texture_varies_within_a_tissue_alone():
    settings = SynthConfig(intensity_sd=0, texture=0.3, scanner=NO_SCANNER)
    rough, plain = (cohort_of(1, settings=s).subject(0) for s in (settings, PLAIN))
    difference = rough[0] - plain[0]
    inside = rough[1] > 0
    assert 0.02 < difference[inside].std() < 0.5
    assert abs(difference[inside].mean()) < 0.05


def test_without_deformation_all_subjects_have_the_labels_of_the_template():
    settings = SynthConfig(deformation=0, scanner=NO_SCANNER, kinds={"lesions": 0})
    cohort = cohort_of(2, settings=settings)
    labels = [cohort.subject(index)[1] for index in range(3)]
    np.testing.assert_array_equal(labels[0], labels[1])
    np.testing.assert_array_equal(labels[0], labels[2])


def test_more_deformation_moves_more():
    def overlap(deformation):
        settings = SynthConfig(deformation=deformation, scanner=NO_SCANNER)
        cohorts = [cohort_of(seed, settings=settings) for seed in range(5)]
        pairs = [[cohort.subject(i)[1] for i in range(2)] for cohort in cohorts]
        return np.mean([((a == b) & (a > 0)).sum() / (a > 0).sum() for a, b in pairs])

    assert overlap(0.01) > overlap(0.04) > overlap(0.15)


def test_a_large_cohort_takes_less_than_two_seconds_of_one_core():
    settings = SynthConfig(structures=(20, 20))
    start = time.process_time()
    cohort = sample_cohort((0, 1), (64, 64, 64), settings)
    for index in range(9):
        cohort.subject(index)
    assert time.process_time() - start < 2


def test_cohorts_differ_in_how_much_their_subjects_do_within_the_limits():
    settings = SynthConfig(deformation=(0.02, 0.1), intensity_sd=(0.01, 0.2))
    cohorts = [cohort_of(seed, settings=settings) for seed in range(12)]
    for name, low, high in (("deformation", 0.02, 0.1), ("intensity_sd", 0.01, 0.2)):
        found = [getattr(cohort, name) for cohort in cohorts]
        assert low <= min(found) < (low + high) / 2 < max(found) <= high


def test_one_number_stands_for_both_limits_and_draws_nothing():
    assert SynthConfig(deformation=0.07, intensity_sd=0).deformation == (0.07, 0.07)
    a, b = (cohort_of(3, settings=SynthConfig(deformation=d)).anatomy.tissue for d in (0.01, 0.09))
    np.testing.assert_array_equal(a, b)


def test_tissues_of_the_same_appearance_have_one_intensity_in_every_subject():
    plain = replace(
        PLAIN, intensity_sd=(0.2, 0.2), kinds=KindsConfig(organ=0, lobes=1), same_appearance=1.0
    )
    found = 0
    for seed in range(4):
        cohort = cohort_of(seed, settings=plain)
        image, label = cohort.subject(0)
        appearances = cohort.anatomy.appearance_of
        lobes = [value for value, name in cohort.names.items() if name.startswith("lobe")]
        for value in lobes:
            (tissue,) = np.flatnonzero(cohort.anatomy.label_of == value)
            for other in np.flatnonzero(
                (appearances == appearances[tissue]) & (appearances != np.arange(len(appearances)))
            ):
                both = [set(image[label == v]) for v in (value, cohort.anatomy.label_of[other])]
                if all(both):
                    assert both[0] == both[1]
                    found += 1
    assert found


def test_tissues_share_levels_of_intensity_if_the_settings_say_so():
    for seed in range(6):
        settings = replace(PLAIN, intensity_levels=(3, 3), structures=(12, 18))
        brightness = np.sort(cohort_of(seed, settings=settings).brightness[1:])
        assert (np.diff(brightness) > 0.12).sum() <= 2
        assert np.ptp(brightness) > 0.3
    own = replace(PLAIN, intensity_levels=(0, 0))
    np.testing.assert_array_equal(
        cohort_of(1, settings=own).brightness, cohort_of(1, settings=PLAIN).brightness
    )
