"""Splits: complete, by subject, whatever the order, and hardly moved by another subject."""

from collections import Counter

import pytest
from fabricated import dataset, store_of
from hypothesis import given
from hypothesis import strategies as st

from wsicl_jax.config import EpisodeConfig, config_from_dict
from wsicl_jax.data.split import split
from wsicl_jax.errors import ConfigError

names = st.sets(st.text(min_size=1, max_size=3), max_size=30)
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 0.4)


def shared(validation: float, held_out: float = 0.0) -> EpisodeConfig:
    return EpisodeConfig(validation_share=validation, held_out_share=held_out)


def parts(subjects, validation=0.3, held_out=0.2, seed=0, name="tiny"):
    return split(subjects, shared(validation, held_out), seed=seed, name=name)


@given(names, shares, shares, seeds)
def test_every_subject_has_one_part(subjects, validation, held_out, seed):
    found = parts(subjects, validation, held_out, seed)
    assert found.keys() == subjects
    assert set(found.values()) <= {"train", "validation", "held_out"}


@given(names, shares, shares, seeds)
def test_shares_are_met_to_within_one_subject(subjects, validation, held_out, seed):
    count = Counter(parts(subjects, validation, held_out, seed).values())
    if len(subjects) >= 5:
        assert abs(count["validation"] - validation * len(subjects)) <= 1
        assert abs(count["held_out"] - held_out * len(subjects)) <= 1


@given(names, st.floats(0.001, 0.999), seeds)
def test_two_subjects_are_enough_for_training_and_validation(subjects, validation, seed):
    count = Counter(parts(subjects, validation, 0.0, seed).values())
    if len(subjects) >= 2:
        assert count["train"] and count["validation"]
    elif subjects:
        assert count == {"train": 1}


@given(names.filter(lambda names: len(names) >= 3), seeds)
def test_three_subjects_are_enough_for_a_share_of_each_part(subjects, seed):
    assert len(set(parts(subjects, 0.001, 0.001, seed).values())) == 3


@given(names, seeds)
def test_a_part_without_a_share_is_empty(subjects, seed):
    assert set(parts(subjects, 0.0, 0.0, seed).values()) <= {"train"}
    assert "held_out" not in parts(subjects, 0.5, 0.0, seed).values()


@given(names, seeds, st.randoms())
def test_the_order_of_the_subjects_does_not_matter(subjects, seed, random):
    other = sorted(subjects)
    random.shuffle(other)
    assert parts(other, seed=seed) == parts(sorted(subjects), seed=seed)


@given(names, shares, shares, seeds, st.text(min_size=4, max_size=5))
def test_one_more_subject_moves_at_most_three_others(subjects, validation, held_out, seed, another):
    before = parts(subjects, validation, held_out, seed)
    after = parts(subjects | {another}, validation, held_out, seed)
    moved = sum(before[subject] != after[subject] for subject in subjects)
    assert moved <= 3


@given(names.filter(lambda names: len(names) >= 5), shares, shares, seeds)
def test_another_validation_share_holds_out_the_same_subjects(subjects, one, other, seed):
    first, second = (parts(subjects, share, 0.2, seed) for share in (one, other))
    assert {s for s in subjects if first[s] == "held_out"} == {
        s for s in subjects if second[s] == "held_out"
    }


def test_seed_and_data_set_give_other_splits():
    subjects = {f"case{i}" for i in range(40)}
    assert parts(subjects, seed=0) != parts(subjects, seed=1)
    assert parts(subjects, name="a") != parts(subjects, name="b")


def test_the_split_of_a_seed_stays_what_it_was():
    # Runs are bound to it: another rule would need another seed.
    found = parts([f"case{i}" for i in range(6)], 0.34, 0.17)
    assert [case for case, part in found.items() if part == "held_out"] == ["case0"]
    assert {case for case, part in found.items() if part == "validation"} == {"case2", "case3"}


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.sampled_from("abcdefg"), max_size=30))
def test_cases_of_one_subject_are_never_parted(subjects):
    store = store_of({case: {1: 9} for case in subjects}, subjects=subjects)
    found = dataset(store, shared(0.3, 0.2)).parts
    assert found.keys() == subjects.keys()
    for case, subject in subjects.items():
        assert all(found[other] == found[case] for other in found if subjects[other] == subject)


@pytest.mark.parametrize("pattern", [r"^(\w+)_visit", r"^[a-z]+\d"])
def test_a_pattern_finds_the_subject_in_a_cases_name(pattern):
    cases = [f"patient{i}_visit{j}" for i in range(5) for j in range(3)]
    found = dataset(store_of({case: {1: 9} for case in cases}), subject_pattern=pattern)
    assert found.subjects == {case: case.split("_")[0] for case in cases}


def test_shares_above_one_together_are_refused():
    with pytest.raises(ConfigError, match=r"1\.1 together"):
        config_from_dict({"episode": {"validation_share": 0.5, "held_out_share": 0.6}})
