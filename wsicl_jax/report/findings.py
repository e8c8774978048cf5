"""What the numbers say, in sentences and in a few large figures; all computed, none assumed."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from wsicl_jax.prompts import ONCE_PER_IMAGE
from wsicl_jax.report.comparisons import (
    Compared,
    Verdict,
    against_dense,
    at_equal_time,
    between_models,
    by_contexts,
    by_prompts,
    by_rounds,
    verdict,
)
from wsicl_jax.report.model_groups import DENSE, ModelGroup, main_kind, setting_words
from wsicl_jax.report.results import Results, Setting
from wsicl_jax.report.statistics import Comparison
from wsicl_jax.report.wording import DASH, duration, number, signed

_WHOLE = 1.5
"""From this ratio on, a part of the time is written as one of so many."""


class Finding(NamedTuple):
    """A question, its answer, and the numbers behind it."""

    question: str
    verdict: Verdict
    text: str
    difference: Comparison | None
    """That the answer is read from."""


class Answers(NamedTuple):
    """Findings under one heading."""

    heading: str
    findings: list[Finding]


class Questions(NamedTuple):
    """The same questions to several data sets or models."""

    title: str
    answers: list[Answers]
    rows: list[tuple[str, list[Finding | None]]]
    """Each question with its answers, in the order of `answers`."""


class KeyNumber(NamedTuple):
    """A number to remember."""

    value: str
    label: str
    detail: str


def questions_of(results: Results, full: Sequence[ModelGroup]) -> list[Questions]:
    """All findings: within each line-up, then model against model."""
    within = [
        Answers(f"{name}, {one.name}" if len(full) > 1 else name, findings(results, one, name))
        for name in results.data_sets
        for one in full
        if name in one.data_sets
    ]
    between = [Answers(name, model_findings(results, name)) for name in results.data_sets]
    found = []
    for title, answers in (("", within), ("Model against model", between)):
        there = [answer for answer in answers if answer.findings]
        if there:
            asked = [{f.question: f for f in answer.findings} for answer in there]
            questions = dict.fromkeys(question for one in asked for question in one)
            rows = [(question, [one.get(question) for one in asked]) for question in questions]
            found.append(Questions(title, there, rows))
    return found


def findings(results: Results, group: ModelGroup, data_set: str) -> list[Finding]:
    """What one line-up shows on one data set."""
    found = []
    kinds = group.kinds(data_set)
    if kinds:
        found += [
            _finding(
                "Do more context images help?",
                by_contexts(results, group, data_set),
                lambda c: (
                    f"With {_kind(c.a)}{_with_prompts(c.a)}, from {c.b.contexts} to "
                    f"{c.a.contexts} context images, " + _from_to(results, c)
                ),
                "Only one size of the context set was measured.",
            ),
            _finding(
                "Do more prompts help?",
                by_prompts(results, group, data_set),
                lambda c: (
                    f"With {_kind(c.a)} and {c.a.contexts} context images, from {c.b.prompts} "
                    f"to {c.a.prompts} prompts on each, " + _from_to(results, c)
                ),
                "Only one number of prompts was measured.",
            ),
        ]
    if "box" in kinds and "point" in kinds:
        found.append(
            _finding(
                "Are boxes better than points at equal time?",
                at_equal_time(results, group, data_set),
                lambda c: (
                    f"Boxes ({setting_words(c.a)}, {_time(results, c.a)}) have a Dice of "
                    f"{_dice(results, c.a)}, points ({setting_words(c.b)}, {_time(results, c.b)}) "
                    f"{_dice(results, c.b)}: {difference_words(c.result)}."
                ),
                "No setting with boxes takes about as long as one with points.",
            )
        )
    if DENSE in kinds and len(kinds) > 1:
        found.append(
            _finding(
                f"Is dense ICL better than {_kind(group.main(data_set)[main_kind(kinds)])}?",
                against_dense(results, group, data_set),
                lambda c: (
                    f"{_kind(c.b)} has {_share(results, [c.b], [c.a])} of the Dice of dense ICL "
                    f"({_dice(results, c.b)} against {_dice(results, c.a)}) in "
                    f"{_part_of_time(results, [c.b], [c.a])} of its annotation time "
                    f"({_time(results, c.b)} against {_time(results, c.a)}). Dense ICL minus "
                    f"{_kind(c.b)}: {difference_words(c.result)}."
                ),
                "They have no episode in common.",
            )
        )
    rounds = by_rounds(results, group, data_set)
    if rounds:
        found.append(
            _finding(
                "Do interactive rounds help?",
                rounds,
                lambda c: (
                    f"With {_kind(c.a)}, from {setting_words(c.b)} to {setting_words(c.a)}, "
                    + _from_to(results, c)
                ),
                "",
            )
        )
    return found


def model_findings(results: Results, data_set: str) -> list[Finding]:
    """Model against model on one data set, a question for each pair and kind."""
    return [
        _finding(
            f"Is {c.a.model} better than {c.b.model} with {_kind(c.a)}?",
            c,
            lambda c: (
                f"At {setting_words(c.a)}, {c.a.model} has a Dice of {_dice(results, c.a)}, "
                f"{c.b.model} {_dice(results, c.b)}: {difference_words(c.result)}."
            ),
            "",
        )
        for c in between_models(results, data_set)[0]
    ]


def key_numbers(results: Results, group: ModelGroup) -> list[KeyNumber]:
    """The numbers at the head of the page, as means over the line-up's data sets."""
    kind = main_kind(kinds) if (kinds := group.kinds()) else ""
    mains = [m[kind] for d in group.data_sets if kind in (m := group.main(d))]
    numbers = []
    if mains and (own := _mean_dice(results, mains)) is not None:
        shown = _same(map(setting_words, mains), "each data set at its main setting")
        detail = f"{shown}, {_time(results, *mains)} of annotation. {_range(results, mains)}"
        numbers.append(KeyNumber(number(own), f"Dice, {_kind(mains[0])}", detail))
    dense = _over(group, lambda data_set: against_dense(results, group, data_set))
    if dense and kind != DENSE:
        ours, theirs = [c.b for c in dense], [c.a for c in dense]
        numbers.append(
            KeyNumber(
                _share(results, ours, theirs),
                "of the Dice of dense ICL",
                f"in {_part_of_time(results, ours, theirs)} of its annotation time: "
                f"{_time(results, *ours)}, not {_time(results, *theirs)}",
            )
        )
    numbers += _change(
        _over(group, lambda data_set: at_equal_time(results, group, data_set)),
        lambda c: "Dice, boxes minus points at equal annotation time",
        "",
    )
    numbers += _change(
        _over(group, lambda data_set: by_contexts(results, group, data_set)),
        lambda c: f"Dice, from {c.b.contexts} to {c.a.contexts} context images",
        "Dice, from the fewest to the most context images",
    )
    numbers += _change(
        _over(group, lambda data_set: by_rounds(results, group, data_set)),
        lambda c: f"Dice, from {c.b.round} to {c.a.round} prompts on the target itself",
        "Dice, from the first to the last prompt on the target itself",
    )
    return numbers


def difference_words(result: Comparison) -> str:
    """A difference with its interval."""
    if result.low is None or result.high is None:
        return f"{signed(result.difference)} (one subject, so no interval)"
    return (
        f"{signed(result.difference)} (95 % interval {signed(result.low)} to {signed(result.high)})"
    )


def _finding(
    question: str, found: Compared | None, text: Callable[[Compared], str], missing: str
) -> Finding:
    if found is None:
        return Finding(question, "not measured", missing, None)
    return Finding(question, verdict(found.result), text(found), found.result)


def _change(
    found: Sequence[Compared], label: Callable[[Compared], str], mixed: str
) -> list[KeyNumber]:
    if not found:
        return []
    mean = float(np.mean([c.result.difference for c in found]))
    if len(found) == 1:
        result = found[0].result
        detail = (
            "one subject, so no interval"
            if result.low is None
            else f"95 % interval {signed(result.low)} to {signed(result.high)}"
        )
    else:
        answers = [verdict(c.result) for c in found]
        counts = {"above 0": "yes", "below 0": "no", "not clear": "not clear"}
        detail = ", ".join(
            f"{words} in {answers.count(answer)} of {len(found)} data sets"
            for words, answer in counts.items()
            if answer in answers
        )
    return [KeyNumber(signed(mean), _same(map(label, found), mixed), detail)]


def _over(group: ModelGroup, compare: Callable[[str], Compared | None]) -> list[Compared]:
    return [c for data_set in group.data_sets if (c := compare(data_set)) is not None]


def _from_to(results: Results, c: Compared) -> str:
    return (
        f"Dice goes from {_dice(results, c.b)} to {_dice(results, c.a)}: "
        f"{difference_words(c.result)}."
    )


def _with_prompts(setting: Setting) -> str:
    if setting.kind in ONCE_PER_IMAGE:
        return ""
    return f" and {setting.prompts} prompt{'s' if setting.prompts > 1 else ''} on each image"


def _kind(setting: Setting) -> str:
    return setting.title


def _dice(results: Results, setting: Setting) -> str:
    return number(results.mean(setting))


def _time(results: Results, *settings: Setting) -> str:
    return duration(float(np.mean([results.seconds(s) for s in settings])))


def _mean_dice(results: Results, settings: Sequence[Setting]) -> float | None:
    there = [mean for s in settings if (mean := results.mean(s)) is not None]
    return float(np.mean(there)) if there else None


def _share(results: Results, ours: Sequence[Setting], theirs: Sequence[Setting]) -> str:
    a, b = _mean_dice(results, ours), _mean_dice(results, theirs)
    return f"{100 * a / b:.0f} %" if a is not None and b else DASH


def _part_of_time(results: Results, ours: Sequence[Setting], theirs: Sequence[Setting]) -> str:
    a, b = (sum(results.seconds(s) for s in side) for side in (ours, theirs))
    if not a or not b:
        return "an unknown part"
    return f"1/{b / a:.0f}" if b / a >= _WHOLE else f"{a / b:.2g} times"


def _range(results: Results, settings: Sequence[Setting]) -> str:
    if len(settings) == 1:
        found = results.interval(settings[0])
        if found is None or found.low is None:
            return "One subject, so no interval"
        return f"95 % interval {number(found.low)} to {number(found.high)}"
    means = [mean for s in settings if (mean := results.mean(s)) is not None]
    return f"From {number(min(means))} to {number(max(means))} on {len(means)} data sets"


def _same(texts: Iterable[str], mixed: str) -> str:
    """The text, if all are the same, else another."""
    different = list(dict.fromkeys(texts))
    return different[0] if len(different) == 1 else mixed
