import nibabel as nib
import numpy as np
import pytest
from data.dicom_written import write_series

from wsicl_jax.errors import DataError
from wsicl_jax.serve.folder import Folder


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).gamma(2, 100, (6, 5, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def opened(folder):
    return Folder(folder, max_upload_mb=1.0, max_uploads=1)


def names(folder):
    return [image.name for image in opened(folder).images.values()]


def test_images_of_nnunet_folders_are_those_of_the_first_channel(tmp_path):
    for part in ("imagesTr", "imagesTs"):
        for case in ("a_1", "a_2"):
            for channel in (0, 1):
                write(tmp_path / part / f"{case}_000{channel}.nii.gz")
    write(tmp_path / "labelsTr" / "a_1.nii.gz")
    assert names(tmp_path) == ["imagesTr/a_1", "imagesTr/a_2", "imagesTs/a_1", "imagesTs/a_2"]
    files = [image.path.name for image in opened(tmp_path).images.values()]
    assert all(name.endswith("_0000.nii.gz") for name in files)


def test_a_dicom_series_is_an_image_with_the_name_of_its_directory(tmp_path):
    write(tmp_path / "b.nii.gz")
    voxels = np.random.default_rng(0).integers(0, 1000, (6, 5, 4)).astype(np.int16)
    (tmp_path / "scan").mkdir()
    write_series(tmp_path / "scan", voxels, np.eye(4))
    folder = opened(tmp_path)
    assert [image.name for image in folder.images.values()] == ["b", "scan"]
    assert folder["scan"].path == tmp_path / "scan"
    assert len(folder["scan"].files) == 4


def test_what_the_service_writes_is_no_image(tmp_path):
    write(tmp_path / "a.nii.gz")
    for place in (".wsicl/results/0/a.nii.gz.nii.gz", "wsicl_results/mine/a.nii.gz"):
        write(tmp_path / place)
    assert names(tmp_path) == ["a"]


def test_an_empty_folder_can_be_served_and_says_why_it_has_no_image(tmp_path):
    folder = opened(tmp_path)
    assert folder.images == {}
    assert "has no image in it" in folder.problems[0]


def test_different_images_have_different_identifiers_that_are_file_names(tmp_path):
    for name in ("a.nii.gz", "a.nii", "ä b.nii.gz", "images/a.nii.gz"):
        write(tmp_path / name)
    identifiers = list(opened(tmp_path).images)
    assert len(identifiers) == 4
    assert not any(set(identifier) & set("/\\ ") for identifier in identifiers)


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    write(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="is no folder"):
        opened(tmp_path / "a.nii.gz")
