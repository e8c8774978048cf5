"""Scores as tables and JSON."""

import io
import json
from dataclasses import asdict

import pytest
from rich.console import Console

from wsicl_jax.evaluate.protocols.restoration import BEFORE
from wsicl_jax.evaluate.records import Score
from wsicl_jax.evaluate.summaries import (
    mean_dice,
    mean_loss,
    mean_ssim,
    report,
    score_tables,
    skipped_table,
    sweep_table,
)


def score(structure="a", kind="box", target="1", dice=None, **settings) -> Score:
    settings = {"model": "it", "prompts": 3, "contexts": 4, "protocol": "in_context"} | settings
    return Score(
        data_set="set",
        structure=structure,
        kind=kind,
        target=target,
        subject=target,
        episode=f"{structure}/{target}",
        dice=dice,
        **settings,
    )


SCORES = [
    score("a", "box", "1", 0.5, seconds=120.0),
    score("a", "box", "2", 0.7, seconds=120.0),
    score("b", "box", "1", 0.25, seconds=90.0),
    score("a", "point", "1", 0.125, seconds=60.0),
]
ROUNDS = [
    score("a", "point", "1", dice, protocol="interactive", prompts=n, contexts=0, round=n)
    for n, dice in ((1, 0.5), (2, 0.75))
]
RESTORED = [
    score(kind="denoising", model=model, contexts=n, protocol="restoration", psnr=psnr, ssim=ssim)
    for model, n, psnr, ssim in (
        (BEFORE, 0, 20.0, 0.5),
        ("it", 4, 30.5, 0.875),
        ("it", 4, 31.0, 0.75),
    )
]


def rows(table) -> list[list[str]]:
    """Headings and rows of a table as people see them."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().replace("┃", "│").splitlines()
    cells = [line.split("│")[1:-1] for line in lines if "│" in line]
    return [[cell.strip() for cell in line] for line in cells]


def test_means_are_taken_over_targets():
    assert mean_dice(SCORES) == pytest.approx(
        {"set/a/box": 0.6, "set/b/box": 0.25, "set/a/point": 0.125}
    )


def test_means_of_several_settings_of_a_kind_have_keys_of_their_own():
    scores = [*SCORES, score("a", "point", "1", 0.5, contexts=1), *ROUNDS, *RESTORED]
    assert mean_dice(scores) == pytest.approx(
        {
            "set/a/box": 0.6,
            "set/b/box": 0.25,
            "set/a/point/prompts=3,contexts=4": 0.125,
            "set/a/point/prompts=3,contexts=1": 0.5,
            "set/a/interactive point/round=1": 0.5,
            "set/a/interactive point/round=2": 0.75,
        }
    )
    assert mean_ssim(scores) == pytest.approx({"set/denoising/contexts=4": 0.8125})


def test_a_table_has_a_row_for_each_structure_and_a_column_for_each_kind():
    (table,) = score_tables(SCORES)
    assert rows(table) == [
        ["data set", "structure", "targets", "box x 3", "point x 3"],
        ["set", "a", "2", "0.600", "0.125"],
        ["set", "b", "1", "0.250", "-"],
        ["all", "", "", "0.483", "0.125"],
        ["annotating the contexts", "", "", "110 s", "60 s"],
    ]


def test_several_context_sizes_are_columns():
    (table,) = score_tables([*SCORES, score("a", "box", "1", 1.0, contexts=2)])
    assert rows(table) == [
        ["data set", "structure", "kind", "prompts", "targets", "2", "4"],
        ["set", "a", "box", "3", "2", "1.000", "0.600"],
        ["set", "b", "box", "3", "1", "-", "0.250"],
        ["set", "a", "point", "3", "1", "-", "0.125"],
    ]


def test_every_protocol_has_a_table_of_its_own():
    in_context, interactive, restoration = score_tables([*RESTORED, *ROUNDS, *SCORES])
    assert rows(in_context)[0][3:] == ["box x 3", "point x 3"]
    assert rows(interactive) == [
        ["data set", "structure", "kind", "targets", "1", "2"],
        ["set", "a", "point", "1", "0.500", "0.750"],
    ]
    assert rows(restoration) == [
        ["data set", "task", "model", "contexts", "PSNR, dB", "SSIM"],
        ["set", "denoising", BEFORE, "0", "20.0", "0.500"],
        ["set", "denoising", "it", "4", "30.8", "0.812"],
    ]


def test_a_sweeps_table_has_a_row_for_each_cell():
    others = [score("a", "box", "1", 0.25, model="b", contexts=2), *ROUNDS, *RESTORED]
    others.append(score("a", "point", "1", 1.0, protocol="interactive", round=3))
    assert rows(sweep_table(SCORES + others)) == [
        ["model", "data set", "kind", "prompts", "2", "4"],
        ["it", "set", "box", "3", "-", "0.483"],
        ["it", "set", "point", "3", "-", "0.125"],
        ["b", "set", "box", "3", "0.250", "-"],
    ]


def test_skipped_structures_are_a_table_of_reasons():
    assert rows(skipped_table({"set/c": "too rare"}))[1] == ["set/c", "too rare"]


def test_the_report_is_json_with_every_trial():
    content = json.loads(json.dumps(report(SCORES, seed=3)))
    assert content["seed"] == 3
    assert content["mean_dice"]["set/a/box"] == pytest.approx(0.6)
    assert content["mean_ssim"] == {}
    assert content["trials"] == [asdict(one) for one in SCORES]


def test_the_validation_loss_is_that_in_context_and_else_that_of_restoration():
    in_context = [score(loss=value) for value in (1.0, 3.0)]
    restored = [
        score(loss=value, model=model, protocol="restoration")
        for model, value in ((BEFORE, 9.0), ("it", 5.0))
    ]
    assert mean_loss([*in_context, *restored, *ROUNDS]) == 2.0
    assert mean_loss(restored) == 5.0
    assert mean_loss(SCORES) is None
