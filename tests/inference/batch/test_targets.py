"""What people name, and the targets and outputs that it means."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.data.images import read_volume
from wsicl_jax.errors import DataError
from wsicl_jax.inference.batch.targets import (
    Target,
    case_and_channel,
    find_targets,
    natural,
    read_target,
)

sys.path.append(str(Path(__file__).parents[2] / "data"))
from dicom_written import write_segmentation, write_series

SHAPE = (4, 5, 3)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
OUT = Path("out")


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def series(folder, **changed):
    return write_series(folder, np.arange(60, dtype=np.int16).reshape(SHAPE), AFFINE, **changed)


def named(*paths, **options):
    """The names of the chosen files and of the outputs, of what must be without a problem."""
    found = find_targets(list(paths), OUT, **options)
    assert not found.problems
    return [(target.files[0].name, target.output.name) for target in found.targets]


def test_a_file_is_itself_and_keeps_its_format_where_that_can_be_written(tmp_path):
    names = {
        "a.nii.gz": "a.nii.gz",
        "B.NII.GZ": "B.nii.gz",
        "c.nii": "c.nii",
        "d.nrrd": "d.nrrd",
        "e.nhdr": "e.nrrd",
        "f.mha": "f.mha",
        "g.mhd": "g.mha",
        "h.png": "h.png.nii.gz",
    }
    touch(tmp_path, *names)
    assert named(*(tmp_path / name for name in names)) == list(names.items())
    assert named(tmp_path / "a.nii.gz", ending="seg.nrrd") == [("a.nii.gz", "a.seg.nrrd")]


def test_a_file_that_is_not_there_is_a_target_that_will_fail():
    (target,) = find_targets([Path("no/file.nii")], OUT).targets
    assert (target.name, target.output) == ("no/file.nii", OUT / "file.nii")
    with pytest.raises(DataError, match=r"file\.nii is missing"):
        read_target(target)


def test_a_folder_stands_for_its_images_in_natural_order(tmp_path):
    folder = touch(tmp_path, "s10.nii.gz", "s9.nii.gz", "s1.mha", "notes.txt", ".hidden.nii")
    touch(tmp_path / "deep", "inner.nii.gz")
    assert [name for name, _ in named(folder)] == ["s1.mha", "s9.nii.gz", "s10.nii.gz"]
    assert find_targets([folder], OUT).notes == (f"{folder}: 3 images",)


def test_nnunet_names_lose_their_channel(tmp_path):
    folder = touch(tmp_path, "b_0000.nii.gz", "a_0000.nii.gz")
    assert named(folder) == [("a_0000.nii.gz", "a.nii.gz"), ("b_0000.nii.gz", "b.nii.gz")]
    assert named(folder / "a_0000.nii.gz", ending="mha") == [("a_0000.nii.gz", "a.mha")]


def test_of_several_channels_one_is_chosen_and_reported(tmp_path):
    folder = touch(tmp_path, *(f"{case}_000{n}.nii.gz" for case in "ab" for n in range(3)))
    assert [name for name, _ in named(folder)] == ["a_0000.nii.gz", "b_0000.nii.gz"]
    assert named(folder, channel=2)[1] == ("b_0002.nii.gz", "b.nii.gz")
    found = find_targets([folder], OUT, channel=2)
    assert found.notes == (f"{folder}: 2 images, channel 2 of 3",)
    # It is chosen: within its own file there is nothing left to choose.
    assert {(t.channel, t.remarks) for t in found.targets} == {(0, ("channel 2 of 3",))}


def test_channels_named_one_by_one_are_results_of_their_own(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz")
    both = named(tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz")
    assert [output for _, output in both] == ["a_0000.nii.gz", "a_0001.nii.gz"]


@pytest.mark.parametrize(
    "names",
    [
        ("visit_0001.nii", "visit_0002.nii"),
        ("scan_2021.nii", "scan_2022.nii"),
        ("a_0000.nii", "plain.nii"),
    ],
)
def test_numbers_that_are_no_channels_drop_no_image(tmp_path, names):
    folder = touch(tmp_path, *names)
    assert named(folder) == [(name, name) for name in names]


@pytest.mark.parametrize("lost", ["a_0001.nii.gz", "b_0000.nii.gz"])
def test_a_case_without_one_of_the_channels_is_reported(tmp_path, lost):
    folder = touch(tmp_path, *(f"{case}_000{n}.nii.gz" for case in "ab" for n in range(2)))
    (folder / lost).unlink()
    (problem,) = find_targets([folder], OUT).problems
    assert f"'{lost[0]}' has [{1 - int(lost[5])}]" in problem


def test_a_channel_that_is_not_there_is_reported(tmp_path):
    folder = touch(tmp_path, "a_0000.nii.gz")
    (problem,) = find_targets([folder], OUT, channel=1).problems
    assert "has 1 channel of each case" in problem and "no channel 1" in problem


def test_a_folder_without_images_is_reported_beside_what_others_have(tmp_path):
    empty, full = touch(tmp_path / "empty", "notes.txt"), touch(tmp_path / "full", "a.nii")
    found = find_targets([empty, full], OUT)
    assert [target.name for target in found.targets] == [str(full / "a.nii")]
    (problem,) = found.problems
    assert str(empty) in problem and ".nii.gz" in problem and "DICOM" in problem


# DICOM.


def test_a_folder_of_dicom_files_is_one_target_of_its_series(tmp_path):
    files = series(tmp_path / "ct")
    write_segmentation(tmp_path / "ct/seg.dcm", files, {"liver": np.ones(SHAPE, bool)})
    (target,) = find_targets([tmp_path / "ct"], OUT).targets
    assert set(target.files) == set(files)
    assert (target.name, target.output) == (str(tmp_path / "ct"), OUT / "ct.nii.gz")
    volume, _ = read_target(target)
    np.testing.assert_array_equal(volume.image, np.arange(60).reshape(SHAPE))
    np.testing.assert_allclose(volume.affine, AFFINE)


def test_folders_of_series_are_a_target_each_beside_other_images(tmp_path):
    series(tmp_path / "p10/ct"), series(tmp_path / "p9/ct")
    touch(tmp_path, "a.nii.gz")
    found = find_targets([tmp_path], OUT, ending="dcm")
    assert [target.output.name for target in found.targets] == ["a.dcm", "p9_ct.dcm", "p10_ct.dcm"]
    assert found.notes == (f"{tmp_path}: 3 images",)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("thorax / soft", "scout", ["ct_scout.nii.gz", "ct_thorax_soft.nii.gz"]),
        ("ct", "ct", ["ct_111.nii.gz", "ct_222.nii.gz"]),
        ("", "scout", ["ct_111.nii.gz", "ct_scout.nii.gz"]),
    ],
)
def test_several_series_of_one_folder_are_distinguished(tmp_path, first, second, expected):
    for uid, text in (("1.2.111", first), ("1.2.222", second)):
        files = series(tmp_path / uid, SeriesDescription=text, SeriesInstanceUID=uid)
        (tmp_path / "ct").mkdir(exist_ok=True)
        for file in files:
            file.rename(tmp_path / "ct" / f"{uid}{file.name}")
    found = find_targets([tmp_path / "ct"], OUT)
    assert sorted(target.output.name for target in found.targets) == expected
    assert [len(target.files) for target in found.targets] == [3, 3]


def test_a_series_with_a_damaged_file_fails_rather_than_lack_a_slice(tmp_path):
    files = series(tmp_path / "ct")
    files[0].write_bytes(b"")
    touch(tmp_path / "other", "lost.dcm")
    for target, file in zip(find_targets([tmp_path], OUT).targets, ["000", "lost"], strict=True):
        with pytest.raises(DataError, match=rf"{file}\.dcm"):
            read_target(target)


def test_a_single_slice_asks_to_be_named_by_its_folder(tmp_path):
    file, *_ = series(tmp_path / "ct")
    (target,) = find_targets([file], OUT).targets
    with pytest.raises(DataError, match=r"only slice .*; give the folder of its series"):
        read_target(target)


# Reading.


def test_a_target_is_read_as_its_file_says(tmp_path):
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "a.nii.gz")
    volume, remarks = read_target(Target("a", (tmp_path / "a.nii.gz",), OUT))
    np.testing.assert_array_equal(volume.image, image)
    np.testing.assert_array_equal(volume.affine, read_volume(tmp_path / "a.nii.gz").affine)
    assert volume.image.dtype == np.float32 and remarks == ()


def test_a_channel_within_a_file_is_chosen_and_reported(tmp_path):
    image = np.random.default_rng(0).integers(0, 99, (*SHAPE, 2)).astype(np.int16)
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "a.nii")
    for channel in range(2):
        volume, remarks = read_target(Target("a", (tmp_path / "a.nii",), OUT, channel, ("x",)))
        np.testing.assert_array_equal(volume.image, image[..., channel])
        assert remarks == ("x", f"channel {channel} of 2")
    with pytest.raises(DataError, match="has 2 channels, numbered from 0; there is no channel 2"):
        read_target(Target("a", (tmp_path / "a.nii",), OUT, 2))


def test_case_and_channel_and_natural_order():
    assert case_and_channel(Path("x/case_7_0001.nii.gz")) == ("case_7", 1)
    assert case_and_channel(Path("case_0100.nii.gz")) is None
    assert case_and_channel(Path("case.nii.gz")) is None
    assert sorted(["s10b", "s9", "a", "10", "9"], key=natural) == ["9", "10", "a", "s9", "s10b"]
