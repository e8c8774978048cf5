"""NRRD and MetaImage: what ITK writes is read as ITK reads it."""

import gzip
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from wsicl_jax.data.formats import meta_image, nrrd
from wsicl_jax.errors import DataError

SHAPE = (4, 5, 7)
ENDINGS = ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"]
MINIMAL_NRRD = (
    b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 7\nencoding: raw\nendian: little\n"
    b"space: %s\nspace directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)\n\n"
)


def read(path):
    return (nrrd if path.suffix in nrrd.ENDINGS else meta_image).read(path)


def volume(array=None, kind=np.int16):
    """An oblique image of unequal sides and spacings."""
    if array is None:
        array = np.arange(np.prod(SHAPE), dtype=kind).reshape(SHAPE[::-1])
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 1.3, 3.1))
    image.SetOrigin((-11.0, 23.5, 40.0))
    turn = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
    image.SetDirection(turn.ravel())
    return image


def reference(tmp_path, image):
    """What nibabel reads from the NIfTI file that ITK writes."""
    sitk.WriteImage(image, tmp_path / "reference.nii")
    found = nib.load(tmp_path / "reference.nii")
    return np.asanyarray(found.dataobj), found.affine


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ENDINGS)
def test_array_and_affine_are_those_of_the_same_volume_as_nifti(tmp_path, name, compressed):
    sitk.WriteImage(volume(), tmp_path / name, compressed)
    voxels, affine = reference(tmp_path, volume())
    found = read(tmp_path / name)
    np.testing.assert_array_equal(found.voxels, voxels)
    np.testing.assert_allclose(found.affine, affine, atol=1e-4)
    assert found.voxels.flags.c_contiguous and found.voxels.dtype == np.int16
    assert found.affine.dtype == np.float64 and not found.remarks


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_the_type_of_the_voxels_is_kept(tmp_path, kind):
    sitk.WriteImage(volume(kind=kind), tmp_path / "a.nrrd")
    assert read(tmp_path / "a.nrrd").voxels.dtype == kind


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_several_values_in_each_voxel_become_channels(tmp_path, name):
    array = np.arange(np.prod(SHAPE) * 2, dtype=np.float32).reshape(*SHAPE[::-1], 2)
    image = sitk.GetImageFromArray(array, isVector=True)
    image.CopyInformation(volume())
    sitk.WriteImage(image, tmp_path / name)
    found = read(tmp_path / name)
    np.testing.assert_array_equal(found.voxels, array.transpose(2, 1, 0, 3))
    np.testing.assert_allclose(found.affine, reference(tmp_path, volume())[1], atol=1e-4)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_frames_become_channels_and_a_single_one_is_dropped(tmp_path, name, frames):
    array = np.arange(np.prod(SHAPE) * frames, dtype=np.int16).reshape(frames, *SHAPE[::-1])
    image = sitk.JoinSeries([volume(frame) for frame in array])
    sitk.WriteImage(image, tmp_path / name)
    found = read(tmp_path / name)
    expected = np.moveaxis(array.transpose(0, 3, 2, 1), 0, -1)
    np.testing.assert_array_equal(found.voxels, expected[..., 0] if frames == 1 else expected)
    np.testing.assert_allclose(found.affine, reference(tmp_path, volume())[1], atol=1e-4)
    assert any("one frame" in remark for remark in found.remarks) == (frames == 1)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        (b"right-anterior-superior", (1, 1)),
        (b"left-posterior-superior", (-1, -1)),
        (b"left-anterior-superior", (-1, 1)),
    ],
)
def test_each_space_of_nrrd_leads_to_ras(tmp_path, space, signs):
    path = tmp_path / "a.nrrd"
    path.write_bytes(MINIMAL_NRRD % space + np.arange(140, dtype="<i2").tobytes())
    found = read(path)
    x, y = signs
    expected = np.diag([2.0 * x, 3.0 * y, 4, 1])
    expected[:3, 3] = 10 * x, 20 * y, 30
    np.testing.assert_allclose(found.affine, expected)
    assert not found.remarks


def test_big_endian_becomes_native(tmp_path):
    path = tmp_path / "a.nrrd"
    header = MINIMAL_NRRD.replace(b"little", b"big") % b"left-posterior-superior"
    path.write_bytes(header + np.arange(140, dtype=">i2").tobytes())
    found = read(path)
    assert found.voxels.dtype.isnative
    np.testing.assert_array_equal(found.voxels.ravel(order="F"), np.arange(140))


@pytest.mark.parametrize("name", ENDINGS)
def test_missing_and_empty_files_are_reported(tmp_path, name):
    with pytest.raises(DataError, match="missing"):
        read(tmp_path / name)
    (tmp_path / name).touch()
    with pytest.raises(DataError, match="empty"):
        read(tmp_path / name)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("keep", [0.1, 0.6, 0.97])
def test_a_file_that_was_cut_off_is_refused_in_one_line(tmp_path, name, compressed, keep):
    noise = np.random.default_rng(0).integers(0, 9999, (17, 15, 14)).astype(np.int16)
    sitk.WriteImage(volume(noise), tmp_path / name, compressed)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=r"a\.(nrrd|mha) cannot be read") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd"])
def test_a_header_without_its_voxels_is_refused(tmp_path, name):
    sitk.WriteImage(volume(), tmp_path / name)
    for data in tmp_path.glob("a.*raw*"):
        data.unlink()
    with pytest.raises(DataError, match=f"{name} names the file 'a.raw', which is missing"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_other_content_under_the_name_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"no image"))
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / name)


def test_a_flipped_bit_in_compressed_voxels_is_noticed(tmp_path):
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(volume(), tmp_path / name, True)
        content = bytearray((tmp_path / name).read_bytes())
        content[-3] ^= 1
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / name)


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 7, 5, 4)])
def test_other_than_three_dimensions_are_refused(tmp_path, shape):
    image = sitk.GetImageFromArray(np.zeros(shape, np.int16))
    sitk.WriteImage(image, tmp_path / "a.mha")
    with pytest.raises(DataError, match="3D"):
        read(tmp_path / "a.mha")


def test_reading_needs_no_simpleitk(tmp_path, monkeypatch):
    sitk.WriteImage(volume(), tmp_path / "a.nrrd")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    assert read(tmp_path / "a.nrrd").voxels.shape == SHAPE


@pytest.mark.parametrize("size", [(9000, 1, 1), (1, 9000, 1), (1, 1, 9000)])
def test_a_thin_volume_does_not_depend_on_memory_that_itk_frees(tmp_path, size):
    array = np.arange(9000, dtype=np.int16).reshape(size[::-1])
    sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / "a.nrrd")
    voxels = read(tmp_path / "a.nrrd").voxels
    assert voxels.flags.writeable
    np.testing.assert_array_equal(voxels, array.T)
