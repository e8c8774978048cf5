"""Questions that the scores answer, in sentences, and the key numbers at the head of the page."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, get_args

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
from wsicl_jax.report.wording import DASH, counted, duration, number, p_words, signed

_MIN_RATIO = 1.5
"""From this ratio of annotation times on, the shorter one is written as 1/n."""


class Finding(NamedTuple):
    """A question, its answer, and the numbers behind it."""

    question: str
    verdict: Verdict
    text: str
    difference: Comparison | None
    """The basis of the verdict."""


class Answers(NamedTuple):
    """Findings under one heading."""

    heading: str
    findings: list[Finding]


class Questions(NamedTuple):
    """The same questions to several data sets or models."""

    title: str
    answers: list[Answers]
    columns: list[str]
    rows: list[tuple[str, list[Finding | None]]]
    """A table of all findings: questions by headings, or headings by questions if they are more."""


class KeyNumber(NamedTuple):
    """A large number at the head of the page."""

    value: str
    label: str
    detail: str


def questions_of(results: Results, full: Sequence[ModelGroup]) -> list[Questions]:
    """All findings: within each group of models, then model against model."""
    within = [
        Answers(f"{name}, {one.name}" if len(full) > 1 else name, findings(results, one, name))
        for name in results.data_sets
        for one in full
        if name in one.data_sets
    ]
    between = [Answers(name, model_findings(results, name)) for name in results.data_sets]
    sections = []
    for title, answers in (("", within), ("Model against model", between)):
        answers = [answer for answer in answers if answer.findings]
        if answers:
            by_heading = {a.heading: {f.question: f for f in a.findings} for a in answers}
            questions = list(dict.fromkeys(q for answered in by_heading.values() for q in answered))
            rows = [(h, [answered.get(q) for q in questions]) for h, answered in by_heading.items()]
            columns = questions
            if len(rows) < len(questions):
                cells = zip(*(row for _, row in rows), strict=True)
                columns = list(by_heading)
                rows = [(q, list(row)) for q, row in zip(questions, cells, strict=True)]
            sections.append(Questions(title, answers, columns, rows))
    return sections


def findings(results: Results, group: ModelGroup, data_set: str) -> list[Finding]:
    """The findings of one group of models on one data set."""
    answers = []
    kinds = group.kinds(data_set)
    if kinds:
        answers += [
            _finding(
                "Do more context images help?",
                by_contexts(results, group, data_set),
                lambda c: (
                    f"With {c.a.title}{_with_prompts(c.a)}, from {c.b.contexts} to "
                    f"{c.a.contexts} context images, " + _from_to(results, c)
                ),
                "Only one size of the context set was measured.",
            ),
            _finding(
                "Do more prompts help?",
                by_prompts(results, group, data_set),
                lambda c: (
                    f"With {c.a.title} and {c.a.contexts} context images, from {c.b.prompts} "
                    f"to {c.a.prompts} prompts on each, " + _from_to(results, c)
                ),
                "Only one number of prompts was measured.",
            ),
        ]
    if "box" in kinds and "point" in kinds:
        answers.append(
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
        answers.append(
            _finding(
                f"Is dense ICL better than {group.main(data_set)[main_kind(kinds)].title}?",
                against_dense(results, group, data_set),
                lambda c: (
                    f"{c.b.title} has {_share(results, [c.b], [c.a])} of the Dice of dense ICL "
                    f"({_dice(results, c.b)} against {_dice(results, c.a)}) in "
                    f"{_part_of_time(results, [c.b], [c.a])} of its annotation time "
                    f"({_time(results, c.b)} against {_time(results, c.a)}). Dense ICL minus "
                    f"{c.b.title}: {difference_words(c.result)}."
                ),
                "They have no episode in common.",
            )
        )
    rounds = by_rounds(results, group, data_set)
    if rounds:
        answers.append(
            _finding(
                "Do interactive rounds help?",
                rounds,
                lambda c: (
                    f"With {c.a.title}, from {setting_words(c.b)} to {setting_words(c.a)}, "
                    + _from_to(results, c)
                ),
                "",
            )
        )
    return answers


def model_findings(results: Results, data_set: str) -> list[Finding]:
    """Model against model on one data set, a question for each pair and kind."""
    return [
        _finding(
            f"Is {c.a.model} better than {c.b.model} with {c.a.title}?",
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
    """The numbers at the head of the page, as means over the data sets of a group."""
    kind = main_kind(kinds) if (kinds := group.kinds()) else ""
    mains = [m[kind] for d in group.data_sets if kind in (m := group.main(d))]
    numbers = []
    if mains and (own := _mean_dice(results, mains)) is not None:
        setting = _common(map(setting_words, mains), "each data set at its main setting")
        detail = f"{setting}, {_time(results, *mains)} of annotation. {_range(results, mains)}"
        numbers.append(KeyNumber(number(own), f"Dice, {mains[0].title}", detail))
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
    """A difference with its interval, p-value and number of subjects."""
    return f"{signed(result.difference)} ({_certainty(result)})"


def _certainty(result: Comparison) -> str:
    if result.p_value is None:
        return "one subject, so no interval and no test"
    return (
        f"95 % interval {signed(result.low)} to {signed(result.high)}, "
        f"{p_words(result.p_value)}, {counted(result.subjects, 'subject')}"
    )


def _finding(
    question: str, difference: Compared | None, text: Callable[[Compared], str], missing: str
) -> Finding:
    if difference is None:
        return Finding(question, "not measured", missing, None)
    return Finding(question, verdict(difference.result), text(difference), difference.result)


def _change(
    differences: Sequence[Compared], label: Callable[[Compared], str], mixed: str
) -> list[KeyNumber]:
    if not differences:
        return []
    mean = float(np.mean([c.result.difference for c in differences]))
    if len(differences) == 1:
        detail = _certainty(differences[0].result)
    else:
        verdicts = [verdict(c.result) for c in differences]
        words = {"yes": "above 0", "no": "below 0"}
        detail = ", ".join(
            f"{words.get(one, one)} in {verdicts.count(one)} of {len(verdicts)} data sets"
            for one in get_args(Verdict)
            if one in verdicts
        )
    return [KeyNumber(signed(mean), _common(map(label, differences), mixed), detail)]


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
    return f" and {counted(setting.prompts, 'prompt')} on each image"


def _dice(results: Results, setting: Setting) -> str:
    return number(results.mean(setting))


def _time(results: Results, *settings: Setting) -> str:
    return duration(float(np.mean([results.seconds(s) for s in settings])))


def _mean_dice(results: Results, settings: Sequence[Setting]) -> float | None:
    means = [mean for s in settings if (mean := results.mean(s)) is not None]
    return float(np.mean(means)) if means else None


def _share(results: Results, ours: Sequence[Setting], theirs: Sequence[Setting]) -> str:
    a, b = _mean_dice(results, ours), _mean_dice(results, theirs)
    return f"{100 * a / b:.0f} %" if a is not None and b else DASH


def _part_of_time(results: Results, ours: Sequence[Setting], theirs: Sequence[Setting]) -> str:
    a, b = (sum(results.seconds(s) for s in side) for side in (ours, theirs))
    if not a or not b:
        return "an unknown part"
    return f"1/{b / a:.0f}" if b / a >= _MIN_RATIO else f"{a / b:.2g} times"


def _range(results: Results, settings: Sequence[Setting]) -> str:
    if len(settings) == 1:
        interval = results.interval(settings[0])
        if interval is None or interval.low is None:
            return "One subject, so no interval"
        ends = f"{number(interval.low)} to {number(interval.high)}"
        return f"95 % interval {ends}, {counted(interval.subjects, 'subject')}"
    means = [mean for s in settings if (mean := results.mean(s)) is not None]
    return f"From {number(min(means))} to {number(max(means))} on {len(means)} data sets"


def _common(texts: Iterable[str], mixed: str) -> str:
    """The text, if all are the same, else `mixed`."""
    different = list(dict.fromkeys(texts))
    return different[0] if len(different) == 1 else mixed
