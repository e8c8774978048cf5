"""Grids of evaluations: nothing twice, nothing missing, nothing that was trained on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate.small_evaluations import (
    SHAPE,
    experiment,
    planned,
    save_alone,
    save_run,
    write_store,
)

from wsicl_jax.config import DatasetConfig, SweepConfig, config_from_dict, config_to_dict
from wsicl_jax.data.datasets import open_datasets
from wsicl_jax.data.store import Store
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.errors import CheckpointError, ConfigError, DataError
from wsicl_jax.evaluate import baselines
from wsicl_jax.evaluate import sweep as sweep_module
from wsicl_jax.evaluate.episode_list import read_list, write_list
from wsicl_jax.evaluate.planning import plan_experiment, with_prompts
from wsicl_jax.evaluate.records import ABOUT, CELLS, Score, read_cell, read_cells
from wsicl_jax.evaluate.sweep import finished, open_sweep, run_cells
from wsicl_jax.report.page import write_report
from wsicl_jax.storage.object_path import place_of


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: str(save_alone(folder / name, seed=i)) for i, name in enumerate("abc")}


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "run", store)


@pytest.fixture
def sweep(tmp_path, checkpoints, store):
    """`sweep(evaluation settings, settings of the sweep)`: its configuration."""

    def config(evaluation=None, **settings) -> SweepConfig:
        plain = {"kinds": ["box", "point"], "contexts": [1, 2], "prompts": [1, 2], "targets": 2}
        evaluation = experiment(store, **plain | (evaluation or {})).evaluation
        plain = {
            "output": str(tmp_path / "sweep"),
            "checkpoints": {name: checkpoints[name] for name in "ab"},
            "data": ({"store": str(store)},),
            "episode": {"validation_share": 0.3},
        }
        return SweepConfig(evaluation=evaluation, **plain | settings)

    return config


@pytest.fixture
def scored(monkeypatch):
    """The cells that were scored, by name; their scores are made up."""
    names = []

    def score(setting, network, planned, config, model):
        names.append(f"{model}/{planned.episodes.data_set}/{setting.name}")
        return [
            Score(
                model=model,
                data_set=planned.episodes.data_set,
                structure=e.structure,
                episode=e.name,
                target=e.target,
                subject=e.subject,
                protocol="in_context",
                kind=setting.kind,
                prompts=setting.prompts,
                contexts=size,
                dice=0.5,
            )
            for e in planned.episodes.episodes
            for size in config.contexts
        ]

    monkeypatch.setattr(sweep_module, "score", score)
    monkeypatch.setattr(sweep_module, "load_model", lambda path: None)
    monkeypatch.setattr(sweep_module.Predictor, "__init__", lambda *_: None)
    return names


def keys(config: SweepConfig) -> dict[str, str]:
    return {cell.name: cell.key for cell in open_sweep(config).cells}


ALL = [f"{m}/two_blocks/{k}-{n}" for m in "ab" for k in ("box", "point") for n in (1, 2)]


# What is scored, and when.


def test_every_cell_of_the_grid_is_scored_once(sweep, scored):
    config = sweep()
    opened = open_sweep(config)
    assert run_cells(opened) == (8, 0)
    assert scored == [cell.name for cell in opened.cells] == ALL
    assert len(finished(opened)) == 8 * 4 * 2
    assert [cell.name for cell in read_cells([Path(config.output)])] == ALL
    assert run_cells(open_sweep(config)) == (0, 8)
    assert scored == ALL


def test_a_sweep_that_was_cut_off_goes_on_with_what_is_missing(sweep, scored, monkeypatch):
    score = sweep_module.score

    def third(*arguments):
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(sweep_module, "score", third)
    config = sweep()
    with pytest.raises(KeyboardInterrupt):
        run_cells(open_sweep(config))
    assert [cell.name for cell in read_cells([Path(config.output)])] == ALL[:2]
    monkeypatch.setattr(sweep_module, "score", score)
    assert run_cells(open_sweep(config)) == (6, 2)
    assert scored == ALL


def test_a_damaged_cell_is_scored_again(sweep, scored):
    config = sweep()
    run_cells(open_sweep(config))
    path = Path(config.output) / CELLS / f"{ALL[3]}.json"
    path.write_text(path.read_text().replace("0.5", "0.9", 1))
    scored.clear()
    assert run_cells(open_sweep(config)) == (1, 7)
    assert scored == [ALL[3]]
    assert {score.dice for score in read_cell(path).scores} == {0.5}


@pytest.mark.parametrize("parts", [3, 5, 16])
def test_the_parts_make_all_cells_once_together(sweep, scored, parts):
    config = sweep()
    done = [run_cells(open_sweep(config), (number, parts)) for number in range(1, parts + 1)]
    assert sorted(scored) == ALL
    assert sum(new for new, _ in done) == 8 and sum(there for _, there in done) == 0
    assert len(finished(open_sweep(config))) == 8 * 4 * 2


def test_real_networks_are_scored_each_with_its_own_weights(sweep):
    config = sweep({"kinds": ["mask"], "contexts": [3], "targets": 1})
    opened = open_sweep(config, "wsicl sweep x.yaml")
    assert run_cells(opened) == (2, 0)
    first, second = ([s.dice for s in finished(opened) if s.model == model] for model in "ab")
    assert len(first) == 2 and first != second
    cell = read_cells([Path(config.output)])[0]
    assert cell.about["digest"] == opened.cells[0].model.digest
    assert cell.about["wall_seconds"] > 0


# Baselines.


def baselines_alone(sweep, **settings) -> SweepConfig:
    evaluation = {"kinds": ["mask", "point"], "prompts": [1], "interactive": {"kinds": ["point"]}}
    evaluation |= {"restoration": ["denoising"]}
    names = ("prompt_mean", "intensity")
    plain = {"checkpoints": {}, "baselines": names, "synthetic_grid": (12, 10, 8)}
    return sweep(evaluation, **plain | settings)


def test_baselines_without_a_checkpoint_are_scored_in_context_and_once(sweep, monkeypatch):
    config = baselines_alone(sweep)
    opened = open_sweep(config)
    assert run_cells(opened) == (4, 0)
    names = [f"{m}/two_blocks/{k}-1" for m in config.baselines for k in ("mask", "point")]
    assert [cell.name for cell in opened.cells] == names
    scores = finished(opened)
    assert len(scores) == 4 * 4 * 2 and {s.protocol for s in scores} == {"in_context"}
    assert all(s.dice > 0.5 and s.hd95_mm is not None for s in scores if s.kind == "mask")
    monkeypatch.setattr(sweep_module, "score", None)  # would fail
    assert run_cells(open_sweep(config)) == (0, 4)


@pytest.mark.slow
def test_a_sweep_in_a_bucket_is_scored_once_and_reported(sweep, s3, tmp_path):
    config = sweep(checkpoints={}, baselines=("prompt_mean",), output=f"{s3}/sweep")
    opened = open_sweep(config)
    total = len(opened.cells)
    assert run_cells(opened) == (total, 0)
    assert run_cells(open_sweep(config)) == (0, total)
    place = place_of(config.output)
    here = sweep(checkpoints={}, baselines=("prompt_mean",))
    run_cells(open_sweep(here))
    assert finished(opened) == finished(open_sweep(here))
    page = write_report([place], tmp_path / "report").page
    assert "prompt_mean" in page.read_text() and "not finished" not in page.read_text()


def test_baselines_stand_behind_the_checkpoints_on_the_grid_of_the_first(sweep, scored):
    config = sweep({"kinds": ["mask"]}, baselines=("intensity", "intensity"))
    opened = open_sweep(config)
    assert run_cells(opened) == (3, 0)
    assert scored == [f"{model}/two_blocks/mask-1" for model in ("a", "b", "intensity")]
    first, _, baseline = (cell.model for cell in opened.cells)
    assert baseline.volume == first.volume
    shown = [cell.data.episodes.digest for cell in opened.cells]
    assert shown[0] == shown[2]


def test_a_baselines_cells_depend_on_its_grid_and_version(sweep, monkeypatch):
    before = keys(baselines_alone(sweep))
    assert before == keys(baselines_alone(sweep))
    other = keys(baselines_alone(sweep, synthetic_grid=(12, 10, 9)))
    monkeypatch.setattr(baselines, "_VERSION", baselines._VERSION + 1)
    newer = keys(baselines_alone(sweep))
    assert len({*before.values(), *other.values(), *newer.values()}) == 3 * len(before) == 12


def test_a_report_shows_baselines_as_models_and_says_what_they_are(sweep, tmp_path):
    config = baselines_alone(sweep)
    run_cells(open_sweep(config))
    about = json.loads((Path(config.output) / ABOUT).read_text())["models"]
    assert list(about) == list(config.baselines)
    assert "prompt channels" in about["prompt_mean"]["baseline"]
    assert all("scored targets" in model["threshold"] for model in about.values())
    page = write_report([Path(config.output)], tmp_path / "report").page
    assert all(name in page.read_text() for name in config.baselines)


# What a cell depends on.


def test_another_kind_checkpoint_or_data_set_leaves_the_other_cells_as_they_are(
    sweep, checkpoints, store
):
    interactive = {"kinds": ["point"], "rounds": 2}
    few = {"kinds": ["box"], "interactive": interactive, "restoration": ["denoising"]}
    before = keys(sweep(few))
    assert len(before) == 2 * (2 + 1 + 1)
    changes = [
        sweep({**few, "kinds": ["point", "scribble", "mixed", "box"]}),
        sweep({**few, "interactive": {**interactive, "kinds": ["box", "point"]}}),
        sweep({**few, "restoration": ["inpainting", "denoising"]}),
        sweep(few, checkpoints=checkpoints),
        sweep(few, data=({"store": str(store)}, {"store": "synthetic"})),
    ]
    for config in changes:
        after = keys(config)
        assert len(after) > len(before)
        assert {name: after[name] for name in before} == before


def test_another_size_of_the_context_set_concerns_the_cells_that_show_it(sweep):
    few = {"interactive": {"kinds": ["point"]}}
    before, after = (keys(sweep({**few, "contexts": sizes})) for sizes in ([1, 2], [1, 2, 3]))
    same = {name for name in before if after[name] == before[name]}
    assert same == {f"{model}/two_blocks/interactive-point" for model in "ab"}


@pytest.mark.parametrize(
    "change", [{"tolerance_mm": 3}, {"targets": 1}, {"part": "held_out"}, {"jitter": 0.2}]
)
def test_what_changes_a_score_changes_the_cell(sweep, change):
    config = sweep(episode={"validation_share": 0.3, "held_out_share": 0.2})
    before = keys(config)
    after = keys(replace(config, evaluation=replace(config.evaluation, **change)))
    assert not {name for name in before if after[name] == before[name]}


def test_the_noise_of_another_seed_is_another_cell(sweep, store, tmp_path):
    found = []
    for seed in (0, 1):
        listed = replace(planned(store, kinds=["box"], contexts=2).episodes, seed=seed)
        write_list(tmp_path / f"{seed}.json", listed)
        evaluation = {"kinds": ["box"], "restoration": ["denoising"]}
        found.append(keys(sweep(evaluation, data=(), episodes=(str(tmp_path / f"{seed}.json"),))))
    before, after = found
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if "denoising" in name}


def test_a_checkpoint_that_was_trained_further_is_scored_again(sweep, checkpoints):
    before, after = (
        keys(sweep(checkpoints={"a": checkpoints["a"], "it": checkpoints[name]})) for name in "ab"
    )
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.startswith("it/")}


def test_another_prompt_in_a_list_changes_the_cells_that_show_it(sweep, store, tmp_path):
    listed = planned(store, kinds=["box", "point"], contexts=2).episodes
    case = listed.episodes[0].contexts[0]
    structure = listed.structures["left"]
    moved = replace(structure.prompts[case], point=((3.0, 2.0, 3.0), (3.0, 2.0, 4.0)))
    prompts = {**structure.prompts, case: moved}
    structures = {**listed.structures, "left": replace(structure, prompts=prompts)}
    found = []
    for name, content in (("a", listed), ("b", replace(listed, structures=structures))):
        write_list(tmp_path / f"{name}.json", content)
        found.append(keys(sweep(data=(), episodes=(str(tmp_path / f"{name}.json"),))))
    before, after = found
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if "point" in name}


def test_a_list_gives_the_same_cells_as_the_data_it_was_planned_from(sweep, scored):
    config = sweep(data=({"store": "synthetic"},), synthetic_grid=(12, 10, 8))
    config = replace(config, synth=experiment("synthetic").synth)
    opened = open_sweep(config)
    (path,) = opened.lists
    again = open_sweep(replace(config, data=(), episodes=(str(path),), output=config.output + "2"))
    assert [c.key for c in again.cells] == [c.key for c in opened.cells]


# Nothing that was trained on.


def test_targets_are_those_that_no_checkpoint_was_trained_on(sweep, store, run):
    """Also where the sweep's own seed would take others."""
    (data,) = open_datasets(experiment(store))
    config = sweep({"targets": 0}, checkpoints={"it": str(run)}, seed=5)
    (path,) = open_sweep(config).lists
    assert {e.target for e in read_list(path).episodes} == set(data.cases("validation"))
    (alone,) = open_sweep(replace(config, checkpoints={}), lists_only=True).lists
    assert {e.target for e in read_list(alone).episodes} != set(data.cases("validation"))


def test_a_store_under_another_name_is_known_by_its_content(sweep, store, run, tmp_path):
    """Its validation cases are those of the run, so the list is planned without an error."""
    (data,) = open_datasets(experiment(store))
    renamed = write_store(tmp_path / "renamed")
    config = sweep({"targets": 0}, checkpoints={"it": str(run)}, data=({"store": str(renamed)},))
    (path,) = open_sweep(replace(config, seed=5)).lists
    assert {e.target for e in read_list(path).episodes} == set(data.cases("validation"))


def test_a_sweep_of_unseen_data_refuses_a_data_set_that_was_seen(sweep, store, run, tmp_path):
    seen = sweep(checkpoints={"it": str(run)}, unseen=True)
    with pytest.raises(DataError, match=r"it has seen \w+ in training, .* unseen data"):
        open_sweep(seen)
    renamed = write_store(tmp_path / "renamed")
    with pytest.raises(DataError, match="has seen renamed, there called"):
        open_sweep(replace(seen, data=(DatasetConfig(store=str(renamed)),)))
    open_sweep(replace(seen, data=(DatasetConfig(),), output=str(tmp_path / "synthetic")))


def test_a_sweep_of_unseen_data_warns_if_the_training_data_is_unknown(sweep):
    with pytest.warns(UserWarning, match="whether a has seen .* is not known"):
        open_sweep(sweep(unseen=True, checkpoints={"a": sweep().checkpoints["a"]}))


def test_a_list_with_a_target_that_was_trained_on_is_refused(sweep, store, run, tmp_path):
    listed = planned(store, contexts=2).episodes
    (data,) = open_datasets(experiment(store))
    trained = next(c for c in data.cases("train") if c not in listed.episodes[0].contexts)
    first = replace(listed.episodes[0], target=trained)
    cases = {**listed.cases, trained: Store.open(store).case(trained).digest}
    wrong = replace(listed, episodes=(first, *listed.episodes[1:]), cases=cases)
    write_list(tmp_path / "list.json", wrong)
    config = sweep(
        {"kinds": ["box"]},
        checkpoints={"it": str(run)},
        data=(),
        episodes=(str(tmp_path / "list.json"),),
    )
    with pytest.raises(DataError, match=f"it was trained on 1 targets .* '{trained}'"):
        open_sweep(config)
    assert not Path(config.output).exists()


# Mistakes are told before anything is written.


def test_mistakes_are_refused_before_anything_is_written(sweep, store, tmp_path, checkpoints):
    write_list(tmp_path / "list.json", planned(store, kinds=["box"], contexts=2).episodes)
    listed = {"data": (), "episodes": (str(tmp_path / "list.json"),)}
    other = create_scaled(tmp_path / "scaled")
    write_list(tmp_path / "scaled.json", planned_of(other))
    mistakes = [
        (sweep(checkpoints={}), ConfigError, "names no model"),
        (sweep(checkpoints={"x": "no/run"}), CheckpointError, "no/run"),
        (sweep(data=({"store": "no/store"},)), DataError, "no/store"),
        (sweep({"contexts": [9]}), DataError, "no structure .* 9 and 1 are needed"),
        (sweep({"kinds": ["box"], "contexts": [3]}, **listed), DataError, "3 are requested"),
        (sweep({"kinds": ["point"], "contexts": [2]}, **listed), DataError, "kind 'point'"),
        (
            sweep({"kinds": ["box"], "interactive": {"kinds": ["box"], "contexts": 5}}, **listed),
            DataError,
            "5 are requested",
        ),
        (
            sweep({"kinds": ["box"], "contexts": [2]}, **{**listed, "data": sweep().data}),
            DataError,
            "two data sets of the sweep are called 'two_blocks'",
        ),
        (
            sweep({"kinds": ["mask"]}, data=(), episodes=(str(tmp_path / "scaled.json"),)),
            DataError,
            "converted with percentiles",
        ),
    ]
    for config, error, message in mistakes:
        with pytest.raises(error, match=message):
            open_sweep(config)
        assert not Path(config.output).exists()


def create_scaled(path: Path) -> Path:
    """A store whose intensities were scaled otherwise than the networks expect."""
    source = Store.open(write_store(path.with_name("unscaled")))
    percentiles = replace(source.root.preparation, percentiles=(5.0, 95.0))
    create_store(path, "scaled", ("MR",), {1: "left", 2: "right"}, percentiles)
    for name in source.cases:
        image, label = source.read(name)
        write_case(path, name, image[None], label, source.case(name).affine)
    finish_store(path)
    return path


def planned_of(path: Path):
    settings = config_to_dict(experiment(path, contexts=2))
    settings["volume"]["percentiles"] = [5.0, 95.0]
    (draft,) = plan_experiment(config_from_dict(settings)).planned
    return with_prompts(draft).episodes


# The directory.


def test_lists_alone_need_no_checkpoint_and_leave_a_sweep_as_it_is(sweep, scored):
    config = sweep()
    run_cells(open_sweep(config))
    before = (Path(config.output) / ABOUT).read_text()
    opened = open_sweep(replace(config, checkpoints={}), lists_only=True)
    assert [path.is_file() for path in opened.lists] == [True]
    assert (Path(config.output) / ABOUT).read_text() == before


def test_the_directory_says_what_the_sweep_is_about(sweep, scored, checkpoints):
    config = sweep()
    opened = open_sweep(config, "wsicl sweep x.yaml")
    content = json.loads((Path(config.output) / ABOUT).read_text())
    assert content["command"] == "wsicl sweep x.yaml"
    assert content["config"] == json.loads(json.dumps(config_to_dict(config)))
    assert list(content["cells"]) == ALL
    paths = {name: model["path"] for name, model in content["models"].items()}
    assert paths == {name: checkpoints[name] for name in "ab"}
    data = content["data_sets"]["two_blocks"]
    assert (Path(config.output) / data["episodes"]) == opened.lists[0]
    assert data["digest"] == read_list(opened.lists[0]).digest
    assert content["versions"]["jax"]


def test_a_directory_of_other_models_scores_is_left_alone(sweep):
    config = sweep()
    Path(config.output).mkdir()
    (Path(config.output) / ABOUT).write_text('{"models": {"x": {"masks": "m"}}, "cells": {}}')
    with pytest.raises(ConfigError, match="`wsicl score` wrote"):
        open_sweep(config)


def test_skipped_structures_are_reported_with_their_reason(sweep, tmp_path):
    def label(number: int) -> np.ndarray:
        found = np.zeros(SHAPE, np.uint8)
        found[2:5, 2:5, 2:5] = 1
        found[6:8, 6:8, 2:5] = 2 if number < 2 else 0
        return found

    path = write_store(tmp_path / "rare", labels=label)
    skipped = open_sweep(sweep(data=({"store": str(path)},))).skipped
    assert list(skipped) == ["rare/right"]
