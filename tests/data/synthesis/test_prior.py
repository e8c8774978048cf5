"""Anatomies from the cases of stores."""

import itertools
from dataclasses import fields

import numpy as np
import pytest

from wsicl_jax.config import PriorConfig, ScannerConfig, SynthConfig, VolumeConfig, config_from_dict
from wsicl_jax.data.episodes.sources import synthetic_subjects
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.data.synthesis.cohort import sample_cohort
from wsicl_jax.data.synthesis.prior import prior_anatomy, priors_fingerprint, sample_prior
from wsicl_jax.errors import ConfigError, DataError

SHAPE = (24, 20, 28)
NAMES = {1: "liver", 2: "spleen", 4: "left kidney", 9: "right kidney"}
PLACES = {1: (2, 3), 2: (12, 3), 4: (2, 12), 9: (12, 12)}


def write(path, cases, brightness=0.0):
    """Blocks of labels in an image that is `brightness` times the label."""
    create_store(path, path.name, ["CT"], NAMES)
    for name, values in cases.items():
        label = np.zeros((20, 22, 10), np.uint8)
        for value in values:
            x, y = PLACES[value]
            label[x : x + 6, y : y + 7, 2:8] = value
        image = (brightness * label).astype(np.float32)
        write_case(path, name, image[None], label, np.diag([1.0, 1, 2, 1]))
    finish_store(path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "abdomen"
    return write(path, {"a": (1, 2, 4, 9), "b": (1, 2, 4, 9), "c": (1, 2, 4, 9)})


def priors(*stores) -> tuple[PriorConfig, ...]:
    return tuple(PriorConfig(store=str(store)) for store in stores)


def settings(*stores, **others) -> SynthConfig:
    return SynthConfig(priors=priors(*stores), **({"prior_drop": 0, "prior_merge": 0} | others))


def anatomy_of(store, seed=0, deformation=0.0, **others):
    rng, wanted = np.random.default_rng(seed), settings(store, **others)
    return prior_anatomy(rng, SHAPE, wanted, wanted.priors[0], deformation)


def test_an_anatomy_keeps_the_labels_of_its_prior(store):
    for seed in range(6):
        cohort = sample_cohort((seed,), SHAPE, settings(store))
        assert sorted(cohort.names.values()) == sorted(NAMES.values())
        for index in range(2):
            _, label = cohort.subject(index)
            assert set(np.unique(label)) == {0, 1, 2, 3, 4}


def test_a_structure_is_as_large_and_in_the_order_of_the_prior(store):
    """The case's blocks fill 6 / 20 * 7 / 22 * 6 / 10 of the volume each."""
    cohort = sample_cohort((0,), SHAPE, settings(store, deformation=0))
    _, label = cohort.subject(0)
    shares = np.bincount(label.ravel())[1:] / label.size
    np.testing.assert_allclose(shares, 6 / 20 * 7 / 22 * 6 / 10, rtol=0.2)
    centre = {name: np.argwhere(label == value).mean(0) for value, name in cohort.names.items()}
    # Mirrored at random, but neighbours along an axis stay neighbours.
    assert abs(centre["liver"][1] - centre["spleen"][1]) < 0.5
    assert abs(centre["liver"][0] - centre["left kidney"][0]) < 0.5


def test_many_cohorts_come_from_one_store(store):
    a, b = (sample_cohort((seed,), SHAPE, settings(store)).anatomy.tissue for seed in (0, 1))
    assert (a != b).mean() > 0.05
    again = sample_cohort((0,), SHAPE, settings(store)).anatomy.tissue
    np.testing.assert_array_equal(a, again)


def test_dropped_labels_are_seen_but_not_named(store):
    anatomy = anatomy_of(store, prior_drop=1.0)
    assert len(anatomy.names) == 1
    assert len(anatomy.label_of) >= 2 + len(NAMES)


def test_united_labels_stay_separate_tissues(store):
    anatomy = anatomy_of(store, prior_merge=1.0)
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
    assert priors_fingerprint(SynthConfig()) == 0
    same = write(tmp_path / "same", {"a": (1, 2, 4, 9), "b": (1, 2, 4, 9), "c": (1, 2, 4, 9)})
    other = write(tmp_path / "other", {"a": (1, 2, 4, 9), "b": (1, 2, 4)})
    found = [priors_fingerprint(settings(path)) for path in (store, same, other)]
    assert found[0] == found[1] != found[2]


def test_priors_and_shapes_are_drawn_by_their_weights(store):
    wanted = SynthConfig(
        priors=(PriorConfig(store="a", weight=2), PriorConfig(store="b", weight=1)),
        shapes_weight=1,
    )
    rng = np.random.default_rng(0)
    drawn = [sample_prior(rng, wanted) for _ in range(4000)]
    shares = [sum(d is not None and d.store == name for d in drawn) / 4000 for name in "ab"]
    np.testing.assert_allclose([*shares, drawn.count(None) / 4000], [0.5, 0.25, 0.25], atol=0.03)


def test_without_priors_all_anatomies_are_of_shapes():
    assert sample_prior(np.random.default_rng(0), SynthConfig()) is None


def test_a_prior_of_weight_0_is_refused():
    with pytest.raises(ConfigError, match="greater than 0"):
        config_from_dict({"synth": {"priors": [{"store": "a", "weight": 0}]}})


def test_cohorts_come_from_all_priors(store, tmp_path):
    other = write(tmp_path / "other", {"x": (1, 2)})
    wanted = settings(store, other, shapes_weight=1)
    counts = {sample_cohort((seed,), SHAPE, wanted).names.get(1, "")[:5] for seed in range(20)}
    assert {"liver", "organ"} <= counts
    sizes = {sample_cohort((seed,), SHAPE, settings(store, other)).structures for seed in range(12)}
    assert sizes == {2, 4}


PLAIN = ScannerConfig(**dict.fromkeys([f.name for f in fields(ScannerConfig)], 0.0))


def test_a_kept_image_moves_with_its_labels(tmp_path):
    """The image is bright where its case has the label 9, and dark elsewhere."""
    path = write(tmp_path / "bright", {"a": (2, 9)}, brightness=1.0)
    wanted = settings(path, prior_image=1.0, deformation=0.05, intensity_sd=0, scanner=PLAIN)
    for seed in range(4):  # mirrored along other axes in each
        cohort = sample_cohort((seed,), SHAPE, wanted)
        label_of = {name: value for value, name in cohort.names.items()}
        seen = []
        for index in range(2):
            image, label = cohort.subject(index)
            assert image[label == label_of["right kidney"]].mean() > 0.8
            assert image[label == 0].mean() < 0.15
            assert 0.15 < image[label == label_of["spleen"]].mean() < 0.35
            seen.append(label)
        assert (seen[0] != seen[1]).any()


def test_intensities_are_kept_as_often_as_set(store):
    wanted = {"prior_image": 0.5}
    kept = [anatomy_of(store, seed, **wanted).image is not None for seed in range(60)]
    assert 15 < sum(kept) < 45
    assert anatomy_of(store).image is None


def test_subjects_of_a_kept_image_differ_in_contrast(tmp_path):
    path = write(tmp_path / "bright", {"a": (2, 9)}, brightness=1.0)
    wanted = settings(path, prior_image=1.0, deformation=0, intensity_sd=0.05, scanner=PLAIN)
    cohort = sample_cohort((1,), SHAPE, wanted)
    value = {name: value for value, name in cohort.names.items()}["spleen"]
    means = [image[label == value].mean() for image, label in map(cohort.subject, range(6))]
    assert np.std(means) > 0.02


def test_a_crop_enlarges_a_part(store):
    wide, close = (
        np.mean([(a.tissue > 1).mean() for a in (anatomy_of(store, s, **more) for s in range(12))])
        for more in (
            {"body": 0, "distractors": (0, 0)},
            {"body": 0, "distractors": (0, 0), "prior_crop": 1},
        )
    )
    assert close > 1.15 * wide


def test_a_label_too_small_to_be_seen_leaves_a_cohort_without_it(tmp_path):
    path = tmp_path / "speck"
    create_store(path, "speck", ["CT"], NAMES)
    label = np.zeros((90, 90, 90), np.uint8)
    label[7, 9, 11] = 1
    write_case(path, "a", np.zeros((1, *label.shape), np.float32), label, np.eye(4))
    finish_store(path)
    counts = {sample_cohort((seed,), SHAPE, settings(path)).structures for seed in range(4)}
    assert 0 in counts


def test_an_atlas_of_more_labels_than_a_canvas_has_tissues_has_some_united(tmp_path):
    label = np.arange(1, 551, dtype=np.uint16).reshape(10, 11, 5)
    label = label.repeat(3, axis=0).repeat(3, axis=1).repeat(3, axis=2)
    create_store(tmp_path / "atlas", "atlas", ["MR"], {n: f"region {n}" for n in range(1, 551)})
    write_case(tmp_path / "atlas", "a", label[None].astype(np.float32), label, np.eye(4))
    finish_store(tmp_path / "atlas")
    wanted = settings(tmp_path / "atlas")
    rng = np.random.default_rng(0)
    anatomy = prior_anatomy(rng, label.shape, wanted, wanted.priors[0], 0.0)
    assert len(anatomy.names) == 200
    united = [name.split(" + ") for name in anatomy.names.values()]
    assert sorted(itertools.chain(*united)) == sorted(f"region {n}" for n in range(1, 551))
    assert {len(names) for names in united} == {2, 3}
    assert set(np.unique(anatomy.label_of[anatomy.tissue])) >= set(range(1, 201))


def test_a_prior_that_cannot_serve_is_refused(tmp_path):
    with pytest.raises(DataError, match="no store"):
        sample_cohort((0,), SHAPE, settings(tmp_path / "none"))
    empty = write(tmp_path / "empty", {"a": ()})
    with pytest.raises(DataError, match=r"case a of .* has no label"):
        sample_cohort((0,), SHAPE, settings(empty))
    without = write(tmp_path / "without", {})
    with pytest.raises(DataError, match="has no case"):
        sample_cohort((0,), SHAPE, settings(without))
