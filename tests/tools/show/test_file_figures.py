"""Pictures of files: letters at the sides, labels, predictions and every prompt."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from wsicl_jax.cli import main

SHAPE = (12, 9, 7)


@pytest.fixture
def image(tmp_path):
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, 1, 2.5, 1])
    label = np.zeros(SHAPE, np.uint8)
    label[2:6, 2:7, 1:5], label[8:11, 2:7, 1:5] = 1, 2
    nib.save(nib.Nifti1Image(rng.random(SHAPE, np.float32), affine), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "label.nii.gz")
    return tmp_path / "a.nii.gz"


def colours_of(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)
    bright = pixels[np.ptp(pixels, axis=1) > 200]
    return len(np.unique(bright // 64, axis=0))


def test_an_image_is_drawn_with_an_outline_for_each_label(image, tmp_path, capsys):
    plain, outlined = tmp_path / "plain.png", tmp_path / "outlined.png"
    label = str(tmp_path / "label.nii.gz")
    assert main(["show", str(image), "--output", str(plain)]) == 0
    assert main(["show", str(image), label, "--names", "a=1,b=2", "--output", str(outlined)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(plain), str(outlined)]
    assert colours_of(outlined) >= colours_of(plain) + 2


def test_a_context_set_is_drawn_with_its_prompts(image, tmp_path):
    entry = {"image": "a.nii.gz", "points": [[4, 4, 3]], "boxes": [[[2, 6], [2, 7], [1, 5]]]}
    context = tmp_path / "context.json"
    context.write_text(json.dumps({"context": [entry, entry]}))
    assert main(["show", "--context", str(context), "--output", str(tmp_path / "c.png")]) == 0
    assert colours_of(tmp_path / "c.png") >= 2
    one, two = Image.open(tmp_path / "c.png"), tmp_path / "one.png"
    context.write_text(json.dumps({"context": [entry]}))
    assert main(["show", "--context", str(context), "--output", str(two)]) == 0
    assert one.height > 1.7 * Image.open(two).height


@pytest.fixture
def drawn(image, tmp_path, monkeypatch):
    """`drawn(*arguments)`: the figure of `wsicl show`; a.nii.gz and label.nii.gz are there."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    monkeypatch.chdir(tmp_path)

    def draw(*arguments: str) -> Figure:
        assert main(["show", *arguments, "--output", "x.png"]) == 0
        return figures[-1]

    return draw


@pytest.mark.parametrize(
    ("options", "convention", "sides"),
    [
        ([], "neurological", ["PAIS", "LRIS", "LRPA"]),
        (["--convention", "radiological"], "radiological", ["APIS", "RLIS", "RLPA"]),
    ],
)
def test_title_and_letters_say_which_side_is_drawn_at_the_left(drawn, options, convention, sides):
    figure = drawn("a.nii.gz", *options)
    assert f"{convention} convention" in figure.get_suptitle()
    for axis, letters in zip(figure.axes, sides, strict=True):
        assert "".join(text.get_text() for text in axis.texts) == letters
        # Arrays are drawn in RAS+ order: the first column is left or posterior.
        assert axis.xaxis_inverted() == (letters[0] in "AR")


def test_every_prompt_has_an_outline_on_every_plane_dotted_where_the_plane_does_not_cut_it(drawn):
    boxes = [[[2, 6], [2, 7], [z, z + 1]] for z in (1, 2, 5)]
    entry = {"image": "a.nii.gz", "boxes": boxes, "points": [[1, 1, 1], [10, 7, 6], [5, 5, 5]]}
    Path("context.json").write_text(json.dumps({"context": [entry]}))
    for axis in drawn("--context", "context.json").axes:
        assert len(axis.patches) == 6
    axial = axis
    (index,) = (int(number) for number in re.findall(r"\d+", axial.get_title()))
    styles = [patch.get_linestyle() for patch in axial.patches if isinstance(patch, Rectangle)]
    assert styles == ["solid" if index == z else "dotted" for z in (1, 2, 5)]


def test_a_prediction_is_drawn_dotted_beside_the_label_map(drawn):
    figure = drawn("a.nii.gz", "label.nii.gz", "--prediction", "label.nii.gz", "--names", "a=1,b=2")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["a", "b", "solid: label map", "dotted: prediction"]
    styles = [line.get_linestyle()[0][1] is None for line in figure.axes[2].collections]
    assert sorted(styles) == [False, False, True, True]


def test_the_legend_names_every_label(drawn):
    label = np.zeros(SHAPE, np.uint8)
    label.flat[:60] = np.arange(60)
    nib.save(nib.Nifti1Image(label, np.diag([-1.0, 1, 2.5, 1])), "many.nii.gz")
    texts = [text.get_text() for text in drawn("a.nii.gz", "many.nii.gz").legends[0].get_texts()]
    assert texts == [str(value) for value in range(1, 60)]


@pytest.mark.parametrize("name", ["$x_{$", "_hidden", "x" * 300])
def test_a_context_set_is_drawn_whatever_its_structures_are_called(image, tmp_path, name):
    entry = {"image": "a.nii.gz", "points": [[4, 4, 3]], "structure": name}
    context = tmp_path / "context.json"
    context.write_text(json.dumps({"context": [entry]}))
    assert main(["show", "--context", str(context), "--output", str(tmp_path / "c.png")]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give an image"),
        (["a.nii.gz", "--context", "context.json"], "give an image"),
        (["missing.nii"], "missing.nii is missing"),
        (["a.nii.gz", "--prediction", "label.nii.gz"], "give IMAGE LABELS too"),
        (["a.nii.gz", "other.nii"], "other.nii is .* but"),
        (["--context", "missing.json"], "missing.json"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_and_nothing_is_written(
    image, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), "other.nii")
    assert main(["show", *words, "--output", "found.png"]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert not (tmp_path / "found.png").exists()
