"""A batch of targets into files, by a task that marks what is bright."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from wsicl_jax.data.formats.dicom_seg import read_segmentation
from wsicl_jax.data.images import read_label, read_volume
from wsicl_jax.errors import DataError, WsiclError
from wsicl_jax.inference.batch.outputs import RECORDS, outputs_of, refusals
from wsicl_jax.inference.batch.predict import PredictSummary, predict
from wsicl_jax.inference.batch.targets import Target, find_targets
from wsicl_jax.inference.inputs.context_set import ContextSet
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.result import Segmentation
from wsicl_jax.terminal.progress import console

sys.path.append(str(Path(__file__).parents[2] / "data"))
from dicom_written import write_series

SHAPE = (5, 6, 9)
AFFINE = np.array([[0, -0.75, 0, 3], [1.5, 0, 0, -2], [0, 0, 3.0, 9], [0, 0, 0, 1]])
ONE = {"structure": 1}
ENDING = "_structure_prob.nii"


class Bright:
    """Stands for a task: the share of voxels that each structure is, by brightness."""

    def __init__(self, **structures):
        self.structures = structures or ONE
        self.remarks = ()

    def stream(self, targets, *, read, probabilities, show):
        for target in targets:
            try:
                yield target, self._segmented(*read(target), probabilities)
            except WsiclError as error:
                yield target, error

    def _segmented(self, target, remarks, probabilities):
        if target.image.max() > 1:
            raise DataError("target: too bright")
        label = np.zeros(target.image.shape, np.uint8)
        levels = np.linspace(0.5, 1, len(self.structures) + 1)[:-1]
        for value, level in zip(self.structures.values(), levels, strict=True):
            label[target.image > level] = value
        maps = {name: target.image.astype(np.float16) for name in self.structures}
        remarks = (*remarks, "bright")
        maps = maps if probabilities else {}
        return Segmentation(label, self.structures, target.affine, maps, remarks)


def save(path, seed=0, shape=SHAPE, scale=1):
    path.parent.mkdir(exist_ok=True)
    image = np.random.default_rng(seed).random(shape, np.float32) * np.float32(scale)
    nib.save(nib.Nifti1Image(image, AFFINE), path)
    return path


def targets_of(files, output, **options):
    return find_targets(files, output, **options).targets


def refused(files, output, structures=ONE, *, ending=None, **options):
    return refusals(targets_of(files, output, ending=ending), output, structures, **options)


def names_in(folder):
    """What people see."""
    return sorted(path.name for path in folder.iterdir() if path.name != RECORDS)


def printed(shown):
    with console().capture() as text:
        console().print(shown)
    return text.get()


def test_label_maps_have_the_targets_grid_and_the_prediction(tmp_path):
    files = [save(tmp_path / "in/a.nii.gz", 1), save(tmp_path / "in/b.nii", 2, (7, 4, 5))]
    out = tmp_path / "new/out"
    summary = predict(Bright(), targets_of(files, out), out)
    assert summary.written == (out / "a.nii.gz", out / "b.nii") and not summary.failed
    for file, path in zip(files, summary.written, strict=True):
        found, image = nib.load(path), nib.load(file)
        np.testing.assert_array_equal(found.affine, image.affine)
        assert found.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(found.dataobj, image.get_fdata() > 0.5)
    # One structure needs no names.
    assert names_in(out) == ["a.nii.gz", "b.nii"]


@pytest.mark.parametrize("ending", ["nrrd", "seg.nrrd", "mha", "nii"])
def test_the_format_is_that_requested(tmp_path, ending):
    file, out = save(tmp_path / "in/a.nii.gz"), tmp_path / "out"
    task = Bright(low=1, high=4)
    predict(task, targets_of([file], out, ending=ending), out, probabilities=True)
    beside = "nrrd" if ending == "seg.nrrd" else ending
    files = {f"a.{ending}", f"a_low_prob.{beside}", f"a_high_prob.{beside}"}
    assert set(names_in(out)) == files | (set() if ending == "seg.nrrd" else {"labels.json"})
    image = read_volume(file)
    np.testing.assert_array_equal(read_label(out / f"a.{ending}").label == 4, image.image > 0.75)
    probability = read_volume(out / f"a_low_prob.{beside}")
    np.testing.assert_array_equal(probability.image, image.image.astype(np.float16))
    np.testing.assert_allclose(probability.affine, image.affine, atol=1e-4)


def test_several_structures_are_named_in_a_file_beside_their_label_maps(tmp_path):
    out = tmp_path / "out"
    predict(Bright(low=1, höher=4), targets_of([save(tmp_path / "in/a.nii")], out), out)
    assert json.loads((out / "labels.json").read_text()) == {"low": 1, "höher": 4}


def test_a_dicom_series_becomes_dicom_seg(tmp_path):
    array = np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.int16)
    write_series(tmp_path / "ct", array, AFFINE)
    out = tmp_path / "out"
    summary = predict(Bright(liver=3), targets_of([tmp_path / "ct"], out, ending="dcm"), out)
    assert summary.written == (out / "ct.dcm",)
    found = read_segmentation([out / "ct.dcm"], {"liver": 3}, SHAPE, AFFINE)
    np.testing.assert_array_equal(found, array * 3)


def test_a_dicom_series_becomes_contours(tmp_path):
    array = np.indices(SHAPE)[1].astype(np.int16) % 2
    write_series(tmp_path / "ct", array, AFFINE)
    out = tmp_path / "out"
    targets = targets_of([tmp_path / "ct"], out, ending="rtstruct.dcm")
    summary = predict(Bright(liver=3), targets, out, probabilities=True)
    assert summary.written == (out / "ct.rtstruct.dcm",)
    # Structures have their names in it, and it holds no probabilities.
    assert names_in(out) == ["ct.rtstruct.dcm", "ct_liver_prob.nii.gz"]
    (drawn,) = pydicom.dcmread(out / "ct.rtstruct.dcm").ROIContourSequence
    assert len(drawn.ContourSequence) == SHAPE[2] * array[0, :, 0].sum()


def test_probabilities_of_dicom_go_to_nifti(tmp_path):
    write_series(tmp_path / "ct", np.indices(SHAPE)[0].astype(np.int16) % 2, AFFINE)
    out = tmp_path / "out"
    predict(
        Bright(liver=3), targets_of([tmp_path / "ct"], out, ending="dcm"), out, probabilities=True
    )
    assert names_in(out) == ["ct.dcm", "ct_liver_prob.nii.gz"]
    np.testing.assert_allclose(nib.load(out / "ct_liver_prob.nii.gz").affine, AFFINE, atol=1e-5)


def test_a_bad_target_is_named_and_does_not_end_the_batch(tmp_path):
    good = [save(tmp_path / "in/a.nii.gz", 1), save(tmp_path / "in/z.nii.gz", 2)]
    cut = tmp_path / "in/cut.nii.gz"
    cut.write_bytes(good[0].read_bytes()[:200])
    text, missing = tmp_path / "in/notes.txt", tmp_path / "in/missing.nii.gz"
    text.write_text("hello")
    bright = save(tmp_path / "in/bright.nii", scale=3)
    out = tmp_path / "out"
    files = [good[0], cut, text, missing, bright, good[1]]
    summary = predict(Bright(a=1, b=2), targets_of(files, out), out)
    assert [path.name for path in summary.written] == ["a.nii.gz", "z.nii.gz"]
    assert list(summary.failed) == list(map(str, (cut, text, missing, bright)))
    for file in (cut, text, missing):
        assert str(file) in summary.failed[str(file)]
    assert summary.failed[str(bright)] == "target: too bright"
    assert names_in(out) == ["a.nii.gz", "labels.json", "z.nii.gz"]


def test_where_every_target_fails_nothing_is_written(tmp_path):
    out = tmp_path / "out"
    predict(Bright(a=1, b=2), targets_of([save(tmp_path / "in/a.nii", scale=3)], out), out)
    assert names_in(out) == []


# Batches that were cut off.


class Counted(Bright):
    """Keeps the names of the targets that it is asked for."""

    def stream(self, targets, **options):
        self.asked = [target.output.name for target in targets]
        return super().stream(targets, **options)


@pytest.fixture
def cut_off(tmp_path, monkeypatch):
    """`cut_off(error)`: a batch of three with probabilities, ended by an error in the second
    target: when its label map is about to appear."""
    files, out = [save(tmp_path / f"in/{n}.nii", i) for i, n in enumerate("abc")], tmp_path / "out"
    targets = targets_of(files, out)
    replace_file = Path.replace

    def batch(error):
        def fail(path, to):
            if to.name == "b.nii":
                raise error
            return replace_file(path, to)

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises((DataError, KeyboardInterrupt)) as told:
            predict(Bright(), targets, out, probabilities=True, settings={"network": "A"})
        monkeypatch.undo()
        return targets, out, str(told.value)

    return batch


def test_a_full_disk_ends_the_batch_and_says_how_to_go_on(cut_off):
    _, out, told = cut_off(OSError(28, "No space left on device"))
    assert "b.nii cannot be written: No space left" in told and "1 label maps are whole" in told
    assert "--resume" in told
    assert "b.nii" not in names_in(out) and "c.nii" not in names_in(out)


def test_a_batch_that_was_cut_off_goes_on_with_what_is_missing(cut_off):
    targets, out, _ = cut_off(KeyboardInterrupt())
    first = (out / "a.nii").stat()
    assert "--resume" in refusals(targets, out, ONE, probabilities=True)[0]
    assert refusals(targets, out, ONE, probabilities=True, resume=True) == []
    task = Counted()
    again = {"probabilities": True, "settings": {"network": "A"}, "resume": True}
    summary = predict(task, targets, out, **again)
    assert task.asked == ["b.nii", "c.nii"] and summary.finished_before == 1
    assert "2 of 3 label maps written" in printed(summary.table())
    assert names_in(out) == sorted(f"{n}{end}" for n in "abc" for end in (".nii", ENDING))
    assert (out / "a.nii").stat() == first
    assert predict(task, targets, out, **again).finished_before == 3 and task.asked == []
    assert not list(out.rglob("*.partial"))


def test_a_batch_goes_on_only_with_the_same_settings(cut_off):
    targets, out, _ = cut_off(KeyboardInterrupt())
    again = {"probabilities": True, "settings": {"network": "B"}, "resume": True}
    with pytest.raises(DataError, match="was made with another network;"):
        predict(Bright(), targets, out, **again)
    with pytest.raises(DataError, match="another structures"):
        predict(Bright(liver=2), targets, out, **again | {"settings": {"network": "A"}})


def test_a_target_that_has_changed_since_is_segmented_again(cut_off, tmp_path):
    targets, out, _ = cut_off(KeyboardInterrupt())
    save(tmp_path / "in/a.nii", 7, (4, 4, 4))
    task = Counted()
    predict(task, targets, out, probabilities=True, settings={"network": "A"}, resume=True)
    assert task.asked == ["a.nii", "b.nii", "c.nii"]
    assert nib.load(out / "a.nii").shape == (4, 4, 4)


def test_files_that_no_batch_has_begun_are_not_taken_for_its_own(cut_off):
    targets, out, _ = cut_off(KeyboardInterrupt())
    shutil.copy(out / "a.nii", out / "c.nii")
    (problem,) = refusals(targets, out, ONE, probabilities=True, resume=True)
    assert "c.nii exist already; they are not from a batch that could go on" in problem


def test_the_digest_of_a_context_set_follows_what_it_shows_and_not_where_it_lies(tmp_path):
    image, moved = save(tmp_path / "in/a.nii", 1), save(tmp_path / "other/b.nii", 1)
    mask = save(tmp_path / "in/mask.nii", 2)

    def digest(image, **given):
        return ContextSet({"s": [Example(image, **given)]}, {"s": 1}, ()).digest()

    first = digest(image, mask=mask)
    assert digest(moved, mask=mask) == first
    assert (
        len({first, digest(image), digest(mask, mask=mask), digest(image, points=[(1, 2, 3)])}) == 4
    )


def test_the_table_counts_and_names_failures_and_remarks(tmp_path):
    summary = PredictSummary(
        (Path("out/a.nii"),), {"in/b.nii": "in/b.nii is missing"}, {"in/a.nii": ("channel 1 of 2",)}
    )
    shown = printed(summary.table())
    assert "1 of 2 label maps written to out" in shown and "in/b.nii is missing" in shown
    assert "channel 1 of 2" in shown
    assert "failed" not in printed(PredictSummary((), {}, {}).table())


def test_what_was_chosen_and_what_the_task_says_are_remarks(tmp_path):
    for number in range(2):
        save(tmp_path / f"in/a_000{number}.nii")
    out = tmp_path / "out"
    summary = predict(Bright(), targets_of([tmp_path / "in"], out), out)
    assert summary.remarks == {str(tmp_path / "in/a_0000.nii"): ("channel 0 of 2", "bright")}


def test_files_of_probabilities_have_names_that_fit_however_long_the_structures_are():
    target = Target("a", (Path("in/a.nii.gz"),), Path("out/a.nii.gz"))
    names = ["ü" * 300 + end for end in "ab"]
    found = outputs_of(target, names, probabilities=True).probabilities
    assert len({path.name for path in found.values()}) == 2
    assert max(len(path.name.encode()) for path in found.values()) < 200


def test_files_of_probabilities_are_named_by_structure():
    target = Target("a", (Path("in/a.nii.gz"),), Path("out/a.nii.gz"))
    names = ["left lung", "left/lung", "höher"]
    found = outputs_of(target, names, probabilities=True)
    assert [path.name for path in found.probabilities.values()] == [
        *("a_left_lung_1_prob.nii.gz", "a_left_lung_2_prob.nii.gz", "a_höher_prob.nii.gz"),
    ]
    assert outputs_of(target, names, probabilities=False).files == (Path("out/a.nii.gz"),)


# What is refused before anything is read or written.


def test_a_batch_without_a_problem_is_not_refused(tmp_path):
    assert refused([save(tmp_path / "in/a.nii")], tmp_path / "new/out") == []


def test_targets_of_the_same_name_are_refused(tmp_path):
    files = [save(tmp_path / "one/a.nii"), save(tmp_path / "two/a.nii")]
    (problem,) = refused(files, tmp_path / "out")
    assert "several targets would be written to a.nii" in problem


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_is_never_replaced(tmp_path, overwrite):
    file = save(tmp_path / "in/a.nii")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    problems = refused([file], tmp_path / "link", overwrite=overwrite)
    assert "link holds targets: a.nii" in problems[0]


def test_probabilities_replace_no_target_either(tmp_path):
    files = [save(tmp_path / "in/a.nii"), save(tmp_path / "in/a_liver_prob.nii")]
    first, second, _ = refused(
        files, tmp_path / "in", {"liver": 1}, probabilities=True, overwrite=False
    )
    assert "written to a_liver_prob.nii" in first and "in holds targets: a.nii" in second


def test_a_file_of_the_context_set_is_never_replaced(tmp_path):
    save(tmp_path / "out/a.nii")
    files = [save(tmp_path / f"in/{name}.nii") for name in "ba"]
    (tmp_path / "link").symlink_to(tmp_path / "out")
    inputs = [tmp_path / "context.nii", tmp_path / "link/a.nii"]
    (problem,) = refused(files, tmp_path / "out", inputs=inputs, overwrite=True)
    assert "out holds context files: a.nii" in problem


def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    files, out = [save(tmp_path / f"in/{name}.nii", 1) for name in "ab"], tmp_path / "out"
    out.mkdir()
    old = shutil.copy(files[0], out / "b.nii")
    (problem,) = refused(files, out)
    assert "out/b.nii exist already" in problem
    assert refused(files, out, overwrite=True) == []
    predict(Bright(), targets_of(files, out), out)
    assert nib.load(old).get_data_dtype() == np.uint8


def test_names_of_another_batch_are_replaced_only_on_request(tmp_path):
    file, out = save(tmp_path / "in/a.nii"), tmp_path / "out"
    predict(Bright(a=1, b=2), targets_of([file], out), out)
    other = [save(tmp_path / "in/b.nii")]
    assert refused(other, out, {"a": 1, "b": 2}) == []
    assert "labels.json, with other values, exist" in refused(other, out, {"a": 1, "b": 3})[0]
    assert refused(other, out, {"a": 1, "b": 3}, overwrite=True) == []
    # Where the files themselves have the names, there is no such file.
    assert refused(other, out, {"a": 1, "b": 3}, ending="seg.nrrd") == []


def test_an_output_that_is_or_lies_below_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    for out in (tmp_path / "out", tmp_path / "out/deep/er"):
        (problem,) = refused([save(tmp_path / "in/a.nii")], out)
        assert "cannot be used as a directory" in problem
        with pytest.raises(DataError, match="cannot be used as a directory"):
            predict(Bright(), [], out)


@pytest.mark.parametrize(("ending", "name"), [("dcm", "DICOM-SEG"), ("rtstruct.dcm", "RTSTRUCT")])
def test_dicom_of_what_is_no_dicom_is_refused(tmp_path, ending, name):
    (problem,) = refused([save(tmp_path / "in/a.nii")], tmp_path / "out", ending=ending)
    assert f"in/a.nii: no DICOM, to which {name} could refer" in problem


def test_a_format_whose_package_is_missing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = refused([save(tmp_path / "in/a.nii")], tmp_path / "out", ending="mha")
    assert "SimpleITK" in problem and "wsicl_jax[itk]" in problem


def test_all_problems_are_reported_and_long_lists_cut(tmp_path):
    (tmp_path / "out").mkdir()
    files = [save(tmp_path / f"in/{name}.nii") for name in "abcde"]
    for file in files:
        shutil.copy(file, tmp_path / "out")
    first, second = refused(files, tmp_path / "out", inputs=[tmp_path / "out/a.nii"])
    assert "holds context files" in first
    assert "c.nii and 2 more exist already" in second


def test_no_result_depends_on_the_affines_of_formats(tmp_path):
    """A left-handed, permuted grid comes back as it was from ITK's formats too."""
    file, out = save(tmp_path / "in/a.nii"), tmp_path / "out"
    (target,) = targets_of([file], out)
    for ending in ("mha", "nii.gz"):
        predict(Bright(), [replace(target, output=out / f"a.{ending}")], out)
    first, second = (sitk.ReadImage(str(out / f"a.{ending}")) for ending in ("mha", "nii.gz"))
    np.testing.assert_allclose(first.GetDirection(), second.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(first.GetOrigin(), second.GetOrigin(), atol=1e-4)
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(image) for image in (first, second)))
