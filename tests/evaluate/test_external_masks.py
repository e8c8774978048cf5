"""Masks of other models: scored on the same episodes, or refused."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from evaluate.small_evaluations import AFFINE, SHAPE, planned

from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate.episode_list import write_list
from wsicl_jax.evaluate.external_masks import score_masks
from wsicl_jax.evaluate.prompted_episodes import truth_of
from wsicl_jax.evaluate.records import ABOUT, read_cells
from wsicl_jax.metrics.overlap import overlap


@pytest.fixture(scope="module")
def data(store):
    return planned(store, kinds=["box", "point"], contexts=3, prompts=2, targets=1)


@pytest.fixture
def listed(data, tmp_path):
    write_list(tmp_path / "list.json", data.episodes)
    return tmp_path / "list.json"


def write_masks(data, folder: Path, change=lambda truth: truth, affine=AFFINE) -> Path:
    for episode in data.episodes.episodes:
        truth = truth_of(data.episodes, data.cases, episode)
        path = folder / f"{episode.name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(change(truth).astype(np.uint8), affine), path)
    return folder


def score(listed, masks, output, *, model="other", kind="box", **settings):
    settings = {"prompts": 2, "contexts": 3, "tolerance_mm": 2.0} | settings
    return score_masks(listed, masks, output, model=model, kind=kind, **settings)


def test_perfect_masks_have_a_dice_of_1(data, listed, tmp_path):
    scores = score(listed, write_masks(data, tmp_path / "masks"), tmp_path / "out")
    assert [s.episode for s in scores] == [e.name for e in data.episodes.episodes]
    assert {(s.dice, s.surface_dice, s.hd95_mm) for s in scores} == {(1, 1, 0)}
    assert {(s.model, s.kind, s.prompts, s.contexts) for s in scores} == {("other", "box", 2, 3)}
    assert {s.seconds for s in scores} == {3 * 2 * 10}
    assert [s for cell in read_cells([tmp_path / "out"]) for s in cell.scores] == scores


def test_other_masks_are_compared_with_the_targets_spacing(data, listed, tmp_path):
    masks = write_masks(data, tmp_path / "masks", lambda truth: np.roll(truth, 1, axis=1))
    scores = score(listed, masks, tmp_path / "out", tolerance_mm=0.5)
    for episode, found in zip(data.episodes.episodes, scores, strict=True):
        truth = truth_of(data.episodes, data.cases, episode)
        expected = overlap(np.roll(truth, 1, axis=1), truth, (1.0, 2.0, 1.5), 0.5)
        assert (found.dice, found.surface_dice, found.hd95_mm) == expected
    content = json.loads((tmp_path / "out" / ABOUT).read_text())
    assert content["tolerance_mm"] == 0.5


def test_mask_prompts_need_no_entry_in_the_list(data, listed, tmp_path):
    masks = write_masks(data, tmp_path / "masks")
    scores = score(listed, masks, tmp_path / "out", kind="mask", prompts=7, contexts=2)
    assert {(s.prompts, s.seconds) for s in scores} == {(1, 2 * 1600)}


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        (SHAPE, np.eye(4), "different affines"),
        (SHAPE, AFFINE + np.eye(4, k=3), "different affines"),
        (SHAPE[::-1], AFFINE, r"\(8, 12, 10\) but .* \(10, 12, 8\)"),
    ],
    ids=["turned", "moved by a voxel", "another shape"],
)
def test_masks_on_another_grid_are_refused(shape, affine, message, data, listed, tmp_path):
    def misplaced(truth):
        return truth if shape == SHAPE else np.zeros(shape)

    masks = write_masks(data, tmp_path / "masks", misplaced, affine)
    with pytest.raises(DataError, match=message) as error:
        score(listed, masks, tmp_path / "out")
    assert "own grid" in str(error.value) and "nii.gz" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_rounding_of_an_affine_is_no_other_grid(data, listed, tmp_path):
    masks = write_masks(data, tmp_path / "masks", affine=AFFINE + 1e-4)
    assert score(listed, masks, tmp_path / "out")[0].dice == 1


def test_missing_masks_are_refused_with_their_names(data, listed, tmp_path):
    masks = write_masks(data, tmp_path / "masks")
    gone = masks / f"{data.episodes.episodes[1].name}.nii.gz"
    gone.unlink()
    with pytest.raises(DataError, match=f"1 of 2 masks are missing, such as {gone}"):
        score(listed, masks, tmp_path / "out")
    gone.write_bytes(b"no image")
    with pytest.raises(DataError, match=str(gone)):
        score(listed, masks, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prompts_that_the_list_lacks_are_refused(data, listed, tmp_path):
    masks = write_masks(data, tmp_path / "masks")
    for settings in ({"contexts": 4}, {"prompts": 3}, {"kind": "scribble"}):
        with pytest.raises(DataError, match="episode list of two_blocks has"):
            score(listed, masks, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_several_models_and_settings_share_a_directory_whatever_they_are_called(
    data, listed, tmp_path
):
    masks, output = write_masks(data, tmp_path / "masks"), tmp_path / "out"
    names = ["../../a", "a b", "a_b", ".", "ä"]
    for name in names:
        score(listed, masks, output, model=name)
    score(listed, masks, output, model="a b", kind="point")
    score(listed, masks, output, model="a b", kind="point")
    cells = read_cells([output])
    assert len(cells) == len(names) + 1
    assert {s.model for cell in cells for s in cell.scores} == set(names)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["list.json", "masks", "out"]


def test_scores_are_not_mixed_with_those_of_a_sweep_or_another_tolerance(data, listed, tmp_path):
    masks, output = write_masks(data, tmp_path / "masks"), tmp_path / "out"
    score(listed, masks, output)
    with pytest.raises(ConfigError, match=r"at a tolerance of 2\.0 mm, not 3\.0"):
        score(listed, masks, output, tolerance_mm=3.0)
    (output / ABOUT).write_text(json.dumps({"config": {}, "cells": {}}))
    with pytest.raises(ConfigError, match="is the directory of a sweep"):
        score(listed, masks, output)
