"""Cells on disk: whole or an error, and only those that a sweep has now."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.records import (
    ABOUT,
    CELLS,
    Cell,
    Score,
    cell_name,
    file_name,
    read_cell,
    read_cells,
    title_of,
    write_cell,
)
from wsicl_jax.storage.digests import CHECKSUM, with_digest

SCORE = Score(
    model="it",
    data_set="set",
    structure="liver",
    episode="liver/case 1",
    target="case 1",
    subject="1",
    protocol="in_context",
    kind="box",
    prompts=3,
    contexts=4,
    seconds=120.0,
    dice=1 / 3,
    surface_dice=0.5,
    hd95_mm=2.5,
)
CELL = Cell(name="it/set/box-3", key="abc", scores=(SCORE, replace(SCORE, dice=0.25)))


def file_of(directory: Path, cell: Cell = CELL) -> Path:
    return directory / CELLS / f"{cell.name}.json"


def test_a_cell_comes_back_from_its_file_as_it_was(tmp_path):
    write_cell(tmp_path, CELL)
    assert read_cell(file_of(tmp_path)) == CELL
    assert [file.name for file in file_of(tmp_path).parent.iterdir()] == ["box-3.json"]


def with_new_digest(text, **changes):
    content = {k: v for k, v in json.loads(text).items() if k != CHECKSUM}
    return json.dumps(with_digest(content | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read as a file of scores"),
        (lambda text: text.replace("0.25", "0.75"), "has been changed since it was written"),
        (lambda text: with_new_digest(text, format=2), "has format 2; expected 1"),
        (lambda text: json.dumps(with_digest({"format": 1, "name": "a"})), "no file of scores"),
        (lambda text: "3", "no file of scores"),
    ],
    ids=["cut off", "changed", "another format", "something else", "a number"],
)
def test_a_damaged_cell_is_refused(damage, message, tmp_path):
    write_cell(tmp_path, CELL)
    path = file_of(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=message):
        read_cell(path)


def about(directory: Path, cells: dict[str, str]) -> None:
    (directory / ABOUT).write_text(json.dumps({"cells": cells}))


def test_cells_that_a_sweep_no_longer_has_are_skipped(tmp_path):
    former = replace(CELL, name="it/set/point-3")
    for cell in (CELL, former):
        write_cell(tmp_path, cell)
    assert read_cells([tmp_path]) == [CELL, former]
    file_of(tmp_path, former).write_text("damaged")
    about(tmp_path, {CELL.name: CELL.key, "it/set/not-yet": "d"})
    assert read_cells([tmp_path]) == [CELL]


def test_cells_of_other_episodes_or_checkpoints_are_skipped_until_they_are_scored_again(tmp_path):
    other = replace(CELL, name="it/set/point-3")
    for cell in (CELL, other):
        write_cell(tmp_path, cell)
    about(tmp_path, {CELL.name: "another key", other.name: other.key})
    assert read_cells([tmp_path]) == [other]


def test_cells_of_several_sweeps_are_read_in_their_order(tmp_path):
    for name in ("b", "a"):
        write_cell(tmp_path / name, replace(CELL, key=name))
    assert [cell.key for cell in read_cells([tmp_path / "b", tmp_path / "a"])] == ["b", "a"]


def test_a_directory_without_scores_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no scores; `wsicl sweep` writes them"):
        read_cells([tmp_path])
    (tmp_path / ABOUT).write_text("{")
    with pytest.raises(DataError, match=r"sweep\.json cannot be read.*remove it"):
        read_cells([tmp_path])


@settings(deadline=None)
@given(st.lists(st.text(), min_size=2, max_size=6, unique=True))
def test_names_of_any_kind_become_different_files_in_one_directory(names):
    files = {file_name(name) for name in names}
    assert len(files) == len(names)
    for file in files:
        assert Path(file).name == file and not file.startswith(".")


def test_usual_names_of_files_are_those_of_their_things():
    assert cell_name("mixture", "two_blocks", "box-3") == "mixture/two_blocks/box-3"
    assert cell_name("../a b", "x").startswith("_a_b-")


def test_protocols_have_the_names_of_the_paper():
    assert title_of("in_context", "box") == "WS-ICL (Box)"
    assert title_of("in_context", "mask") == "dense ICL"
    assert title_of("interactive", "point") == "interactive (point)"
    assert title_of("restoration", "denoising") == "denoising"
