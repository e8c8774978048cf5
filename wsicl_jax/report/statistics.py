"""Confidence intervals of means over episodes, and tests of the difference of two runs.

The unit is the subject. Rows of one subject (its structures, sessions, episodes) resemble each
other, so they are resampled, or swapped, together. Subjects are assumed to be independent. A mean
is over all rows: a subject with more rows has more weight. With few subjects, percentile intervals
are somewhat narrow.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate.records import Score

# Resamples of one call that are in memory at once, counted in subjects.
_AT_ONCE = 2_000_000


class Interval(NamedTuple):
    """A mean and its confidence interval over subjects."""

    mean: float
    low: float | None
    """None, as `high`, with one subject."""
    high: float | None
    subjects: int
    """Number of subjects."""


class Comparison(NamedTuple):
    """The mean difference of two runs on the same episodes."""

    difference: float
    """First minus second."""
    low: float | None
    """None, as `high` and `p_value`, with one subject."""
    high: float | None
    p_value: float | None
    """Probability of a difference as large, of either sign, if both runs were equal."""
    subjects: int
    """Number of subjects."""


def mean_interval(
    values: Sequence[float] | Float[np.ndarray, " row"],
    subjects: Sequence[str],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of all rows with its confidence interval.

    A percentile bootstrap that resamples subjects, each with all its rows. The same arguments give
    the same interval.

    Raises:
        DataError: there are no rows, not as many subjects, or a value is not finite.
        ConfigError: `level` is not between 0 and 1, or there are no resamples.
    """
    sums, counts = _by_subject(values, subjects)
    return _interval(sums, counts, level, resamples, seed)


def compare(
    a: Sequence[float] | Float[np.ndarray, " row"],
    b: Sequence[float] | Float[np.ndarray, " row"],
    subjects: Sequence[str],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """The mean difference of two runs, row by row, with its interval and a p-value.

    The interval is `mean_interval` of the differences. The p-value is of a two-sided permutation
    test that swaps the runs subject by subject, all rows of a subject at once. It assumes
    independent subjects. Its null hypothesis is that a subject's summed difference is distributed
    symmetrically about 0. It is exact if there are at most `permutations` ways to swap, else from
    that many random ones. With n subjects it cannot be below 2 / 2ⁿ.

    Raises:
        DataError: there are no rows, not as many on each side, or a value is not finite.
        ConfigError: `level` is not between 0 and 1, or there are no resamples or permutations.
    """
    if len(a) != len(b):
        raise DataError(f"{len(a)} rows cannot be compared with {len(b)}; pair them by episode")
    if permutations < 1:
        raise ConfigError(f"{permutations} permutations were requested; expected 1 or more")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    sums, counts = _by_subject(differences, subjects)
    interval = _interval(sums, counts, level, resamples, seed)
    p_value = _swapped(sums, permutations, seed) if len(sums) > 1 else None
    return Comparison(interval.mean, interval.low, interval.high, p_value, interval.subjects)


def paired(
    first: Sequence[Score], second: Sequence[Score], metric: str
) -> tuple[list[float], list[float], list[str]]:
    """A metric of two runs on the episodes of both, and the subject of each episode.

    Each run has one model at one setting. Episodes where either run lacks the metric are skipped.

    Raises:
        DataError: an episode has another target in the other run.
    """
    partners = {(score.structure, score.episode): score for score in second}
    values_a, values_b, subjects = [], [], []
    for a in first:
        b = partners.get((a.structure, a.episode))
        if b is None or getattr(a, metric) is None or getattr(b, metric) is None:
            continue
        if (a.target, a.subject) != (b.target, b.subject):
            raise DataError(
                f"{a.data_set}/{a.episode} has the target {a.target} of {a.subject} in one run and "
                f"{b.target} of {b.subject} in the other; compare runs on one list of episodes"
            )
        values_a.append(getattr(a, metric))
        values_b.append(getattr(b, metric))
        subjects.append(a.subject)
    return values_a, values_b, subjects


def _by_subject(
    values: Sequence[float] | np.ndarray, subjects: Sequence[str]
) -> tuple[Float[np.ndarray, " subject"], Int[np.ndarray, " subject"]]:
    if len(values) == 0:
        raise DataError("there are no rows to take a mean of")
    if len(values) != len(subjects):
        raise DataError(f"there are {len(values)} rows but {len(subjects)} subjects of rows")
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise DataError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} values are missing or not "
            "finite; remove their rows"
        )
    _, places = np.unique(np.asarray(subjects), return_inverse=True)
    return np.bincount(places, values), np.bincount(places)


def _interval(
    sums: np.ndarray, counts: np.ndarray, level: float, resamples: int, seed: int
) -> Interval:
    if not 0 < level < 1:
        raise ConfigError(f"the confidence level is {level}; expected one between 0 and 1")
    if resamples < 1:
        raise ConfigError(f"{resamples} resamples were requested; expected 1 or more")
    mean = float(sums.sum() / counts.sum())
    if len(sums) == 1:
        return Interval(mean, None, None, 1)
    from scipy.stats import bootstrap

    low, high = bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        n_resamples=resamples,
        batch=_batch(len(sums)),
        vectorized=True,
        paired=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(low), float(high), len(sums))


def _swapped(sums: np.ndarray, permutations: int, seed: int) -> float:
    from scipy.stats import permutation_test

    test = permutation_test(
        (sums,),
        lambda sums, axis: sums.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=_batch(len(sums)),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def _batch(subjects: int) -> int:
    return max(1, math.ceil(_AT_ONCE / subjects))
