"""The sentences of the page follow from the numbers."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_scores import MadeUp, write_sweep

from wsicl_jax.evaluate.records import Cell, Score, write_cell
from wsicl_jax.report.comparisons import at_equal_time
from wsicl_jax.report.findings import findings, key_numbers, questions_of
from wsicl_jax.report.model_groups import model_groups
from wsicl_jax.report.results import read_results
from wsicl_jax.report.wording import TIMES

MORE_CONTEXTS = "Do more context images help?"
MORE_PROMPTS = "Do more prompts help?"
EQUAL_TIME = "Are boxes better than points at equal time?"
DENSE = "Is dense ICL better than WS-ICL (Box)?"
ROUNDS = "Do interactive rounds help?"


def _findings(directory, dice, subjects=6, **settings):
    """Findings of a sweep whose Dice is `dice(kind, contexts, prompts)`, with a little noise."""
    rng = np.random.default_rng(0)
    scores = []
    for kind, contexts, prompts, seconds in settings["measured"]:
        for i in range(subjects):
            own = Score(
                model="m", data_set="d", structure="s", episode=f"s/{i}", target=f"{i}",
                subject=f"{i}", protocol="in_context", kind=kind, contexts=contexts,
                prompts=prompts, seconds=seconds,
                dice=dice(kind, contexts, prompts) + settings.get("noise", 0.01) * rng.normal(),
            )  # fmt: skip
            scores.append(own)
    write_cell(directory, Cell(name="c", key="k", scores=tuple(scores)))
    results = read_results([directory])
    (group,) = model_groups(results)
    return {f.question: f for f in findings(results, group, "d")}


BOXES = [("box", 1, 1, 10.0), ("box", 8, 1, 80.0), ("box", 8, 5, 400.0)]


@pytest.mark.parametrize(("change", "answer"), [(0.1, "yes"), (-0.1, "no"), (0.0, "not clear")])
def test_the_verdict_follows_the_test(tmp_path, change, answer):
    answers = _findings(
        tmp_path, lambda kind, contexts, prompts: 0.5 + change * (prompts > 1), measured=BOXES
    )
    assert answers[MORE_PROMPTS].verdict == answer
    assert "8 context images, from 1 to 5 prompts on each" in answers[MORE_PROMPTS].text


@pytest.mark.parametrize(
    ("subjects", "answer"), [(4, "too few subjects"), (5, "too few subjects"), (6, "yes")]
)
def test_a_verdict_needs_as_many_subjects_as_its_test(tmp_path, subjects, answer):
    measured = [("box", 1, 1, 10.0), ("box", 8, 1, 80.0)]
    answers = _findings(tmp_path, lambda kind, n, prompts: n / 10, subjects, measured=measured)
    assert answers[MORE_CONTEXTS].verdict == answer
    p = 2 / 2**subjects
    assert f"p = {p:.3f}, {subjects} subjects)" in answers[MORE_CONTEXTS].text


def test_one_subject_has_no_verdict(tmp_path):
    measured = [("box", 1, 1, 10.0), ("box", 8, 1, 80.0)]
    answers = _findings(
        tmp_path, lambda kind, contexts, prompts: contexts / 10, 1, measured=measured
    )
    assert answers[MORE_CONTEXTS].verdict == "too few subjects"
    assert "(one subject, so no interval and no test)" in answers[MORE_CONTEXTS].text


def test_a_question_without_scores_is_not_measured(tmp_path):
    answers = _findings(tmp_path, lambda *_: 0.5, measured=[("box", 4, 3, 120.0)])
    assert [f.verdict for f in answers.values()] == ["not measured"] * 2
    assert answers[MORE_CONTEXTS].text == "Only one size of the context set was measured."


def test_sentences_carry_the_means_their_difference_and_its_interval(tmp_path):
    measured = [("box", 1, 3, 30.0), ("box", 8, 3, 240.0)]
    answers = _findings(
        tmp_path, lambda kind, contexts, prompts: 0.4 + 0.025 * contexts, measured=measured, noise=0
    )
    assert answers[MORE_CONTEXTS].text == (
        "With WS-ICL (Box) and 3 prompts on each image, from 1 to 8 context images, Dice goes from "
        "0.425 to 0.600: +0.175 (95 % interval +0.175 to +0.175, p = 0.031, 6 subjects)."
    )


def test_equal_time_takes_the_longest_pair_within_a_quarter(tmp_path):
    measured = [
        ("box", 1, 1, 10.0), ("box", 8, 5, 400.0), ("box", 16, 5, 800.0),
        ("point", 2, 1, 10.0), ("point", 16, 5, 400.0), ("point", 12, 5, 330.0),
    ]  # fmt: skip
    answers = _findings(tmp_path, lambda kind, *_: 0.7 if kind == "box" else 0.5, measured=measured)
    assert answers[EQUAL_TIME].verdict == "yes"
    assert f"Boxes (8 context images {TIMES} 5 prompts, 6.7 min)" in answers[EQUAL_TIME].text
    assert f"points (16 context images {TIMES} 5 prompts, 6.7 min)" in answers[EQUAL_TIME].text


def test_without_settings_of_equal_time_nothing_is_claimed(tmp_path):
    measured = [("box", 1, 1, 13.0), ("point", 1, 1, 10.0)]
    answers = _findings(tmp_path, lambda *_: 0.5, measured=measured)
    assert answers[EQUAL_TIME].verdict == "not measured"


def test_the_share_of_dense_and_of_its_time_are_ratios_of_the_means(tmp_path):
    measured = [("box", 8, 5, 400.0), ("mask", 8, 1, 12800.0)]
    answers = _findings(
        tmp_path, lambda kind, *_: 0.8 if kind == "mask" else 0.6, measured=measured
    )
    assert answers[DENSE].verdict == "yes"
    assert "has 75 % of the Dice of dense ICL" in answers[DENSE].text
    assert "in 1/32 of its annotation time (6.7 min against 3.6 h)" in answers[DENSE].text


def test_numbers_at_the_head_are_means_over_data_sets(tmp_path):
    made_up = MadeUp(models={"m": 0.0}, data_sets={"a": ("x", "y"), "b": ("z",)}, subjects=6)
    scores = write_sweep(tmp_path, made_up)
    results = read_results([tmp_path])
    numbers = key_numbers(results, *model_groups(results))
    mains = [s for s in scores if (s.kind, s.contexts, s.prompts) == ("box", 8, 5)]
    means = [np.mean([s.dice for s in mains if s.data_set == name]) for name in ("a", "b")]
    assert numbers[0].value == f"{np.mean(means):.3f}"
    assert numbers[0].label == "Dice, WS-ICL (Box)"
    assert numbers[1].label == "of the Dice of dense ICL"
    assert numbers[3].label == "Dice, from 1 to 8 context images"
    assert numbers[3].detail == "above 0 in 2 of 2 data sets"


def test_models_with_no_kind_in_common_are_read_together(tmp_path):
    made_up = MadeUp(
        models={"boxes": 0.0, "points": 0.0}, data_sets={"a": ("x",)},
        kinds_of={"boxes": ["box"], "points": ["point"]}, subjects=4,
    )  # fmt: skip
    write_sweep(tmp_path, made_up)
    results = read_results([tmp_path])
    (group,) = model_groups(results)
    assert group.name == "boxes and points"
    pair = at_equal_time(results, group, "a")
    assert (pair.a.model, pair.b.model) == ("boxes", "points")


def test_models_that_share_kinds_are_compared_with_the_first(tmp_path):
    made_up = MadeUp(
        models={"first": 0.0, "better": 0.1, "alike": 0.0}, data_sets={"a": ("x",)}, subjects=6,
        kinds=("box",), contexts=(1, 2), prompts=(1,),
    )  # fmt: skip
    write_sweep(tmp_path, made_up)
    results = read_results([tmp_path])
    within, between = questions_of(results, model_groups(results))
    assert [a.heading for a in within.answers] == ["a, first", "a, better", "a, alike"]
    assert {f.question: f.verdict for f in between.answers[0].findings} == {
        "Is better better than first with WS-ICL (Box)?": "yes",
        "Is alike better than first with WS-ICL (Box)?": "not clear",
    }


def test_rounds_are_compared_last_with_first(tmp_path):
    made_up = MadeUp(
        models={"m": 0.0}, data_sets={"a": ("x",)}, kinds=(), interactive=("point",), rounds=4
    )
    write_sweep(tmp_path, made_up)
    results = read_results([tmp_path])
    (finding,) = findings(results, *model_groups(results), "a")
    assert (finding.question, finding.verdict) == (ROUNDS, "yes")
    assert "from round 1 to round 4" in finding.text


def test_the_main_setting_has_the_contexts_that_most_kinds_share(tmp_path):
    kinds = [("box", 8, 5), ("box", 16, 5), ("point", 8, 3), ("mask", 8, 1), ("scribble", 2, 1)]
    row = Score(
        model="m", data_set="d", structure="s", episode="s/1", target="1", subject="1",
        protocol="in_context", kind="box", contexts=1, prompts=1, dice=0.5,
    )  # fmt: skip
    scores = tuple(replace(row, kind=k, contexts=c, prompts=p) for k, c, p in kinds)
    write_cell(tmp_path, Cell(name="c", key="k", scores=scores))
    (group,) = model_groups(read_results([tmp_path]))
    main = group.main("d")
    assert {kind: (s.contexts, s.prompts) for kind, s in main.items()} == {
        "box": (8, 5),
        "point": (8, 3),
        "scribble": (2, 1),
        "mask": (8, 1),
    }
