"""Voxels written as NIfTI; reading is tested in test_images.py."""

import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from wsicl_jax.data.formats.nifti import read, write
from wsicl_jax.errors import DataError, ShapeError

SHAPE = (4, 5, 7)
OBLIQUE = np.array([[1.3, -0.4, 0, -20], [0.75, 0.65, 0, 7.5], [0, 0, 3, 100], [0, 0, 0, 1]])
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


def placed(*spacing):
    """A right-angled affine that is oblique to the world."""
    affine = np.eye(4)
    affine[:3, :3] = TURN * spacing
    affine[:3, 3] = -20, 7.5, 100
    return affine


def ramp(dtype=np.uint8):
    return np.arange(np.prod(SHAPE), dtype=dtype).reshape(SHAPE)


def save(path, array, affine=OBLIQUE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_geometry_is_that_of_the_image_bit_for_bit(tmp_path, kind):
    image = kind(ramp(np.float32), OBLIQUE)
    image.set_sform(OBLIQUE, code=4)
    qform = OBLIQUE.copy()
    qform[:3, 3] += 0.25
    image.set_qform(qform, code=2)
    image.header.set_xyzt_units("micron", "sec")
    like = tmp_path / "scan.nii.gz"
    nib.save(image, like)
    write(tmp_path / "mask.nii.gz", ramp() % 2 == 0, read(like).affine, like)

    source, written = nib.load(like), nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(written.dataobj, ramp() % 2 == 0)
    assert written.get_data_dtype() == np.uint8
    assert type(written) is type(source)
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.header.get_xyzt_units()[0] == "micron"
    for name in ("get_sform", "get_qform"):
        affine, code = getattr(source.header, name)(coded=True)
        written_affine, written_code = getattr(written.header, name)(coded=True)
        np.testing.assert_array_equal(written_affine, affine)
        assert written_code == code


@pytest.mark.parametrize("spacing", [(0.7, 1.3, 3.1), (-0.7, 1.3, 3.1)], ids=["RAS", "flipped"])
def test_an_affine_alone_is_read_alike_by_nibabel_and_itk(tmp_path, spacing):
    affine = placed(*spacing)
    write(tmp_path / "a.nii", ramp(np.uint16), affine)
    found = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(found.affine, affine, atol=1e-5)
    np.testing.assert_allclose(found.get_qform(), affine, atol=1e-5)
    assert found.header.get_xyzt_units()[0] == "mm" and found.get_data_dtype() == np.uint16
    image = sitk.ReadImage(str(tmp_path / "a.nii"))
    corner = tuple(n - 1 for n in SHAPE)
    lps = image.TransformIndexToPhysicalPoint(corner)
    np.testing.assert_allclose(lps * np.array([-1, -1, 1]), affine[:3] @ [*corner, 1], atol=1e-4)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ramp().T)


def test_a_sheared_affine_has_no_quaternion_that_would_contradict_it(tmp_path):
    write(tmp_path / "a.nii", ramp(), OBLIQUE)
    found = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-5)
    assert found.header["qform_code"] == 0 and found.header["sform_code"] == 1


def test_a_mask_of_an_image_with_one_frame_is_3d(tmp_path):
    like = save(tmp_path / "scan.nii", ramp()[..., None])
    write(tmp_path / "mask.nii", ramp() > 3, OBLIQUE, like)
    assert nib.load(tmp_path / "mask.nii").shape == SHAPE


@pytest.mark.parametrize("name", ["MASK.NII.GZ", "MASK.NII"])
def test_a_name_in_capitals_is_read_again(tmp_path, name):
    write(tmp_path / name, ramp(), OBLIQUE)
    np.testing.assert_array_equal(read(tmp_path / name).voxels, ramp())


def test_voxels_of_another_shape_are_refused(tmp_path):
    like = save(tmp_path / "scan.nii", ramp())
    with pytest.raises(ShapeError, match=re.escape("mask.nii would be (4, 5, 6)")):
        write(tmp_path / "mask.nii", np.zeros((4, 5, 6), bool), OBLIQUE, like)


def test_another_affine_than_that_of_the_image_is_refused(tmp_path):
    like = save(tmp_path / "scan.nii", ramp())
    with pytest.raises(DataError, match="another affine"):
        write(tmp_path / "mask.nii", ramp(), placed(1, 1, 1), like)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("scan.nii", None, "is missing"),
        ("scan.nii", b"no header", "cannot be read as NIfTI"),
        ("scan.nii.gz", b"no gzip", "cannot be read"),
        ("scan.mha", b"", "not named as a NIfTI file"),
    ],
)
def test_an_unreadable_header_is_reported(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{reason}"):
        write(tmp_path / "mask.nii", ramp(), OBLIQUE, tmp_path / name)


def test_a_name_of_another_format_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"mask\.mha is not named as a NIfTI file"):
        write(tmp_path / "mask.mha", ramp(), OBLIQUE)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write(tmp_path / "mask.nii", ramp() > 3, OBLIQUE)
    before = (tmp_path / "mask.nii").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"mask\.nii cannot be written: No space left"):
        write(tmp_path / "mask.nii", ramp() > 9, OBLIQUE)
    assert (tmp_path / "mask.nii").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mask.nii"]
