"""Scores as tables and JSON."""

import io
import json

import pytest
from rich.console import Console

from wsicl_jax.config import EvaluationConfig
from wsicl_jax.evaluate.protocol import Score
from wsicl_jax.evaluate.tables import annotation_seconds, dice_table, mean_dice, report

SETTINGS = EvaluationConfig(contexts=4, prompts=3)
SCORES = [
    Score("set", "a", "box", "case 1", 0.5),
    Score("set", "a", "box", "case 2", 0.7),
    Score("set", "b", "box", "case 1", 0.25),
    Score("set", "a", "point", "case 1", 0.125),
]


def test_means_are_taken_over_targets():
    assert mean_dice(SCORES) == pytest.approx(
        {"set/a/box": 0.6, "set/b/box": 0.25, "set/a/point": 0.125}
    )


def test_the_table_has_a_row_for_each_structure_and_a_column_for_each_kind():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(dice_table(SCORES, SETTINGS))
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "│" in line]
    rows = [[cell.strip() for cell in line] for line in lines]
    assert rows == [
        ["set", "a", "2", "0.600", "0.125"],
        ["set", "b", "1", "0.250", "-"],
        ["all", "", "", "0.483", "0.125"],
        ["annotating the contexts", "", "", "120 s", "60 s"],
    ]


def test_the_report_is_json_with_every_trial():
    content = json.loads(json.dumps(report(SCORES, SETTINGS, seed=3)))
    assert content["seed"] == 3
    assert content["annotation_seconds"] == {"box": 120, "point": 60}
    assert len(content["trials"]) == len(SCORES)
    assert content["trials"][0] == SCORES[0]._asdict()


def test_a_mask_is_annotated_once_for_each_context():
    assert annotation_seconds("mask", SETTINGS) == 4 * 1600
