"""Differences of Dice between two settings on the same episodes."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from wsicl_jax.evaluate.records import title_of
from wsicl_jax.report.model_groups import DENSE, ModelGroup, main_kind, ordered_kinds
from wsicl_jax.report.results import Results, Setting
from wsicl_jax.report.statistics import Comparison

EQUAL_TIME = 1.25
"""Settings whose annotation times differ by less than this factor count as equally long."""

SIGNIFICANCE = 0.05
"""Largest p-value of a clear difference."""

MIN_SUBJECTS = 6
"""Fewest subjects with which the permutation test can reach `SIGNIFICANCE`: 2 / 2⁶ is 0.031."""

Verdict = Literal["yes", "no", "not clear", "too few subjects", "not measured"]


class Compared(NamedTuple):
    """Dice of `a` minus Dice of `b`."""

    a: Setting
    b: Setting
    result: Comparison


def compared(results: Results, a: Setting | None, b: Setting | None) -> Compared | None:
    """Dice of `a` minus that of `b`; None if one is missing or they share no episode."""
    if a is None or b is None or a == b:
        return None
    difference = results.difference(a, b)
    return difference and Compared(a, b, difference)


def verdict(result: Comparison | None) -> Verdict:
    """Whether `a` is better than `b`, by the permutation test over subjects.

    A difference is clear if p is at most `SIGNIFICANCE` and the 95 % interval excludes 0.
    """
    if result is None:
        return "not measured"
    if result.subjects < MIN_SUBJECTS:
        return "too few subjects"
    if result.p_value > SIGNIFICANCE or result.low <= 0 <= result.high:
        return "not clear"
    return "yes" if result.difference > 0 else "no"


def by_contexts(results: Results, group: ModelGroup, data_set: str) -> Compared | None:
    """The main kind with the most context images against the fewest, with as many prompts."""
    return _most_against_fewest(results, group, data_set, "contexts")


def by_prompts(results: Results, group: ModelGroup, data_set: str) -> Compared | None:
    """The main kind with the most prompts against the fewest, with as many context images."""
    return _most_against_fewest(results, group, data_set, "prompts")


def at_equal_time(
    results: Results, group: ModelGroup, data_set: str, kinds: tuple[str, str] = ("box", "point")
) -> Compared | None:
    """Two kinds at about the same annotation time: the longest such time, then the nearest pair.

    None if no two settings are within `EQUAL_TIME` of each other.
    """
    pairs = []
    for a in group.of(data_set, kinds[0]):
        for b in group.of(data_set, kinds[1]):
            low, high = sorted((results.seconds(a), results.seconds(b)))
            if low > 0 and high / low <= EQUAL_TIME:
                pairs.append((-low, high / low, -a.contexts, -b.contexts, a, b))
    return compared(results, *min(pairs)[-2:]) if pairs else None


def against_dense(results: Results, group: ModelGroup, data_set: str) -> Compared | None:
    """Dense ICL against the main kind, each at its main setting."""
    main = group.main(data_set)
    return compared(results, main.get(DENSE), main[main_kind(list(main))]) if main else None


def by_rounds(results: Results, group: ModelGroup, data_set: str) -> Compared | None:
    """The last interactive round against the first, of the main kind with the fewest contexts."""
    sessions = [s for s in group.settings if s.protocol == "interactive" and s.data_set == data_set]
    if not sessions:
        return None
    kind = main_kind(list(dict.fromkeys(s.kind for s in sessions)))
    fewest = min(s.contexts for s in sessions if s.kind == kind)
    rounds = sorted(
        (s for s in sessions if (s.kind, s.contexts) == (kind, fewest)), key=lambda s: s.round
    )
    return compared(results, rounds[-1], rounds[0])


def between_kinds(results: Results, group: ModelGroup, data_set: str) -> list[Compared]:
    """The main kind minus each other one at the main settings, then the others minus dense ICL."""
    main = group.main(data_set)
    if not main:
        return []
    first = main_kind(list(main))
    others = [kind for kind in main if kind != first]
    pairs = [(first, kind) for kind in others]
    pairs += [(kind, DENSE) for kind in others if DENSE in main and kind != DENSE]
    return [c for a, b in pairs if (c := compared(results, main[a], main[b]))]


def between_models(results: Results, data_set: str) -> tuple[list[Compared], list[str]]:
    """Each model minus the first, kind by kind, at the largest setting that both have.

    And a sentence for each pair that has no setting or no episode in common.
    """
    kinds: dict[str, dict[str, list[Setting]]] = {}
    for setting in results.rows:
        if setting.data_set == data_set and setting.protocol == "in_context":
            kinds.setdefault(setting.kind, {}).setdefault(setting.model, []).append(setting)
    differences, not_compared = [], []
    for kind in ordered_kinds(kinds):
        models = kinds[kind]
        first, *others = [model for model in results.models if model in models]
        for other in others:
            pair = _most_in_common(models[other], models[first])
            difference = compared(results, *pair) if pair else None
            if difference:
                differences.append(difference)
            else:
                lacking = "episode" if pair else "number of contexts and prompts"
                title = title_of("in_context", kind)
                not_compared.append(
                    f"{other} and {first} have no {lacking} in common with {title}: not compared."
                )
    return differences, not_compared


def _most_against_fewest(
    results: Results, group: ModelGroup, data_set: str, varied: str
) -> Compared | None:
    main = group.main(data_set)
    if not main:
        return None
    most = main[main_kind(list(main))]
    kept = "prompts" if varied == "contexts" else "contexts"
    line = [s for s in group.of(data_set, most.kind) if getattr(s, kept) == getattr(most, kept)]
    return compared(results, most, min(line, key=lambda s: getattr(s, varied)))


def _most_in_common(a: Sequence[Setting], b: Sequence[Setting]) -> tuple[Setting, Setting] | None:
    of_b = {(s.contexts, s.prompts): s for s in b}
    common = {(s.contexts, s.prompts): s for s in a if (s.contexts, s.prompts) in of_b}
    return (common[max(common)], of_b[max(common)]) if common else None
