"""Anatomies from the label maps of a store."""

import numpy as np
import pytest

from wsicl_jax.config import SynthConfig, VolumeConfig
from wsicl_jax.data.sources import synthetic_subjects
from wsicl_jax.data.store import create_store, finish_store, write_case
from wsicl_jax.data.synth.cohort import draw_cohort, fingerprint
from wsicl_jax.data.synth.prior import prior_anatomy
from wsicl_jax.errors import DataError

SHAPE = (24, 20, 28)
NAMES = {1: "liver", 2: "spleen", 4: "left kidney", 9: "right kidney"}
PLACES = {1: (2, 3), 2: (12, 3), 4: (2, 12), 9: (12, 12)}


def write(path, cases):
    create_store(path, path.name, ["CT"], NAMES)
    for name, values in cases.items():
        label = np.zeros((20, 22, 10), np.uint8)
        for value in values:
            x, y = PLACES[value]
            label[x : x + 6, y : y + 7, 2:8] = value
        write_case(
            path, name, np.zeros((1, *label.shape), np.float32), label, np.diag([1.0, 1, 2, 1])
        )
    finish_store(path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "abdomen"
    return write(path, {"a": (1, 2, 4, 9), "b": (1, 2, 4, 9), "c": (1, 2, 4, 9)})


def settings(store, **others) -> SynthConfig:
    return SynthConfig(prior=str(store), **({"prior_drop": 0, "prior_merge": 0} | others))


def test_an_anatomy_keeps_the_labels_of_its_prior(store):
    for seed in range(6):
        cohort = draw_cohort((seed,), SHAPE, settings(store))
        assert sorted(cohort.names.values()) == sorted(NAMES.values())
        for index in range(2):
            _, label = cohort.subject(index)
            assert set(np.unique(label)) == {0, 1, 2, 3, 4}


def test_a_structure_is_as_large_and_in_the_order_of_the_prior(store):
    """The case's blocks fill 6 / 20 * 7 / 22 * 6 / 10 of the volume each."""
    cohort = draw_cohort((0,), SHAPE, settings(store, deformation=0))
    _, label = cohort.subject(0)
    shares = np.bincount(label.ravel())[1:] / label.size
    np.testing.assert_allclose(shares, 6 / 20 * 7 / 22 * 6 / 10, rtol=0.2)
    centre = {name: np.argwhere(label == value).mean(0) for value, name in cohort.names.items()}
    # Mirrored at random, but neighbours along an axis stay neighbours.
    assert abs(centre["liver"][1] - centre["spleen"][1]) < 0.5
    assert abs(centre["liver"][0] - centre["left kidney"][0]) < 0.5


def test_many_cohorts_come_from_one_store(store):
    a, b = (draw_cohort((seed,), SHAPE, settings(store)).anatomy.tissue for seed in (0, 1))
    assert (a != b).mean() > 0.05
    again = draw_cohort((0,), SHAPE, settings(store)).anatomy.tissue
    np.testing.assert_array_equal(a, again)


def test_dropped_labels_are_seen_but_not_named(store):
    anatomy = prior_anatomy(np.random.default_rng(0), SHAPE, settings(store, prior_drop=1.0), 0.0)
    assert len(anatomy.names) == 1
    assert len(anatomy.label_of) >= 2 + len(NAMES)


def test_united_labels_are_tissues_of_their_own(store):
    anatomy = prior_anatomy(np.random.default_rng(0), SHAPE, settings(store, prior_merge=1.0), 0.0)
    (name,) = anatomy.names.values()
    assert name == "liver + spleen + left kidney + right kidney"
    assert (anatomy.label_of == 1).sum() == 4


def test_a_source_draws_from_a_prior(store):
    volume = VolumeConfig(grid=(16, 16, 16))
    subjects, labels = synthetic_subjects(
        (0, 0), volume, 2, structures=2, min_voxels=8, settings=settings(store)
    )
    assert len(subjects) == 2
    assert len(labels) >= 2


def test_the_fingerprint_changes_with_the_cases(store, tmp_path):
    assert fingerprint(SynthConfig()) == 0
    same = write(tmp_path / "same", {"a": (1, 2, 4, 9), "b": (1, 2, 4, 9), "c": (1, 2, 4, 9)})
    other = write(tmp_path / "other", {"a": (1, 2, 4, 9), "b": (1, 2, 4)})
    found = [fingerprint(settings(path)) for path in (store, same, other)]
    assert found[0] == found[1] != found[2]


def test_a_prior_that_cannot_serve_is_refused(tmp_path):
    with pytest.raises(DataError, match="no store"):
        draw_cohort((0,), SHAPE, settings(tmp_path / "none"))
    empty = write(tmp_path / "empty", {"a": ()})
    with pytest.raises(DataError, match=r"case a of .* has 0 labels"):
        draw_cohort((0,), SHAPE, settings(empty))
    without = write(tmp_path / "without", {})
    with pytest.raises(DataError, match="has no case"):
        draw_cohort((0,), SHAPE, settings(without))
