"""What a mean over episodes is worth, and whether two runs differ.

The unit is the subject: rows of one subject (its structures, sessions, episodes) resemble each
other and are drawn, or swapped, together. Subjects are taken to be independent of each other.
A mean is over all rows: a subject with more rows weighs more. With few subjects, intervals by
percentiles are somewhat narrow.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate.records import Score

SETTING = ("protocol", "kind", "prompts", "contexts", "round")
"""Fields of a row that say how its target was shown."""

# Resamples of one call that are in memory at once, counted in subjects.
_AT_ONCE = 2_000_000


class Interval(NamedTuple):
    """A mean and its confidence interval over subjects."""

    mean: float
    low: float | None
    """None, as `high`, of one subject: it does not tell how others would do."""
    high: float | None
    subjects: int
    """How many."""


class Comparison(NamedTuple):
    """The mean difference of two runs on the same episodes."""

    difference: float
    """First less second."""
    low: float | None
    """None, as `high` and `p_value`, of one subject."""
    high: float | None
    p_value: float | None
    """How often a difference as large, of either sign, comes by chance if the runs are alike."""
    subjects: int
    """How many."""


class Paired(NamedTuple):
    """A metric of two runs on the episodes of both, row by row."""

    a: Float[np.ndarray, " row"]
    b: Float[np.ndarray, " row"]
    subjects: tuple[str, ...]
    unpaired: int
    """Rows of either run without a partner, or of a pair that lacks the metric on a side."""


def mean_interval(
    values: Sequence[float] | Float[np.ndarray, " row"],
    subjects: Sequence[str],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of all rows with the interval that holds the population's in a share `level`.

    By percentiles of a bootstrap that draws subjects, each with all its rows. The same arguments
    give the same interval.

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

    The interval is that of `mean_interval` for the differences. The p-value is of a two-sided
    permutation test that swaps the runs subject by subject, all rows of a subject at once. It
    assumes that the subjects are independent, and tests that no swap would matter: that a
    subject's summed difference is spread alike about 0 on both sides. It is exact where there
    are at most `permutations` ways to swap, else from that many random ones. Of n subjects it
    cannot be below 2 / 2ⁿ.

    Raises:
        DataError: there are no rows, not as many on each side, or a value is not finite.
        ConfigError: `level` is not between 0 and 1, or there are no resamples or permutations.
    """
    if len(a) != len(b):
        raise DataError(f"{len(a)} rows cannot be compared with {len(b)}; pair them by episode")
    if permutations < 1:
        raise ConfigError(f"{permutations} permutations were asked for; expected 1 or more")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    sums, counts = _by_subject(differences, subjects)
    interval = _interval(sums, counts, level, resamples, seed)
    p_value = _swapped(sums, permutations, seed) if len(sums) > 1 else None
    return Comparison(interval.mean, interval.low, interval.high, p_value, interval.subjects)


def paired(
    scores_a: Sequence[Score],
    scores_b: Sequence[Score],
    metric: str,
    *,
    across: Collection[str] = (),
) -> Paired:
    """A metric of two runs where both have a row for the same episode at the same setting.

    Models are not looked at. Fields of `SETTING` that are named in `across` may differ: with
    `across=("contexts",)`, rows of one run at 1 context pair with those of another at 4.

    Raises:
        DataError: no row of one has a partner in the other, a run has two rows for the same
            episode and setting, or an episode shows another target in the other run.
        ConfigError: there is no such metric, or no such field of the setting.
    """
    metrics = [field.name for field in fields(Score) if field.default is None]
    if metric not in metrics:
        raise ConfigError(f"rows have no metric {metric!r}; expected one of {', '.join(metrics)}")
    if unknown := set(across) - set(SETTING):
        raise ConfigError(
            f"{', '.join(sorted(unknown))}: no field of a setting; expected some of "
            f"{', '.join(SETTING)}"
        )
    names = ("data_set", "structure", "episode", *(n for n in SETTING if n not in across))
    first, second = (_by_key(scores, names) for scores in (scores_a, scores_b))
    both = [(row, second[key]) for key, row in first.items() if key in second]
    for x, y in both:
        if (x.target, x.subject) != (y.target, y.subject):
            raise DataError(
                f"{x.data_set}/{x.episode} shows {x.target} of {x.subject} in one run and "
                f"{y.target} of {y.subject} in the other; compare runs on one list of episodes"
            )
    pairs = [
        (u, v, x.subject)
        for x, y in both
        if (u := getattr(x, metric)) is not None and (v := getattr(y, metric)) is not None
    ]
    unpaired = len(first) + len(second) - 2 * len(pairs)
    if not pairs:
        raise DataError(
            f"the runs share no episode at one setting with {metric}: {len(first)} and "
            f"{len(second)} rows, {unpaired} left unpaired; compare runs on one list of episodes"
        )
    a, b, subjects = zip(*pairs, strict=True)
    return Paired(np.asarray(a, np.float64), np.asarray(b, np.float64), subjects, unpaired)


def _by_key(scores: Sequence[Score], names: Sequence[str]) -> dict[tuple, Score]:
    rows: dict[tuple, Score] = {}
    for score in scores:
        key = tuple(getattr(score, name) for name in names)
        if key in rows:
            raise DataError(
                f"a run has two rows for {', '.join(map(str, key))} (of {rows[key].model} and "
                f"{score.model}); compare one model at one setting with another"
            )
        rows[key] = score
    return rows


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
            "finite; leave their rows out"
        )
    _, places = np.unique(np.asarray(subjects), return_inverse=True)
    return np.bincount(places, values), np.bincount(places)


def _interval(
    sums: np.ndarray, counts: np.ndarray, level: float, resamples: int, seed: int
) -> Interval:
    if not 0 < level < 1:
        raise ConfigError(f"the confidence level is {level}; expected one between 0 and 1")
    if resamples < 1:
        raise ConfigError(f"{resamples} resamples were asked for; expected 1 or more")
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
