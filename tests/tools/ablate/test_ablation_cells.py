"""Which cells an ablation has, what they are called, and what is wrong with it."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wsicl_jax.config import AblationConfig, load_ablation
from wsicl_jax.errors import ConfigError
from wsicl_jax.tools.ablate.cells import MAX_LETTERS, cells_of

BASE = {"data": "synthetic", "volume": {"grid": [8, 8, 8]}, "model": {"channels": [2, 4]}}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("base") / "base.yaml"
    file.write_text(yaml.safe_dump(BASE))
    return str(file)


@pytest.fixture
def names(base):
    def of(**settings) -> list[str]:
        return [c.name for c in cells_of(AblationConfig(base=base, output="out", **settings))]

    return of


@pytest.fixture
def problems(base):
    def of(**settings) -> list[str]:
        with pytest.raises(ConfigError) as told:
            cells_of(AblationConfig(base=base, output="out", **settings))
        return str(told.value).splitlines()

    return of


def test_every_combination_is_a_cell_and_the_last_setting_changes_first(names):
    grid = {"episode.contexts": [[1, 1], [2, 2]], "prompts.count": [[1, 1], [3, 3]]}
    assert names(grid=grid, seeds=(0, 1))[:3] == [
        "contexts=1-1,count=1-1,seed=0",
        "contexts=1-1,count=1-1,seed=1",
        "contexts=1-1,count=3-3,seed=0",
    ]
    assert len(names(grid=grid, seeds=(0, 1))) == 8


def test_a_cell_is_the_run_of_its_name_with_its_settings_over_those_of_all(base):
    ablation = AblationConfig(
        base=base,
        output="out",
        overrides={"train.steps": 7, "train.learning_rate": 0.5},
        grid={"episode.contexts": [[3, 3]]},
        cells=({"name": "slow", "train.learning_rate": 1e-5},),
        seeds=(4,),
    )
    first, slow = cells_of(ablation)
    assert first.config.run == "out/contexts=3-3,seed=4"
    assert (first.config.train.steps, first.config.episode.contexts) == (7, (3, 3))
    assert (first.config.seed, first.config.model.channels) == (4, (2, 4))
    assert (slow.name, slow.is_named, first.is_named) == ("slow,seed=4", True, False)
    assert (slow.config.train.learning_rate, slow.config.train.steps) == (1e-5, 7)


def test_words_that_two_settings_share_are_told_apart(names):
    cell = {"episode.min_voxels": 1, "train.loss": "l1", "train.loss_weight": 2.0}
    assert names(cells=(cell,)) == ["min_voxels=1,loss=l1,loss_weight=2.0"]
    grid = {"prompts.kinds": [{"box": 1, "point": 0.5}], "evaluation.kinds": [["box"]]}
    assert names(grid=grid) == ["prompts.kinds=box-1-point-0.5,evaluation.kinds=box"]


def test_a_name_depends_on_nothing_but_the_cells_own_settings(names):
    alone = names(grid={"train.loss": ["l1"], "train.batch": [2]})
    more = names(
        grid={"train.loss": ["l1", "dice_ce"], "train.batch": [1, 2]},
        cells=({"model.precision": "bfloat16"},),
    )
    assert set(alone) < set(more)


def test_values_that_look_alike_have_names_of_their_own(names):
    found = names(grid={"data": ["stores/a b", "stores/a-b", "stores/a:b"]})
    assert len(set(found)) == 3
    assert all(name.startswith("data=stores-a-b~") for name in found)


values = st.one_of(
    st.text(min_size=1, max_size=300), st.integers(), st.floats(allow_nan=False), st.booleans()
)


@settings(deadline=None)  # a busy machine is slow at times
@given(st.lists(values, min_size=1, max_size=4, unique_by=repr))
def test_any_value_gives_a_name_that_is_safe_short_and_unique(stores):
    from wsicl_jax.tools.ablate.cells import _names, _Problems

    problems = _Problems(len(stores))
    found = _names([("", {"data": store}) for store in stores], problems)
    problems.raise_any()
    assert len({name.lower() for name in found}) == len(stores)
    for name in found:
        assert len(name) <= MAX_LETTERS
        assert name.isascii() and not set(name) & set("/\\:*?\"<>| \n'$&;()")
        assert Path(name).name == name and not name.startswith(".")


def test_all_that_is_wrong_is_told_at_once(problems):
    told = problems(
        grid={"episode.contxts": [[1, 1], [2, 2]]},
        cells=(
            {"name": "a/b", "train.loss": "l7"},
            {"name": "twice", "train.batch": 1},
            {"name": "Twice", "train.batch": 2},
            {"run": "elsewhere", "model.context": {"gradient": "exact"}},
            {},
        ),
        overrides={"train.steps": -1},
    )
    text = "\n".join(told)
    assert "unknown setting 'episode.contxts'; nearest is 'episode.contexts'" in text
    assert "train.loss = 'l7' does not fit" in text
    assert "train.steps = -1 does not fit" in text
    assert "'a/b' cannot be the name of a cell" in text
    assert "2 cells are twice" in text
    assert "run cannot be set by cells" in text
    assert "model.context is a section" in text
    assert "a cell without settings needs a name" in text


def test_what_is_wrong_with_many_cells_is_told_once_with_their_number(problems):
    grid = {"train.batch": [1, 2], "train.loss": ["l1", "no"]}
    [line] = problems(grid=grid)
    assert line.startswith("train.loss = 'no' does not fit")
    assert line.endswith("(cell batch=1,loss=no and 1 more)")
    [line] = problems(grid={"train.batch": [1, 2], "trian.loss": ["l1", "l2"]})
    assert line == "unknown setting 'trian'; nearest is 'train'"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "nothing to vary"),
        ({"seeds": (1, 1)}, "2 cells are seed=1"),
        ({"grid": {"train.batch": [1, 1]}}, "2 cells are batch=1"),
        ({"grid": {"train.batch": [4]}, "cells": ({"name": "base"},)}, "are the same experiment"),
        ({"grid": {"seed": [1]}, "seeds": (1,)}, "seed is set by cells and by seeds"),
        (
            {"grid": {"train.batch": [1]}, "overrides": {"train.batch": 2}},
            "train.batch is set for all cells, but each has a value of its own",
        ),
        (
            {"cells": ({"train.batch": 1},), "overrides": {"train.batch": 2}},
            "train.batch is set for all cells, but each has a value of its own",
        ),
        ({"seeds": (1,), "overrides": {"seed": 2}}, "seed is set for all cells, but each has"),
        ({"cells": ({"name": "jobs", "train.batch": 1},)}, "cannot be the name of a cell"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(problems, settings, told):
    assert told in problems(**settings)[0]


def test_a_yaml_names_its_base_from_where_it_lies_and_overrides_reach_the_cells(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "sweeps").mkdir()
    file = tmp_path / "sweeps" / "sweep.yaml"
    file.write_text("base: ../base.yaml\noutput: out\nseeds: [0]\noverrides: {train.batch: 2}\n")
    ablation = load_ablation(
        file, ["output=other", "seeds=[3]", "train.steps=5", "data.0.weight=2", "slurm.partition=x"]
    )
    [cell] = cells_of(ablation)
    assert cell.config.run == "other/seed=3"
    assert (cell.config.train.steps, cell.config.train.batch) == (5, 2)
    assert cell.config.data[0].weight == 2
    assert ablation.slurm == {"partition": "x"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("output: out\n", "base must be given"),
        ("", "base and output must be given"),
        ("base: b\noutput: o\ngird: {}\n", "unknown setting 'gird'; nearest is 'grid'"),
        ("base: b\noutput: o\ngrid: {train.batch: 2}\n", "grid.train.batch = 2 does not fit"),
        ("base: b\noutput: o\ngrid: {train.batch: []}\n", "grid.train.batch = [] does not fit"),
    ],
)
def test_a_yaml_that_is_no_ablation_is_refused(tmp_path, text, told):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_ablation(file)
    assert told in str(error.value)


@pytest.mark.parametrize("override", ["foo", "=1", "train..steps=1", "train.steps=[1"])
def test_an_override_that_is_none_is_refused(tmp_path, override):
    file = tmp_path / "sweep.yaml"
    file.write_text("base: b\noutput: o\n")
    with pytest.raises(ConfigError, match="override"):
        load_ablation(file, [override])


@pytest.mark.parametrize(("name", "count"), [("contexts", 12), ("loss", 9), ("gradient", 6)])
def test_the_ablations_that_come_along_are_valid(name, count):
    file = Path(__file__).parents[3] / "configs" / "sweeps" / f"{name}.yaml"
    assert len(cells_of(load_ablation(file))) == count
