import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.data.layouts.find import find_layout
from wsicl_jax.errors import DataError


def touch(folder, *files):
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.mark.parametrize("images", ["images", "imagesTr", "Image", "img"])
@pytest.mark.parametrize("labels", ["labels", "labelsTr", "masks", "Segmentations"])
def test_files_of_equal_names_in_two_folders_are_a_case(tmp_path, images, labels):
    files = (f"{images}/a.nii.gz", f"{labels}/a.nii.gz", f"{images}/b.nrrd", f"{labels}/b.mha")
    layout = find_layout(touch(tmp_path, *files))
    assert (layout.kind, layout.label_names, layout.skipped) == ("paired", None, {})
    assert [case.name for case in layout.cases] == ["a", "b"]
    assert [case.labels[0].name for case in layout.cases] == ["a.nii.gz", "b.mha"]


@pytest.mark.parametrize(
    ("image", "label"),
    [("a_image", "a_label"), ("a-img", "a-seg"), ("a", "a_mask"), ("a", "a.seg")],
)
def test_names_in_one_folder_say_what_is_a_label(tmp_path, image, label):
    (case,) = find_layout(touch(tmp_path, f"{image}.nii.gz", f"{label}.nii.gz")).cases
    assert (case.name, case.images[0][0].name) == ("a", f"{image}.nii.gz")
    assert case.labels[0].name == f"{label}.nii.gz"


def test_channel_numbers_make_channels(tmp_path):
    files = ("images/a_0000.nii", "images/a_0001.nii", "labels/a.nii")
    layout = find_layout(touch(tmp_path, *files))
    assert layout.channel_names == ("channel 0", "channel 1")
    assert len(layout.cases[0].images) == 2


def test_channels_within_files_are_counted(tmp_path):
    touch(tmp_path, "images/a.nii", "labels/a.nii", "labels/b.nii")
    array = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "images/b.nii")
    assert len(find_layout(tmp_path).channel_names) == 3


@pytest.mark.parametrize(
    ("files", "name", "reason"),
    [
        (("images/b.nii",), "b", "has an image but no label"),
        (("labels/b.nii",), "b", "has a label but no image"),
        (("images/b.nii", "images/b.nii.gz", "labels/b.nii"), "b", "two files for one thing"),
        (("images/b.nii", "labels/b.nii", "labels/b.mha"), "b", "two files for one thing"),
        (("images/notes.txt",), "images/notes.txt", "no image of a known format"),
    ],
)
def test_files_without_a_case_are_skipped_with_the_reason(tmp_path, files, name, reason):
    layout = find_layout(touch(tmp_path, "images/a.nii", "labels/a.nii", *files))
    assert [case.name for case in layout.cases] == ["a"]
    ((found, why),) = layout.skipped.items()
    assert found == name
    assert reason in why


def test_the_voxels_beside_a_header_are_no_case(tmp_path):
    files = ("images/a.mhd", "images/a.raw", "labels/a.nhdr", "labels/a.raw.gz")
    assert find_layout(touch(tmp_path, *files)).skipped == {}


def test_a_folder_of_unknown_layout_names_the_expected_ones(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"no dataset\.json.*images and labels.*DICOM"):
        find_layout(tmp_path)
    with pytest.raises(DataError, match="has no pairs of images and labels"):
        find_layout(tmp_path, kind="paired")
    with pytest.raises(DataError, match="is no folder"):
        find_layout(tmp_path / "none")
