"""What the template of a cohort promises, for every kind of structure by itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from wsicl_jax.config import KindsConfig, SynthConfig
from wsicl_jax.data.synthesis.anatomy import sample_anatomy
from wsicl_jax.data.synthesis.canvas import BODY, OUTSIDE, Anatomy

SHAPE = (48, 52, 44)
SEEDS = range(8)
NONE = dict.fromkeys(vars(KindsConfig()).keys() & set(KindsConfig.__dataclass_fields__), 0.0)


def only(**kinds: float) -> SynthConfig:
    return SynthConfig(kinds=KindsConfig(**(NONE | kinds)), structures=(5, 9), distractors=(0, 0))


def drawn(**kinds: float) -> list[Anatomy]:
    return [sample_anatomy(np.random.default_rng(seed), SHAPE, only(**kinds)) for seed in SEEDS]


def of_kind(anatomy: Anatomy, kind: str) -> list[int]:
    return [label for label, name in anatomy.names.items() if name.startswith(kind)]


def labels(anatomy: Anatomy) -> np.ndarray:
    return anatomy.label_of[anatomy.tissue]


def around(mask: np.ndarray) -> np.ndarray:
    """The voxels that share a face with a mask."""
    return ndimage.binary_dilation(mask) & ~mask


@pytest.mark.parametrize("kind", sorted(NONE))
def test_every_kind_is_drawn_and_named(kind):
    for anatomy in drawn(**{kind: 1.0, "organ": 0.5}):
        assert list(anatomy.names) == list(range(1, len(anatomy.names) + 1))
        assert len(set(anatomy.names.values())) == len(anatomy.names)
        assert 5 <= len(anatomy.names) <= 9
        assert set(anatomy.label_of) - {0} == set(anatomy.names)
    name = {"lobes": "lobe"}.get(kind, kind)
    assert sum(len(of_kind(anatomy, name)) for anatomy in drawn(**{kind: 1.0, "organ": 0.5})) > 8


def test_an_organ_is_one_piece():
    for anatomy in drawn(organ=1):
        for label in of_kind(anatomy, "organ"):
            assert ndimage.label(labels(anatomy) == label)[1] == 1


def test_a_nested_structure_is_surrounded_by_its_host():
    found = 0
    for anatomy in drawn(nested=1, organ=1):
        for label in of_kind(anatomy, "nested"):
            neighbours = set(labels(anatomy)[around(labels(anatomy) == label)])
            outer = neighbours - set(of_kind(anatomy, "nested"))
            assert len(outer) <= 1
            assert 0 not in neighbours
            found += 1
    assert found > 8


def test_a_shell_encloses_what_is_in_it():
    found = 0
    for anatomy in drawn(shell=1):
        for label in of_kind(anatomy, "shell"):
            wall = int(np.flatnonzero(anatomy.label_of == label)[0])
            lumen = anatomy.tissue == wall + 1
            assert anatomy.label_of[wall + 1] == 0
            assert lumen.any()
            assert set(anatomy.tissue[around(lumen)]) == {wall}
            found += 1
    assert found > 8


def test_lobes_touch_each_other():
    for anatomy in drawn(lobes=1):
        lobes = of_kind(anatomy, "lobe")
        for label in lobes:
            assert set(labels(anatomy)[around(labels(anatomy) == label)]) & set(lobes)


def test_pairs_mirror_each_other():
    one = two = 0
    for anatomy in drawn(pair=1):
        template = labels(anatomy)
        for label in of_kind(anatomy, "pair"):
            name = anatomy.names[label]
            if name.endswith("right"):
                continue
            if name.endswith("left"):
                right = label + 1
                assert anatomy.names[right] == f"pair {label} right"
                assert not (template == label)[SHAPE[0] // 2 :].any()
                two += 1
            else:
                right = label
                assert ndimage.label(template == label)[1] == 2
                one += 1
            np.testing.assert_array_equal((template == label)[::-1], template == right)
    assert one > 3
    assert two > 3


def test_tubes_leave_pairs_their_symmetry_and_shells_their_wall():
    for anatomy in drawn(pair=1, tube=3):
        template = labels(anatomy)
        for label in of_kind(anatomy, "pair"):
            if anatomy.names[label].endswith("left"):
                np.testing.assert_array_equal((template == label)[::-1], template == label + 1)


def test_a_tube_is_long_and_one_piece():
    for anatomy in drawn(tube=1):
        for label in of_kind(anatomy, "tube"):
            mask = labels(anatomy) == label
            assert ndimage.label(mask)[1] == 1
    lengths = [
        np.ptp(np.argwhere(labels(anatomy) == label), 0).max()
        for anatomy in drawn(tube=1)
        for label in of_kind(anatomy, "tube")
    ]
    assert np.median(lengths) > 12


def test_lesions_lie_in_their_host_and_differ_between_subjects():
    found = 0
    for anatomy in drawn(lesions=1, organ=1):
        for lesions in anatomy.lesions:
            a, b = (anatomy.with_lesions(np.random.default_rng(seed)) for seed in (0, 1))
            for subject in (a, b):
                mask = subject == lesions.tissue
                assert mask.any()
                assert (anatomy.tissue[mask] == lesions.host).all()
            assert ((a == lesions.tissue) != (b == lesions.tissue)).any()
            found += 1
    assert found > 5


def test_the_number_of_lesions_differs_between_subjects():
    anatomies = [anatomy for anatomy in drawn(lesions=1, organ=1) if anatomy.lesions]
    anatomy = max(anatomies, key=lambda anatomy: anatomy.lesions[0].mean_count)
    tissue = anatomy.lesions[0].tissue
    counts = [
        ndimage.label(anatomy.with_lesions(np.random.default_rng(seed)) == tissue)[1]
        for seed in range(20)
    ]
    # Blobs may touch, which makes a few of what were more; a fixed number would vary less.
    assert np.ptp(counts) >= 4


def test_distractors_are_seen_but_have_no_label():
    settings = SynthConfig(
        structures=(2, 3), distractors=(4, 4), kinds=KindsConfig(**NONE | {"organ": 1})
    )
    anatomy = sample_anatomy(np.random.default_rng(0), SHAPE, settings)
    shown = set(np.unique(anatomy.tissue)) - {OUTSIDE, BODY}
    assert len([tissue for tissue in shown if anatomy.label_of[tissue] == 0]) >= 4


@pytest.mark.parametrize("body", [0.0, 1.0])
def test_a_body_ends_within_the_volume_or_fills_it(body):
    settings = SynthConfig(body=body)
    for seed in SEEDS:
        anatomy = sample_anatomy(np.random.default_rng(seed), SHAPE, settings)
        assert (anatomy.tissue == OUTSIDE).any() == bool(body)
        assert (anatomy.tissue[::47, ::51, ::43] == OUTSIDE).all() == bool(body)


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 4, 90), (12, 12, 12)])
def test_structures_without_room_are_skipped(shape):
    for seed in SEEDS:
        anatomy = sample_anatomy(
            np.random.default_rng(seed), shape, SynthConfig(structures=(40, 50))
        )
        assert len(anatomy.names) < 40
        assert anatomy.tissue.shape == shape


def appearances(anatomy: Anatomy, kind: str) -> list[int]:
    """The tissue that gives each label of a kind its appearance."""
    of = anatomy.appearance_of
    return [int(of[anatomy.label_of == label][0]) for label in of_kind(anatomy, kind)]


def test_lobes_and_pairs_have_the_same_appearance_if_set():
    for kind, name in (("lobes", "lobe"), ("pair", "pair")):
        for alike, expected in ((0.0, False), (1.0, True)):
            settings = replace(only(**{kind: 1.0}), same_appearance=alike)
            found = [sample_anatomy(np.random.default_rng(seed), SHAPE, settings) for seed in SEEDS]
            shared = [len(set(appearances(a, name))) < len(appearances(a, name)) for a in found]
            assert any(shared) == expected


def test_parcellation_divides_all_unlabelled_tissue_and_changes_no_appearance():
    settings = replace(only(organ=1), distractors=(2, 4), body=1.0)
    divided = replace(settings, parcellation=1.0)
    for seed in SEEDS:
        before = sample_anatomy(np.random.default_rng(seed), SHAPE, settings)
        after = sample_anatomy(np.random.default_rng(seed), SHAPE, divided)
        kept = labels(before) > 0
        np.testing.assert_array_equal(labels(before)[kept], labels(after)[kept])
        seen = [anatomy.appearance_of[anatomy.tissue] for anatomy in (before, after)]
        np.testing.assert_array_equal(*seen)
        assert 2 <= len(of_kind(after, "territory")) <= 6
        assert (labels(after)[after.tissue != OUTSIDE] > 0).all()
