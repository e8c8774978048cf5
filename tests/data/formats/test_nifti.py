"""Masks written on the grid of an image; reading is tested in test_images.py."""

import re

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.data.formats.nifti import write_mask
from wsicl_jax.data.images import read_label
from wsicl_jax.errors import DataError, ShapeError

SHAPE = (4, 5, 7)
OBLIQUE = np.array([[1.3, -0.4, 0, -20], [0.75, 0.65, 0, 7.5], [0, 0, 3, 100], [0, 0, 0, 1]])


def ramp(dtype=np.float32):
    return np.arange(np.prod(SHAPE), dtype=dtype).reshape(SHAPE)


def save(path, array, affine=OBLIQUE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_mask_keeps_affine_codes_and_unit_of_its_image(tmp_path, kind):
    image = kind(ramp(), OBLIQUE)
    image.set_sform(OBLIQUE, code=4)
    qform = OBLIQUE.copy()
    qform[:3, 3] += 0.25
    image.set_qform(qform, code=2)
    image.header.set_xyzt_units("micron", "sec")
    nib.save(image, tmp_path / "scan.nii.gz")
    mask = ramp() % 2 == 0
    write_mask(tmp_path / "mask.nii.gz", mask, tmp_path / "scan.nii.gz")

    source, written = nib.load(tmp_path / "scan.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(written.dataobj, mask)
    assert written.get_data_dtype() == np.uint8
    assert type(written) is type(source)
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.header.get_xyzt_units()[0] == "micron"
    for name in ("get_sform", "get_qform"):
        affine, code = getattr(source.header, name)(coded=True)
        written_affine, written_code = getattr(written.header, name)(coded=True)
        np.testing.assert_array_equal(written_affine, affine)
        assert written_code == code


def test_a_mask_of_an_image_with_one_frame_is_3d(tmp_path):
    save(tmp_path / "scan.nii", ramp()[..., None])
    write_mask(tmp_path / "mask.nii", ramp() > 3, tmp_path / "scan.nii")
    assert nib.load(tmp_path / "mask.nii").shape == SHAPE


@pytest.mark.parametrize("name", ["MASK.NII.GZ", "MASK.NII"])
def test_a_mask_under_a_name_in_capitals_is_read_again(tmp_path, name):
    save(tmp_path / "scan.nii", ramp())
    write_mask(tmp_path / name, ramp() > 3, tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_label(tmp_path / name).label, ramp() > 3)


def test_a_mask_of_another_shape_is_refused(tmp_path):
    save(tmp_path / "scan.nii", ramp())
    with pytest.raises(ShapeError, match=re.escape("mask is (4, 5, 6)")):
        write_mask(tmp_path / "mask.nii", np.zeros((4, 5, 6), bool), tmp_path / "scan.nii")


def test_a_mask_that_uint8_cannot_hold_is_refused(tmp_path):
    save(tmp_path / "scan.nii", ramp())
    with pytest.raises(DataError, match="0 to 255"):
        write_mask(tmp_path / "mask.nii", np.full(SHAPE, 256), tmp_path / "scan.nii")


def test_a_failed_write_leaves_the_old_mask_and_no_other_file(tmp_path, monkeypatch):
    save(tmp_path / "scan.nii", ramp())
    write_mask(tmp_path / "mask.nii", ramp() > 3, tmp_path / "scan.nii")
    before = (tmp_path / "mask.nii").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"mask\.nii cannot be written: No space left"):
        write_mask(tmp_path / "mask.nii", ramp() > 9, tmp_path / "scan.nii")
    assert (tmp_path / "mask.nii").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"scan.nii", "mask.nii"}
