"""Names are text wherever they are shown, whatever is in them."""

import pytest
from matplotlib.figure import Figure
from rich.table import Table

from wsicl_jax.storage.safe_names import LONGEST, csv_cell, file_name, in_figure, literal_text
from wsicl_jax.terminal.progress import console

ODD = ["$x_{$", "_hidden", "a\nb", "x" * 300, "<b>&", "=1+1", "ä\u0301", "[/bold]", ".."]


def test_names_become_parts_of_paths_that_fit_and_differ():
    long = "ü" * 300
    names = [*ODD, "a_b", "a b", "a/b", f"{long}a", f"{long}b", "", "."]
    parts = [file_name(name) for name in names]
    assert len(set(parts)) == len(names)
    assert all(len(part.encode()) <= LONGEST for part in parts)
    assert not any("/" in part or part.startswith(".") or not part for part in parts)
    assert file_name("left-lung_2.0") == "left-lung_2.0"


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1"])
def test_no_spreadsheet_takes_a_name_for_a_formula(name):
    assert csv_cell(name) == f"'{name}"


def test_numbers_and_other_names_stay_what_they_are_in_tables():
    values = [-0.1, "-3.5", "+4", "liver", "a=b", 7, None]
    assert [csv_cell(value) for value in values] == ["-0.1", "-3.5", "+4", "liver", "a=b", 7, ""]


@pytest.mark.parametrize("name", ODD)
def test_figures_show_names_as_they_are(name, tmp_path):
    with literal_text():
        figure = Figure(figsize=(3, 3))
        axis = figure.subplots()
        axis.set_title(in_figure(name))
        axis.plot([0, 1], label=in_figure(name))
        axis.legend()
        figure.savefig(tmp_path / "a.png")
        figure.savefig(tmp_path / "a.svg")
    assert len(axis.get_legend().get_texts()) == 1


def test_tables_show_brackets_as_they_are(capsys):
    table = Table("name")
    table.add_row("[/bold] [red]x")
    console.cache_clear()
    console().print(table)
    console.cache_clear()
    assert "[/bold] [red]x" in capsys.readouterr().out
