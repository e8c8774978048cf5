import numpy as np
import pytest
from PIL import Image

from wsicl_jax.cli import main
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.errors import DataError
from wsicl_jax.terminal.progress import console
from wsicl_jax.tools.show.store_listing import listing

SHAPE = (12, 20, 8)
AFFINE = np.array([[0, -0.75, 0, 3], [1.5, 0, 0, -2], [0, 0, 3, 9], [0, 0, 0, 1]], float)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "stores" / "liver"
    create_store(path, "Liver", ("T1", "T2"), {1: "liver", 3: "lesion"})
    for number, name in enumerate(("a[1]", "b")):
        label = np.zeros(SHAPE, np.uint8)
        label[2:9, 4:15, 1:6] = 1
        label[5:7, 8:10, 2:4] = 3 * number
        image = np.random.default_rng(number).normal(size=(2, *SHAPE)) + label
        write_case(path, name, image, label, AFFINE, remarks=["float labels"] * number)
    finish_store(path)
    return path


def shown(path) -> str:
    with console().capture() as captured:
        console().print(listing(str(path)))
    return captured.get()


def test_every_case_is_listed_with_grid_labels_and_remarks(path):
    rows = shown(path).splitlines()
    (first,) = [row for row in rows if "a[1]" in row]
    (second,) = [row for row in rows if "float labels" in row]
    assert "12 x 20 x 8" in first
    assert "1.5 x 0.75 x 3" in first
    assert "ALS" in first
    assert "lesion 8" in second


def test_every_label_is_listed_with_its_cases(path):
    (row,) = [row for row in shown(path).splitlines() if "lesion" in row and "1.5" not in row]
    assert row.replace("│", " ").split()[:4] == ["3", "lesion", "1", "8"]


def test_what_was_left_out_is_listed_with_its_reason(path):
    (path / "skipped.json").write_text('{"c": "has no label"}')
    assert "has no label" in shown(path)


def test_a_directory_of_stores_is_listed_by_store(path, capsys):
    create_store(path.parent / "half", "Half", ("CT",), {1: "liver"})
    (path.parent / "notes").mkdir()
    rows = shown(path.parent).splitlines()
    assert any("liver" in row and "Liver" in row and "T1, T2" in row for row in rows)
    assert any("half" in row for row in rows)
    assert any("finished" in row for row in rows)
    assert main(["data", "list", str(path.parent)]) == 0


def test_a_directory_without_stores_is_refused(tmp_path):
    with pytest.raises(DataError, match="contains none"):
        listing(str(tmp_path))


def test_a_case_becomes_a_picture_with_a_colour_for_each_label(path, tmp_path, capsys):
    output = tmp_path / "b.png"
    assert main(["data", "show", str(path), "b", "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    pixels = np.asarray(Image.open(output).convert("RGB")).reshape(-1, 3).astype(int)
    colours = pixels[np.ptp(pixels, axis=1) > 200]
    assert len(np.unique(colours // 64, axis=0)) >= 2


def test_without_a_case_the_first_is_shown(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", str(path)]) == 0
    assert (tmp_path / "a[1].png").is_file()


def test_a_case_that_is_not_there_is_told_without_a_traceback(path, capsys):
    assert main(["data", "show", str(path), "c"]) == 2
    assert "has no case 'c'" in capsys.readouterr().err
