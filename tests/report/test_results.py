"""Rows of several sweeps together."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_scores import MadeUp, write_sweep

from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.records import ABOUT, Cell, Score, write_cell
from wsicl_jax.report.comparisons import between_models
from wsicl_jax.report.page_tables import restoration_rows
from wsicl_jax.report.results import Setting, read_results

ROW = Score(
    model="m", data_set="d", structure="s", episode="s/1", target="1", subject="1",
    protocol="in_context", kind="box", contexts=4, prompts=3, dice=0.5,
)  # fmt: skip


def _sweep(directory, *scores, **about):
    write_cell(directory, Cell(name="c", key="k", scores=scores))
    if about:
        (directory / ABOUT).write_text(json.dumps(about))
    return directory


def test_rows_that_two_sweeps_share_count_once_and_a_note_says_so(tmp_path):
    other = replace(ROW, contexts=8)
    results = read_results([_sweep(tmp_path / "a", ROW), _sweep(tmp_path / "b", ROW, other)])
    assert results.scores == (ROW, other)
    assert results.notes == ("1 scores are in several of the sweeps and count once.",)


def test_sweeps_that_contradict_each_other_are_refused(tmp_path):
    sweeps = [_sweep(tmp_path / "a", ROW), _sweep(tmp_path / "b", replace(ROW, dice=0.6))]
    with pytest.raises(DataError, match=r"a and .*b both score m on d/s/1 .* dice 0.5 and 0.6"):
        read_results(sweeps)


def test_one_name_for_two_checkpoints_is_refused(tmp_path):
    sweeps = [
        _sweep(tmp_path / name, replace(ROW, contexts=n), models={"m": {"digest": name}})
        for n, name in enumerate(("old", "new"), 1)
    ]
    with pytest.raises(DataError, match=r"model 'm' is checkpoint old in .*/old and new in .*/new"):
        read_results(sweeps)


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        (([32, 32, 32], [48, 56, 48]), "a working grid of 32 x 32 x 32 in .*a and of 48 x 56 x 48"),
        (([32, 32, 32], [32, 32, 32]), "other volume settings in .*a than in .*b"),
    ],
)
def test_a_baseline_with_other_settings_is_refused_with_the_remedy(tmp_path, grids, words):
    sweeps = [
        _sweep(
            tmp_path / name, replace(ROW, model="intensity", contexts=n),
            models={"intensity": {"baseline": "Gaussian", "grid": grid, "digest": name}},
        )
        for n, (name, grid) in enumerate(zip("ab", grids, strict=True), 1)
    ]  # fmt: skip
    with pytest.raises(
        DataError, match=f"baseline 'intensity' was computed (on|with) {words}"
    ) as e:
        read_results(sweeps)
    assert "evaluate the checkpoints of both in one sweep, give `baselines: []`" in str(e.value)


def test_differing_episode_lists_are_noted(tmp_path):
    sweeps = [
        _sweep(tmp_path / name, replace(ROW, contexts=n), data_sets={"d": {"digest": name}})
        for n, name in enumerate(("old", "new"), 1)
    ]
    (note,) = read_results(sweeps).notes
    assert note.startswith("The episode lists of d differ between")


def test_a_report_without_sweeps_is_refused():
    with pytest.raises(DataError, match="no sweep was given"):
        read_results([])


def test_interactive_sessions_with_fewer_prompts_stay_in_their_round(tmp_path):
    rows = [
        replace(ROW, protocol="interactive", contexts=0, round=2, episode=f"s/{n}", prompts=n)
        for n in (1, 2)
    ]
    results = read_results([_sweep(tmp_path, *rows)])
    assert results.rows == {Setting("m", "d", "interactive", "box", 0, 0, 2): tuple(rows)}


def test_differences_are_over_episodes_that_both_settings_have(tmp_path):
    a = [replace(ROW, episode=f"s/{n}", target=n, subject=n, dice=0.5) for n in "123"]
    b = [replace(ROW, contexts=8, episode=f"s/{n}", target=n, subject=n, dice=0.9) for n in "234"]
    results = read_results([_sweep(tmp_path, *a, *b)])
    few, many = results.rows
    found = results.difference(many, few)
    assert (round(found.difference, 9), found.subjects) == (0.4, 2)
    assert results.difference(many, few, "hd95_mm") is None


def test_degraded_images_belong_to_the_restoration_of_their_own_model(tmp_path):
    made_up = MadeUp(
        models={"a": 0.0, "b": 0.0}, data_sets={"d": ("s",)}, kinds=(), restoration=("denoising",)
    )
    scores = write_sweep(tmp_path, made_up)
    results = read_results([tmp_path])
    assert results.models == ("a", "b")
    sizes, rows = restoration_rows(results)
    assert sizes == (0, 1, 2, 4, 8)
    assert [(row.model, row.metric) for row in rows] == [
        (model, metric) for model in "ab" for metric in ("psnr", "ssim")
    ]
    given = np.mean([s.psnr for s in scores if s.contexts == 0])
    best = np.mean([s.psnr for s in scores if s.contexts == 8])
    assert rows[0].values[0].mean == pytest.approx(given)
    assert rows[0].change.difference == pytest.approx(best - given)


def test_models_without_a_common_setting_are_not_compared_and_a_note_says_so(tmp_path):
    ours = [replace(ROW, contexts=n) for n in (1, 4)]
    theirs = replace(ROW, model="theirs", contexts=8)
    found, without = between_models(read_results([_sweep(tmp_path, *ours, theirs)]), "d")
    assert found == []
    assert without == [
        "theirs and m have no number of contexts and prompts in common with WS-ICL (Box): "
        "not compared."
    ]
