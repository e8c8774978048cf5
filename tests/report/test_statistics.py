"""Intervals and comparisons over subjects."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate.records import Score
from wsicl_jax.report.statistics import compare, mean_interval, paired


def names(count: int, rows: int = 1) -> list[str]:
    return [f"subject {i:03}" for i in range(count) for _ in range(rows)]


def test_the_mean_is_over_all_rows():
    found = mean_interval([0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"])
    assert found.mean == 0.25
    assert (found.low, found.high) == (0, 1)
    assert found.subjects == 2


def test_subjects_are_drawn_with_all_their_rows():
    # Of two subjects a quarter of draws has the first alone, a half both, a quarter the second.
    found = mean_interval([0.0] * 9 + [1.0], ["a"] * 9 + ["b"], level=0.4)
    assert found == (0.1, 0.1, 0.1, 2)
    found = mean_interval([0.5] * 10, ["a"] * 9 + ["b"])
    assert found == (0.5, 0.5, 0.5, 2)


def test_the_interval_covers_the_population_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(800):
        of_subject = np.repeat(rng.normal(0.7, 0.1, 25), 3)
        found = mean_interval(
            of_subject + rng.normal(0, 0.05, 75), names(25, 3), resamples=300, level=0.9
        )
        hits.append(found.low <= 0.7 <= found.high)
    # By Student's distribution 0.88 of 25 subjects; two thirds if rows were subjects.
    assert np.mean(hits) == pytest.approx(0.88, abs=0.035)


def test_the_interval_is_as_wide_as_theory_says():
    values = np.random.default_rng(1).normal(0, 1, 100)
    found = mean_interval(values, names(100), resamples=20_000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.05)


def test_repeated_rows_of_a_subject_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=20)
    once = mean_interval(values, names(20))
    assert mean_interval(np.repeat(values, 10), names(20, 10)) == pytest.approx(once)
    as_if_independent = mean_interval(np.repeat(values, 10), names(200))
    assert as_if_independent.high - as_if_independent.low < 0.5 * (once.high - once.low)


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    values, subjects, order = rng.random(30), np.array(names(10, 3)), rng.permutation(30)
    again = mean_interval(values[order], subjects[order].tolist())
    assert again == pytest.approx(mean_interval(values, subjects.tolist()))


def test_one_subject_has_no_interval_and_no_p_value():
    assert mean_interval([0.5, 0.7], ["a", "a"]) == (pytest.approx(0.6), None, None, 1)
    assert compare([0.5, 0.7], [0.5, 0.5], ["a", "a"]) == (pytest.approx(0.1), None, None, None, 1)


def test_equal_seeds_reproduce_and_others_differ():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30))
    for function in (
        lambda seed: mean_interval(a, names(30), seed=seed),
        lambda seed: compare(a, b, names(30), seed=seed).low,
        lambda seed: compare(a, b, names(30), seed=seed, permutations=500).p_value,
    ):
        assert function(3) == function(3)
        assert function(3) != function(4)


def test_a_comparison_has_the_interval_of_the_differences():
    a, b = np.random.default_rng(0).random((2, 12))
    found = compare(a, b, names(4, 3))
    expected = mean_interval(a - b, names(4, 3))
    assert (found.difference, found.low, found.high, found.subjects) == expected
    mirrored = compare(b, a, names(4, 3))
    assert mirrored.difference == pytest.approx(-found.difference)
    assert mirrored.p_value == found.p_value


@pytest.mark.parametrize("sums", [(0.1, 0.2, 0.3, 0.4), (0.1, -0.2, 0.3, 0.4), (0.3, -0.3, 1, -1)])
def test_the_p_value_of_four_subjects_counts_all_sixteen_swaps(sums):
    swaps = [abs(np.dot(signs, sums)) for signs in product((1, -1), repeat=4)]
    expected = np.mean([swap >= abs(sum(sums)) - 1e-12 for swap in swaps])
    # Two rows a subject: swapped together, so that their sum alone counts.
    a = [value for s in sums for value in (s + 0.5, 0.0)]
    b = [value for s in sums for value in (0.0, 0.5)]
    assert compare(a, b, names(4, 2)).p_value == pytest.approx(expected)


def test_a_difference_of_one_sign_in_four_subjects_has_a_p_value_of_an_eighth():
    found = compare([0.6, 0.7, 0.8, 0.9], [0.5] * 4, names(4))
    assert found.p_value == 2 / 16


def test_a_random_p_value_is_near_the_exact_one():
    a, b = np.random.default_rng(5).normal(0.3, 1, (2, 10))
    exact = compare(a, b, names(10)).p_value
    assert compare(a, b, names(10), permutations=1000).p_value == pytest.approx(exact, abs=0.05)


def test_p_values_of_equal_runs_are_uniform():
    rng = np.random.default_rng(0)
    below = []
    for _ in range(300):
        values = np.repeat(rng.normal(size=8), 2) + rng.normal(0, 0.1, 16)
        below.append(compare(values, np.zeros(16), names(8, 2), resamples=2).p_value <= 0.1)
    assert np.mean(below) == pytest.approx(0.1, abs=0.05)


def test_runs_without_any_difference_do_not_differ():
    values = np.random.default_rng(0).random(6)
    assert compare(values, values, names(6)) == (0, 0, 0, 1, 6)


@pytest.mark.parametrize(
    ("values", "subjects", "message"),
    [
        ([], [], "no rows"),
        ([0.5], ["a", "b"], "1 rows but 2 subjects"),
        ([0.5, float("nan")], ["a", "b"], "1 of 2 values are missing"),
    ],
)
def test_rows_that_have_no_mean_are_refused(values, subjects, message):
    with pytest.raises(DataError, match=message):
        mean_interval(values, subjects)
    with pytest.raises(DataError, match=message):
        compare(values, values, subjects)


def test_settings_out_of_range_are_refused():
    with pytest.raises(DataError, match="2 rows cannot be compared with 1"):
        compare([0.5, 0.6], [0.5], ["a", "b"])
    with pytest.raises(ConfigError, match="level"):
        mean_interval([0.5, 0.6], ["a", "b"], level=95.0)
    with pytest.raises(ConfigError, match="resamples"):
        mean_interval([0.5, 0.6], ["a", "b"], resamples=0)
    with pytest.raises(ConfigError, match="permutations"):
        compare([0.5], [0.5], ["a"], permutations=0)


def score(episode: int, **changes) -> Score:
    whole = Score(
        model="one",
        data_set="set",
        structure="organ",
        episode=f"episode {episode}",
        target=f"case {episode}",
        subject=f"subject {episode // 2}",
        protocol="in_context",
        kind="box",
        prompts=1,
        contexts=4,
        dice=episode / 10,
    )
    return replace(whole, **changes)


def test_rows_are_paired_by_structure_and_episode_whatever_their_order():
    first = [score(e) for e in range(3)]
    second = [score(e, model="two", contexts=1, dice=e / 100) for e in (2, 1, 0)]
    a, b, subjects = paired(first, second, "dice")
    assert a == [0, 0.1, 0.2]
    np.testing.assert_allclose(b, [0, 0.01, 0.02])
    assert subjects == ["subject 0", "subject 0", "subject 1"]


def test_rows_without_a_partner_or_without_the_metric_are_skipped():
    first = [score(0), score(1), score(2), score(3, dice=None)]
    second = [score(1), score(2), score(3), score(4), score(2, structure="other")]
    a, b, _ = paired(first, second, "dice")
    assert a == b == [0.1, 0.2]
    assert paired(first, [score(9)], "dice") == ([], [], [])


@pytest.mark.parametrize(
    ("other", "message"),
    [({"target": "case 9"}, "case 0 of .* case 9 of"), ({"subject": "x"}, "of x")],
)
def test_episodes_with_different_targets_are_refused(other, message):
    with pytest.raises(DataError, match=message):
        paired([score(0)], [score(0, **other)], "dice")
