import pickle
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabricated import dataset, store_of

from wsicl_jax.config import DatasetConfig, EpisodeConfig, SynthConfig, VolumeConfig
from wsicl_jax.data.datasets import dataset_of
from wsicl_jax.data.episodes import sources
from wsicl_jax.data.episodes.cached_cases import case_crop, full_resolution_case, working_grid_case
from wsicl_jax.data.episodes.sources import StoreSource, SyntheticSource, synthetic_subjects
from wsicl_jax.data.store import Store
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.data.subject_group import group_of, mask_of
from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box

VOLUME = VolumeConfig(grid=(8, 8, 8))
SHAPE = (8, 8, 8)


def make_store(path: Path, labels_of: dict[str, tuple[int, ...]], channels=("T1",)) -> Path:
    """Each case's mean intensity tells its position; each label is a slab of its own."""
    names = {1: "left", 2: "right", 3: "rare", 4: "tiny"}
    create_store(path, "tiny", channels, names)
    ramp = np.linspace(0, 1, 512, dtype=np.float32).reshape(SHAPE)
    for position, (name, labels) in enumerate(labels_of.items()):
        label = np.zeros(SHAPE, np.uint8)
        for value in labels:
            label[2 * value - 2] = value
            if value == 4:
                label[6, 1:] = 0
        image = np.stack([np.roll(ramp, 7 * position + i) for i in range(len(channels))])
        write_case(path, name, image, label, np.eye(4))
    finish_store(path)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """12 cases with labels 1 and 2, of which four have label 3 too."""
    labels = {f"case{i:02}": (1, 2, 3) if i % 3 == 0 else (1, 2) for i in range(12)}
    return make_store(tmp_path_factory.mktemp("sources") / "store", labels, ("T1", "T2"))


def source_of(path: Path, contexts: int = 2, volume=VOLUME, **episode) -> StoreSource:
    episode = EpisodeConfig(contexts=(contexts, contexts), **episode)
    settings = DatasetConfig(store=str(path))
    return StoreSource(dataset_of(Store.open(path), settings, episode, 0), volume, episode)


def test_a_prepared_case_is_normalised_on_the_working_grid(path):
    store = Store.open(path)
    image, label = working_grid_case(store, "case00", 0, VolumeConfig(grid=(16, 8, 4)))
    assert image.shape == label.shape == (16, 8, 4)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1
    assert set(np.unique(label)) == {0, 1, 2, 3}


def test_a_prepared_case_is_read_once(path, monkeypatch):
    store, volume = Store.open(path), VolumeConfig(grid=(8, 8, 16))
    first = working_grid_case(store, "case00", 0, volume)
    monkeypatch.setattr(Store, "read", None)
    for again in (store, Store.open(path)):
        assert working_grid_case(again, "case00", 0, volume)[0] is first[0]


def test_prepared_cases_differ_by_case_channel_and_volume(path):
    store = Store.open(path)
    keys = [
        ("case00", 0, VOLUME),
        ("case01", 0, VOLUME),
        ("case00", 1, VOLUME),
        ("case00", 0, VolumeConfig(grid=(8, 8, 8), percentiles=(10, 90))),
    ]
    images = {working_grid_case(store, *key)[0].tobytes() for key in keys}
    assert len(images) == 4


def drawn_cases(source, monkeypatch, count: int, draws: int) -> list[list[str]]:
    """Names of the cases of each group, target first."""
    names = []
    monkeypatch.setattr(
        sources,
        "working_grid_case",
        lambda store, name, *rest: names.append(name) or working_grid_case(store, name, *rest),
    )
    for index in range(draws):
        source.sample(index, count, np.random.default_rng(index))
    return [names[i : i + count] for i in range(0, len(names), count)]


def test_a_store_shows_every_training_case_and_no_other(path, monkeypatch):
    episode = EpisodeConfig(contexts=(2, 2), validation_share=0.25)
    data = dataset_of(Store.open(path), DatasetConfig(store=str(path)), episode, 0)
    assert len(data.cases("validation")) == 3
    source = StoreSource(data, VOLUME, episode)
    groups = drawn_cases(source, monkeypatch, 3, 60)
    assert {name for group in groups for name in group} == set(data.cases("train"))


def test_a_group_never_shows_a_case_twice(path, monkeypatch):
    for group in drawn_cases(source_of(path), monkeypatch, 3, 40):
        assert len(set(group)) == 3


def test_only_labels_with_enough_training_cases_are_drawn(path):
    def drawn(contexts):
        found = source_of(path, contexts=contexts, validation_share=0.0).structures
        return {structure.labels[0]: len(structure.cases) for structure in found}

    assert drawn(3) == {1: 12, 2: 12, 3: 4}
    assert drawn(4) == {1: 12, 2: 12}


def test_at_most_max_labels_are_united(path):
    source = source_of(path, max_labels=1)
    sizes = {
        int(mask.sum())
        for index in range(20)
        for mask in source.sample(index, 3, np.random.default_rng(index)).group.masks
    }
    assert sizes == {64}


def test_every_subject_of_a_store_group_shows_the_structure(path):
    source = source_of(path)
    for index in range(30):
        group = source.sample(index, 3, np.random.default_rng(index)).group
        for mask in group.masks:
            assert mask.dtype == bool
            assert 8 <= mask.sum() < mask.size


def test_every_channel_of_a_store_is_sampled(path):
    source = source_of(path)
    shown = {
        source.sample(0, 3, np.random.default_rng(seed)).group.images[0].tobytes()
        for seed in range(80)
    }
    both = [
        {
            working_grid_case(source.store, n, channel, VOLUME)[0].tobytes()
            for n in source.store.cases
        }
        for channel in (0, 1)
    ]
    assert all(shown & channel for channel in both)


def test_too_few_training_cases_are_refused_with_their_number(path):
    with pytest.raises(DataError, match=r"13 training cases \(at most 12\).*episode.contexts"):
        source_of(path, contexts=12, validation_share=0.0)


def test_a_structure_that_vanishes_on_the_grid_is_refused(tmp_path):
    path = make_store(tmp_path / "store", {f"case{i}": (4,) for i in range(5)})
    source = source_of(path)
    source.sample(0, 3, np.random.default_rng(0))
    coarse = source_of(path, volume=VolumeConfig(grid=(8, 8, 4)))
    message = rf"{re.escape(str(path))}: .*volume\.grid"
    with pytest.raises(DataError, match=message):
        coarse.sample(0, 3, np.random.default_rng(0))


def test_a_structure_that_fills_a_case_is_not_sampled(tmp_path):
    path = tmp_path / "store"
    create_store(path, "full", ("T1",), {1: "whole"})
    for i in range(5):
        image = np.random.default_rng(i).random((1, *SHAPE), np.float32)
        write_case(path, f"case{i}", image, np.ones(SHAPE, np.uint8), np.eye(4))
    finish_store(path)
    with pytest.raises(DataError, match="no structure"):
        source_of(path).sample(0, 3, np.random.default_rng(0))


def test_a_missing_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="no store"):
        source_of(tmp_path / "none")


def test_a_synthetic_cohort_follows_from_seed_and_index():
    grid = VolumeConfig(grid=(16, 16, 16))

    def group(seed, index):
        source = SyntheticSource(seed, grid, EpisodeConfig())
        return source.sample(index, 3, np.random.default_rng(0)).group

    first = group(0, 5)
    np.testing.assert_array_equal(group(0, 5).images, first.images)
    np.testing.assert_array_equal(group(0, 5).masks, first.masks)
    for other in (group(0, 6), group(1, 5)):
        assert (np.stack(other.images) != np.stack(first.images)).any()


def test_synthetic_subjects_show_enough_structures_that_are_large_in_all_of_them():
    volume = VolumeConfig(grid=(16, 16, 16))
    smallest = SynthConfig().min_structure_share * 16**3
    for index in range(10):
        subjects, labels = synthetic_subjects((0, 1, index), volume, 4, structures=2, min_voxels=8)
        assert len(subjects) == 4
        assert len(labels) >= 2
        for image, label in subjects:
            assert 0 <= image.min() < image.max() <= 1
            assert all((label == value).sum() >= smallest for value in labels)


def test_impossible_numbers_of_synthetic_structures_are_refused():
    with pytest.raises(DataError, match="99 structures"):
        synthetic_subjects((0,), VOLUME, 1, structures=99, min_voxels=8)


@pytest.mark.parametrize("many", [1, 5, 16, 17, 40])
def test_a_mask_is_where_any_of_the_labels_is(many):
    label = np.random.default_rng(0).integers(0, 60, SHAPE).astype(np.uint8)
    labels = list(range(3, 3 + many))
    np.testing.assert_array_equal(mask_of(label, labels), np.isin(label, labels))


def test_a_group_has_the_union_of_its_labels():
    label = np.arange(512, dtype=np.uint8).reshape(SHAPE) % 4
    image = np.zeros(SHAPE, np.float32)
    group = group_of([(image, label), (image + 1, 3 - label)], [1, 3])
    np.testing.assert_array_equal(group.masks, [label % 2 == 1, label % 2 == 0])
    np.testing.assert_array_equal(group.images, [image, image + 1])


# What is drawn how often. The stores have no files, and every case shows all that it has.


def asked(monkeypatch, source: StoreSource, draws: int, count: int = 2) -> list[tuple]:
    """The labels, the channel and the cases of each group."""
    shown, drawn = [], []

    def case(store, name, channel, volume):
        drawn.append((name, channel))
        image = np.zeros((2, 2, 2), np.float32)
        return image, np.tile(np.array([0, 1], np.uint8), 4).reshape(2, 2, 2)

    monkeypatch.setattr(sources, "working_grid_case", case)
    monkeypatch.setattr(sources, "mask_of", lambda label, labels: shown.append(labels) or label > 0)
    for index in range(draws):
        drawn.clear()
        source.sample(index, count, np.random.default_rng(index))
        yield tuple(shown[-1]), drawn[0][1], [name for name, _ in drawn]


def planned(data, *, min_voxels=1, contexts=1, **episode) -> StoreSource:
    episode = EpisodeConfig(contexts=(contexts, contexts), min_voxels=min_voxels, **episode)
    return StoreSource(data, VOLUME, episode)


MANY = {f"case{i:02}": {1: 9, 2: 9} | ({3: 9} if i < 5 else {}) for i in range(40)}
"""40 cases; five of them have the rare label 3."""
ALL = EpisodeConfig(validation_share=0.0)


def test_a_rare_structure_is_sampled_as_often_as_any_other(monkeypatch):
    source = planned(dataset(store_of(MANY), ALL), max_labels=1)
    seen = Counter(labels for labels, _, _ in asked(monkeypatch, source, 600))
    # Four standard deviations of a binomial draw.
    assert all(abs(seen[(label,)] - 200) < 4 * np.sqrt(600 * 2 / 9) for label in (1, 2, 3))


def test_named_structures_are_drawn_by_their_weights(monkeypatch):
    named = {"a": (1,), "both": (1, 2), "rare": (3,)}
    weights = {"a": 3.0, "rare": 0.0}
    data = dataset(store_of(MANY), ALL, structures=named, structure_weights=weights)
    seen = Counter(
        labels for labels, _, _ in asked(monkeypatch, planned(data, structures="named"), 600)
    )
    assert set(seen) == {(1,), (1, 2)}
    assert abs(seen[(1,)] - 450) < 4 * np.sqrt(600 * 3 / 16)


def test_without_named_structures_each_label_is_one_by_its_name(monkeypatch):
    data = dataset(store_of(MANY), ALL, structure_weights={"label 2": 0.0})
    drawn = asked(monkeypatch, planned(data, structures="named"), 60)
    assert {labels for labels, _, _ in drawn} == {(1,), (3,)}


def test_labels_outside_of_the_subset_are_never_sampled(monkeypatch):
    data = dataset(store_of(MANY), ALL, labels=(1, 3))
    drawn = list(asked(monkeypatch, planned(data), 60))
    assert {label for labels, _, _ in drawn for label in labels} == {1, 3}
    named = dataset(store_of(MANY), ALL, labels=(1, 3), structures={"a": (1, 2), "b": (3,)})
    drawn = asked(monkeypatch, planned(named, structures="named"), 20)
    assert {labels for labels, _, _ in drawn} == {(3,)}


def test_only_the_channels_that_are_named_are_drawn(monkeypatch):
    store = store_of(MANY, channels=("T1", "T2", "FLAIR"))
    data = dataset(store, ALL, channels=("FLAIR", "T1"))
    assert {channel for _, channel, _ in asked(monkeypatch, planned(data), 60)} == {0, 2}


def test_the_cases_of_a_group_are_of_different_subjects(monkeypatch):
    subjects = {case: f"subject {int(case[4:]) % 8}" for case in MANY}
    data = dataset(store_of(MANY, subjects=subjects), ALL)
    for _, _, cases in asked(monkeypatch, planned(data, contexts=4), 60, count=5):
        assert len({subjects[case] for case in cases}) == 5
    with pytest.raises(DataError, match=r"9 training cases \(at most 8\)"):
        planned(data, contexts=8)


def test_cases_with_too_few_voxels_of_a_label_do_not_count_as_having_it(monkeypatch):
    cases = {f"case{i}": {1: i} for i in range(10)}
    data = dataset(store_of(cases), ALL, min_voxels=6)
    drawn = asked(monkeypatch, planned(data), 60)
    assert {case for _, _, cases in drawn for case in cases} == {f"case{i}" for i in range(6, 10)}


def test_cases_in_which_a_structure_cannot_be_seen_are_passed_over(tmp_path):
    """Label 4 has one voxel in most cases; it is shown all the same, where it is larger."""
    path = tmp_path / "store"
    create_store(path, "tiny", ("T1",), {1: "speck"})
    for i in range(12):
        label = np.zeros(SHAPE, np.uint8)
        label[0, : 1 if i < 9 else 8, 0:2] = 1
        image = np.random.default_rng(i).random((1, *SHAPE), np.float32)
        write_case(path, f"case{i:02}", image, label, np.eye(4))
    finish_store(path)
    source = source_of(path, validation_share=0.0, min_voxels=16)
    for index in range(5):
        group = source.sample(index, 3, np.random.default_rng(index)).group
        assert [mask.sum() for mask in group.masks] == [16] * 3


def test_the_voxels_that_a_structure_needs_are_a_setting(path):
    source_of(path, min_voxels=64, max_labels=1).sample(0, 3, np.random.default_rng(0))
    with pytest.raises(DataError, match="no structure of 65 voxels"):
        source_of(path, min_voxels=65, max_labels=1).sample(0, 3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": ("T2",)}, r"channels has \['T2'\].*\['T1'\]"),
        ({"labels": (1, 9)}, r"labels has \[9\].*\[1, 2, 3\]"),
        ({"structures": {"x": (7,)}}, r"structure 'x' has \[7\]"),
        ({"structure_weights": {"liver": 2.0}}, r"\['liver'\].*'label 1'"),
        ({"subject_pattern": "^patient"}, "no subject in case 'case00'"),
    ],
)
def test_what_a_data_set_does_not_have_is_refused_with_what_it_has(settings, message):
    with pytest.raises(DataError, match=message):
        dataset(store_of(MANY), **settings)


def test_a_named_structure_in_too_few_training_cases_is_refused():
    data = dataset(store_of(MANY), ALL, structures={"rare": (3,), "a": (1,)})
    with pytest.raises(DataError, match=r"'rare'.* 5 subjects; a target with 5 contexts needs 6"):
        planned(data, structures="named", contexts=5)
    planned(data, structures="named", contexts=4)


def test_settings_that_leave_nothing_to_train_on_are_refused():
    data = dataset(store_of(MANY), ALL, structures={"a": (1,)}, structure_weights={"a": 0.0})
    with pytest.raises(DataError, match=r"none of the structures \['a'\]"):
        planned(data, structures="named")


def test_ten_thousand_cases_are_planned_in_seconds_and_sent_to_workers_at_once():
    voxels = dict.fromkeys(range(1, 21), 100)
    store = store_of({f"case{i:05}": voxels for i in range(10_000)})
    begin = time.process_time()
    source = planned(dataset(store))
    assert time.process_time() - begin < 8  # 0.6 s where nothing else runs
    assert len(source.structures) == 20
    begin = time.process_time()
    content = pickle.dumps(source)
    pickle.loads(content)
    assert time.process_time() - begin < 4
    assert len(content) < 5e6


MARGIN = [(3, 0), (2, 5), (1, 1)]


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A case as it is and in a margin, on an axis order of its own; label 2 reaches into that."""
    path = tmp_path_factory.mktemp("padded") / "store"
    create_store(path, "padded", ("CT",), {1: "a", 2: "b"})
    image = np.random.default_rng(0).normal(size=(9, 7, 8)).astype(np.float32)
    label = np.zeros(image.shape, np.uint8)
    label[2:5, 1:6, 3:6] = 1
    affine = np.array([[0, -2, 0, 5], [1, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
    write_case(path, "plain", image[None], label, affine)
    around = np.pad(label, MARGIN)
    around[1, 8, 4] = 2
    image = np.pad(image, MARGIN, constant_values=-3024)
    write_case(path, "padded", image[None], around, affine)
    finish_store(path)
    return Store.open(path)


@pytest.mark.parametrize("read", [working_grid_case, full_resolution_case])
def test_a_margin_changes_no_case(padded, read):
    plain, around = (read(padded, name, 0, VOLUME) for name in ("plain", "padded"))
    np.testing.assert_array_equal(around[0], plain[0])
    np.testing.assert_array_equal(around[1], plain[1])
    kept = replace(VOLUME, crop=False)
    assert not np.array_equal(working_grid_case(padded, "padded", 0, kept)[0], plain[0])


def test_what_is_to_be_kept_of_a_margin_stays(padded):
    keep = Box((1, 8, 4), (2, 9, 5))
    crop = case_crop(padded, "padded", 0, VOLUME, keep)
    assert crop == Box((1, 2, 1), (12, 9, 9))
    _, label = working_grid_case(padded, "padded", 0, VolumeConfig(grid=(7, 11, 8)), keep)
    # Its axes are turned: y is the first, against its direction.
    assert label.shape == (7, 11, 8) and label[0, 0, 3] == 2


def test_the_structures_of_a_sample_are_those_that_its_target_has(path):
    source = source_of(path, max_labels=3)
    assert [structure.name for structure in source.structures] == ["left", "right", "rare"]
    seen = Counter()
    for index in range(40):
        group, structures = source.sample(index, 3, np.random.default_rng(index))
        slabs = {int(x) // 2 for x in np.flatnonzero(group.masks[0].any((1, 2)))}
        assert set(structures) == slabs
        seen[len(structures)] += 1
    assert len(seen) == 3
