"""What is written as NRRD and MetaImage is read by ITK."""

import builtins
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from wsicl_jax.data.formats import itk, meta_image, nrrd
from wsicl_jax.errors import DataError

SHAPE = (4, 5, 7)


def test_simpleitk_is_not_loaded_before_it_is_needed(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        assert name != "SimpleITK"
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(sys.modules, "wsicl_jax.data.formats.itk")
    import wsicl_jax.data.formats.itk  # noqa: F401


def sheared(mirror):
    """An affine whose axes are not at right angles, as of a tilted gantry."""
    affine = np.array([[1.3, -0.4, 0.2, -20], [0.75, 0.65, 0, 7.5], [0, 0.1, 3, 100], [0, 0, 0, 1]])
    affine[:, 1] *= -1 if mirror else 1
    return affine


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_what_is_written_lies_where_itk_and_the_reader_find_it(tmp_path, name, mirror, kind):
    voxels = np.arange(np.prod(SHAPE), dtype=kind).reshape(SHAPE)
    affine = sheared(mirror)
    itk.write(tmp_path / name, voxels, affine, {"note": "kept"})
    image = sitk.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels.T)
    for index in ((0, 0, 0), (3, 0, 2), (3, 4, 6)):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(lps * [-1, -1, 1], affine[:3] @ [*index, 1], atol=1e-6)
    found = (nrrd if name == "a.nrrd" else meta_image).read(tmp_path / name)
    np.testing.assert_array_equal(found.voxels, voxels)
    np.testing.assert_allclose(found.affine, affine, atol=1e-9)
    assert (found.voxels.dtype, found.remarks) == (kind, ())
    assert image.GetMetaData("note") == "kept"


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, name, monkeypatch):
    voxels = np.zeros(SHAPE, np.uint8)
    itk.write(tmp_path / name, voxels, np.eye(4))
    before = (tmp_path / name).read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=f"{name} cannot be written: No space left"):
        itk.write(tmp_path / name, voxels + 1, np.eye(4))
    assert (tmp_path / name).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_missing_folder_is_reported_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"a\.nrrd cannot be written: No such file") as caught:
        itk.write(tmp_path / "no" / "a.nrrd", np.zeros(SHAPE, np.uint8), np.eye(4))
    assert "\n" not in str(caught.value)


def test_a_failure_of_itk_is_reported_in_one_line(tmp_path, monkeypatch):
    def fail(*given, **more):
        raise RuntimeError("Exception thrown in SimpleITK\n itk::ERROR: no room")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(DataError, match=r"cannot be written: itk::ERROR: no room$"):
        itk.write(tmp_path / "a.nrrd", np.zeros(SHAPE, np.uint8), np.eye(4))
    assert not list(tmp_path.iterdir())


def test_writing_without_simpleitk_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(DataError, match=r"to be written: pip install 'wsicl_jax\[itk\]'"):
        itk.write(tmp_path / "a.nrrd", np.zeros(SHAPE, np.uint8), np.eye(4))
