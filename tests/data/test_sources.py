import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsicl_jax.config import DatasetConfig, EpisodeConfig, VolumeConfig
from wsicl_jax.data import sources
from wsicl_jax.data.sources import (
    SMALLEST_STRUCTURE,
    SMALLEST_SYNTHETIC_SHARE,
    StoreSource,
    SyntheticSource,
    group_of,
    prepared_case,
    split,
    synthetic_subjects,
)
from wsicl_jax.data.store import Store, create_store, write_case
from wsicl_jax.errors import DataError

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
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """12 cases with labels 1 and 2, of which four have label 3 too."""
    labels = {f"case{i:02}": (1, 2, 3) if i % 3 == 0 else (1, 2) for i in range(12)}
    return make_store(tmp_path_factory.mktemp("sources") / "store", labels, ("T1", "T2"))


def source_of(path: Path, contexts: int = 2, volume=VOLUME, **episode) -> StoreSource:
    episode = EpisodeConfig(contexts=(contexts, contexts), **episode)
    return StoreSource(DatasetConfig(store=str(path)), volume, episode, 0)


names = st.sets(st.text(min_size=1, max_size=3), max_size=30)
seeds = st.integers(0, 2**40)


def store_of(cases: set[str], name: str = "tiny") -> Store:
    return Store(Path("/none"), name, ("T1",), {1: "left"}, tuple(sorted(cases)))


@given(names, st.floats(0, 1), seeds)
def test_a_split_is_complete_disjoint_and_sorted(cases, share, seed):
    training, validation = split(store_of(cases), share, seed)
    assert sorted(training + validation) == sorted(cases)
    assert training == sorted(training)
    assert validation == sorted(validation)


@given(names, st.floats(0.01, 0.99), seeds)
def test_a_split_keeps_its_share_but_at_least_one_case_on_each_side(cases, share, seed):
    training, validation = split(store_of(cases), share, seed)
    if len(cases) >= 2:
        assert training
        assert validation
        assert abs(len(validation) - share * len(cases)) <= 1


def test_without_a_share_no_case_is_kept_for_validation(path):
    assert split(Store.open(path), 0.0, 0) == (list(Store.open(path).cases), [])


def test_a_split_follows_from_seed_and_names_not_from_where_the_store_lies(path, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(path)
    expected = split(Store.open(path), 0.3, 1)
    assert split(Store.open(moved), 0.3, 1) == expected
    others = [split(Store.open(path), 0.3, seed) for seed in range(2, 8)]
    assert any(other != expected for other in others)


def test_a_split_is_the_same_for_cases_written_in_another_order(path, tmp_path):
    names = Store.open(path).cases
    backwards = make_store(tmp_path / "store", {name: (1,) for name in reversed(names)})
    assert split(Store.open(backwards), 0.3, 1) == split(Store.open(path), 0.3, 1)


def test_a_prepared_case_is_normalised_on_the_working_grid(path):
    store = Store.open(path)
    image, label = prepared_case(store, "case00", 0, VolumeConfig(grid=(16, 8, 4)))
    assert image.shape == label.shape == (16, 8, 4)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1
    assert set(np.unique(label)) == {0, 1, 2, 3}


def test_a_prepared_case_is_read_once(path, monkeypatch):
    store, volume = Store.open(path), VolumeConfig(grid=(8, 8, 16))
    first = prepared_case(store, "case00", 0, volume)
    monkeypatch.setattr(Store, "read_image", None)
    for again in (store, Store.open(path)):
        assert prepared_case(again, "case00", 0, volume)[0] is first[0]


def test_prepared_cases_differ_by_case_channel_and_volume(path):
    store = Store.open(path)
    keys = [
        ("case00", 0, VOLUME),
        ("case01", 0, VOLUME),
        ("case00", 1, VOLUME),
        ("case00", 0, VolumeConfig(grid=(8, 8, 8), percentiles=(10, 90))),
    ]
    images = {prepared_case(store, *key)[0].tobytes() for key in keys}
    assert len(images) == 4


def drawn_cases(source, monkeypatch, count: int, draws: int) -> list[list[str]]:
    """Names of the cases of each group, target first."""
    names = []
    monkeypatch.setattr(
        sources,
        "prepared_case",
        lambda store, name, *rest: names.append(name) or prepared_case(store, name, *rest),
    )
    for index in range(draws):
        source.group(index, count, np.random.default_rng(index))
    return [names[i : i + count] for i in range(0, len(names), count)]


def test_a_store_shows_every_training_case_and_no_other(path, monkeypatch):
    source = source_of(path, validation_share=0.25)
    training, validation = split(source.store, 0.25, 0)
    assert len(validation) == 3
    groups = drawn_cases(source, monkeypatch, 3, 60)
    assert {name for group in groups for name in group} == set(training)


def test_a_group_never_shows_a_case_twice(path, monkeypatch):
    for group in drawn_cases(source_of(path), monkeypatch, 3, 40):
        assert len(set(group)) == 3


def test_only_labels_with_enough_training_cases_are_drawn(path):
    cases = source_of(path, validation_share=0.0).cases_with
    assert [len(cases[label]) for label in (1, 2, 3, 4)] == [12, 12, 4, 0]
    assert source_of(path, contexts=3, validation_share=0.0).labels == [1, 2, 3]
    assert source_of(path, contexts=4, validation_share=0.0).labels == [1, 2]


def test_at_most_max_labels_are_united(path):
    source = source_of(path, max_labels=1)
    sizes = {
        int(mask.sum())
        for index in range(20)
        for mask in source.group(index, 3, np.random.default_rng(index)).masks
    }
    assert sizes == {64}


def test_every_subject_of_a_store_group_shows_the_structure(path):
    source = source_of(path)
    for index in range(30):
        group = source.group(index, 3, np.random.default_rng(index))
        for mask in group.masks:
            assert mask.dtype == bool
            assert SMALLEST_STRUCTURE <= mask.sum() < mask.size


def test_every_channel_of_a_store_is_shown(path):
    source = source_of(path)
    shown = {
        source.group(0, 3, np.random.default_rng(seed)).images[0].tobytes() for seed in range(80)
    }
    both = [
        {prepared_case(source.store, n, channel, VOLUME)[0].tobytes() for n in source.store.cases}
        for channel in (0, 1)
    ]
    assert all(shown & channel for channel in both)


def test_too_few_training_cases_are_refused_with_what_there_are(path):
    with pytest.raises(DataError, match=r"13 training cases \(at most 12\).*episode.contexts"):
        source_of(path, contexts=12, validation_share=0.0)


def test_a_structure_that_vanishes_on_the_grid_is_refused(tmp_path):
    path = make_store(tmp_path / "store", {f"case{i}": (4,) for i in range(5)})
    source = source_of(path)
    source.group(0, 3, np.random.default_rng(0))
    coarse = source_of(path, volume=VolumeConfig(grid=(8, 8, 4)))
    message = rf"{re.escape(str(path))}: .*volume\.grid"
    with pytest.raises(DataError, match=message):
        coarse.group(0, 3, np.random.default_rng(0))


def test_a_structure_that_fills_a_case_is_not_shown(tmp_path):
    path = tmp_path / "store"
    create_store(path, "full", ("T1",), {1: "whole"})
    for i in range(5):
        image = np.random.default_rng(i).random((1, *SHAPE), np.float32)
        write_case(path, f"case{i}", image, np.ones(SHAPE, np.uint8), np.eye(4))
    with pytest.raises(DataError, match="no structure"):
        source_of(path).group(0, 3, np.random.default_rng(0))


def test_a_missing_store_is_refused(tmp_path):
    with pytest.raises(DataError, match="no store"):
        source_of(tmp_path / "none")


def test_a_synthetic_cohort_follows_from_seed_and_index():
    grid = VolumeConfig(grid=(16, 16, 16))

    def group(seed, index):
        source = SyntheticSource(seed, grid, EpisodeConfig())
        return source.group(index, 3, np.random.default_rng(0))

    first = group(0, 5)
    np.testing.assert_array_equal(group(0, 5).images, first.images)
    np.testing.assert_array_equal(group(0, 5).masks, first.masks)
    for other in (group(0, 6), group(1, 5)):
        assert (np.stack(other.images) != np.stack(first.images)).any()


def test_synthetic_subjects_show_enough_structures_that_are_large_in_all_of_them():
    volume = VolumeConfig(grid=(16, 16, 16))
    smallest = SMALLEST_SYNTHETIC_SHARE * 16**3
    for index in range(10):
        subjects, labels = synthetic_subjects((0, 1, index), volume, 4, structures=2)
        assert len(subjects) == 4
        assert len(labels) >= 2
        for image, label in subjects:
            assert 0 <= image.min() < image.max() <= 1
            assert all((label == value).sum() >= smallest for value in labels)


def test_more_synthetic_structures_than_there_can_be_are_refused():
    with pytest.raises(DataError, match="99 structures"):
        synthetic_subjects((0,), VOLUME, 1, structures=99)


def test_a_group_has_the_union_of_its_labels():
    label = np.arange(512, dtype=np.uint8).reshape(SHAPE) % 4
    image = np.zeros(SHAPE, np.float32)
    group = group_of([(image, label), (image + 1, 3 - label)], [1, 3])
    np.testing.assert_array_equal(group.masks, [label % 2 == 1, label % 2 == 0])
    np.testing.assert_array_equal(group.images, [image, image + 1])
