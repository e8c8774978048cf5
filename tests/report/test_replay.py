"""Scored episodes, run again for their images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate.small_evaluations import GRID, experiment, planned, save_alone, write_store

from wsicl_jax.config import SweepConfig
from wsicl_jax.errors import DataError, WsiclError
from wsicl_jax.evaluate.episode_list import read_list, write_list
from wsicl_jax.evaluate.records import ABOUT
from wsicl_jax.evaluate.sweep import finished, open_sweep, run_cells
from wsicl_jax.metrics.overlap import dice
from wsicl_jax.report.replay import Replay


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of one network on a store of two channels; its directory and its scores."""
    folder = tmp_path_factory.mktemp("gallery")
    store = write_store(folder / "store, of two", channels=("T1", "T2"))
    # More of everything than is scored, and so than is shown.
    write_list(folder / "list.json", planned(store, kinds=["point"], contexts=4).episodes)
    config = SweepConfig(
        output=str(folder / "sweep"),
        checkpoints={"it": str(save_alone(folder / "it"))},
        episodes=(str(folder / "list.json"),),
        evaluation=experiment(store, kinds=["point"], contexts=[1, 3], prompts=1).evaluation,
    )
    opened = open_sweep(config)
    run_cells(opened)
    return folder / "sweep", finished(opened)


def test_a_replayed_case_is_as_it_was_scored(swept):
    directory, scores = swept
    chosen = [s for s in scores if s.contexts == 3][::4]
    assert len({s.data_set for s in chosen}) == 2 and len({s.dice for s in chosen}) == 3
    listed = read_list(next((directory / "episodes").iterdir()))
    replay = Replay([directory])
    for score in chosen:
        case = replay(score)
        assert case.score == score
        # The working grid is the cases' own, turned.
        assert case.mask.any() and dice(case.mask, case.truth) == pytest.approx(score.dice)
        assert case.image.shape == case.mask.shape == GRID
        assert case.spacing_mm == pytest.approx((2.0, 1.0, 1.5))
        (episode,) = (e for e in listed.episodes if e.name == score.episode)
        assert tuple(context.name for context in case.contexts) == episode.contexts[:3]
        for context in case.contexts:
            assert context.truth[context.prompts > 0].all()
            assert np.count_nonzero(context.prompts) == 1
            assert np.ptp(context.image) > 0.3


def copy_of(directory: Path, tmp_path: Path) -> Path:
    return shutil.copytree(directory, tmp_path / "sweep")


def test_the_sweep_that_has_the_episode_is_the_one_that_is_replayed(swept, tmp_path):
    directory, scores = swept
    other = copy_of(directory, tmp_path)
    (path,) = (other / "episodes").iterdir()
    listed = read_list(path)
    write_list(path, replace(listed, episodes=listed.episodes[:1]))
    about = json.loads((other / ABOUT).read_text())
    (data,) = about["data_sets"].values()
    data["digest"] = read_list(path).digest
    (other / ABOUT).write_text(json.dumps(about))
    case = Replay([other, directory])(scores[-1])
    assert dice(case.mask, case.truth) == pytest.approx(scores[-1].dice)


def test_anything_that_has_changed_since_is_not_replayed(swept, tmp_path):
    directory, scores = swept
    first = scores[0]
    with pytest.raises(DataError, match="another tool made its masks"):
        Replay([directory])(replace(first, model="nnU-Net"))
    with pytest.raises(DataError, match="a baseline has no prediction for one target"):
        Replay([directory])(replace(first, model="prompt_mean"))
    changed = copy_of(directory, tmp_path)
    (path,) = (changed / "episodes").iterdir()
    write_list(path, replace(read_list(path), seed=8))
    with pytest.raises(DataError, match="another list of episodes than the one that was scored"):
        Replay([changed])(first)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read as a list"):
        Replay([changed])(first)
    shutil.copytree(directory, changed, dirs_exist_ok=True)
    about = (changed / ABOUT).read_text()
    (changed / ABOUT).write_text(about.replace(json.loads(about)["models"]["it"]["digest"], "ab"))
    with pytest.raises(DataError, match="another checkpoint than the one that was scored"):
        Replay([changed])(first)
    path = json.loads(about)["models"]["it"]["path"]
    (changed / ABOUT).write_text(about.replace(path, "no/run"))
    with pytest.raises(WsiclError, match="no/run"):
        Replay([changed])(first)
