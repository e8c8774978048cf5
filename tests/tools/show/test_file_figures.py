"""Files as pictures."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
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
        (["a.nii.gz", "other.nii"], "other.nii is .* but"),
        (["--context", "missing.json"], "missing.json"),
    ],
)
def test_what_cannot_be_drawn_is_told_and_nothing_is_written(
    image, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), "other.nii")
    assert main(["show", *words, "--output", "found.png"]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert not (tmp_path / "found.png").exists()
