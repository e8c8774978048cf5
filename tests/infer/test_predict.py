import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.config import VolumeConfig
from wsicl_jax.data.images import read_volume
from wsicl_jax.errors import DataError
from wsicl_jax.infer.predict import PredictSummary, predict_files
from wsicl_jax.infer.segmenter import Example, Segmenter
from wsicl_jax.progress import console
from wsicl_jax.prompts import Point

SHAPE = (5, 6, 9)
AFFINE = np.array([[0, -0.75, 0, 3], [1.5, 0, 0, -2], [0, 0, -3, 9], [0, 0, 0, 1]], float)


def save(path, seed=0, shape=SHAPE):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.random.default_rng(seed).random(shape, np.float32), AFFINE), path)
    return path


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter(model, VolumeConfig(grid=(4, 4, 4)))


@pytest.fixture
def context(segmenter, tmp_path):
    volume = read_volume(save(tmp_path / "context.nii"))
    return segmenter.context([Example(volume, [Point(2.0, 3.0, 4.0)])])


def test_masks_keep_the_targets_name_grid_and_affine(segmenter, context, tmp_path):
    targets = [save(tmp_path / "in/a.nii.gz", 1), save(tmp_path / "in/b.nii", 2, (7, 4, 5))]
    summary = predict_files(segmenter, context, targets, tmp_path / "new/out")
    assert summary.written == tuple(tmp_path / "new/out" / t.name for t in targets)
    assert summary.failed == {}
    for target, path in zip(targets, summary.written, strict=True):
        mask, image = nib.load(path), nib.load(target)
        np.testing.assert_array_equal(mask.affine, image.affine)
        assert mask.get_data_dtype() == np.uint8
        expected = segmenter.segment(read_volume(target), context).mask
        np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)


def test_a_bad_target_is_named_and_does_not_end_the_batch(segmenter, context, tmp_path):
    good = [save(tmp_path / "in/a.nii.gz", 1), save(tmp_path / "in/z.nii.gz", 2)]
    cut = tmp_path / "in/cut.nii.gz"
    cut.write_bytes(good[0].read_bytes()[:200])
    text, missing = tmp_path / "in/notes.txt", tmp_path / "in/missing.nii.gz"
    text.write_text("hello")
    targets = [good[0], cut, text, missing, good[1]]
    summary = predict_files(segmenter, context, targets, tmp_path / "out")
    assert [path.name for path in summary.written] == ["a.nii.gz", "z.nii.gz"]
    assert {name: str(name) in why for name, why in summary.failed.items()} == {
        str(cut): True,
        str(text): True,
        str(missing): True,
    }
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.nii.gz", "z.nii.gz"]


def test_the_table_counts_masks_and_names_failures():
    summary = PredictSummary((Path("out/a.nii"),), {"in/b.nii": "in/b.nii is missing"})
    with console().capture() as shown:
        console().print(summary.table())
    assert "1 of 2 masks written" in shown.get() and "in/b.nii is missing" in shown.get()


def test_targets_of_the_same_name_are_refused_before_anything_is_done(segmenter, context, tmp_path):
    targets = [save(tmp_path / "one/a.nii"), save(tmp_path / "two/a.nii")]
    with pytest.raises(DataError, match=r"several targets are named a\.nii"):
        predict_files(segmenter, context, targets, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_is_never_replaced(segmenter, context, tmp_path, overwrite):
    target = save(tmp_path / "in/a.nii")
    before = target.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(DataError, match=r"would replace targets .*a\.nii"):
        predict_files(segmenter, context, [target], tmp_path / "link", overwrite=overwrite)
    assert target.read_bytes() == before


def test_a_file_of_the_context_set_is_never_replaced(segmenter, context, tmp_path):
    used = save(tmp_path / "out/a.nii")
    before = used.read_bytes()
    targets = [save(tmp_path / f"in/{name}.nii") for name in "ba"]
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(DataError, match=r"would replace context files .*out/a\.nii"):
        predict_files(
            segmenter,
            context,
            targets,
            tmp_path / "out",
            inputs=[tmp_path / "context.nii", tmp_path / "link/a.nii"],
            overwrite=True,
        )
    assert used.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii"]


def test_an_existing_file_is_replaced_only_when_asked(segmenter, context, tmp_path):
    targets = [save(tmp_path / f"in/{name}.nii", 1) for name in "ab"]
    (tmp_path / "out").mkdir()
    old = shutil.copy(targets[0], tmp_path / "out/b.nii")
    before = old.read_bytes()
    with pytest.raises(DataError, match=r"out/b\.nii exist already"):
        predict_files(segmenter, context, targets, tmp_path / "out")
    assert old.read_bytes() == before and not (tmp_path / "out/a.nii").exists()
    summary = predict_files(segmenter, context, targets, tmp_path / "out", overwrite=True)
    assert len(summary.written) == 2
    assert nib.load(old).get_data_dtype() == np.uint8


def test_an_output_that_is_a_file_is_refused(segmenter, context, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="out cannot be used as a directory"):
        predict_files(segmenter, context, [save(tmp_path / "in/a.nii")], tmp_path / "out")
