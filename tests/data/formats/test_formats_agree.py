"""One volume in every format: the same array on the same grid."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_written import write_series

from wsicl_jax.data.images import read_channels, read_volume

SHAPE = (4, 5, 7)
SPACING = (1.5, 0.75, 3.0)


def grid(turn=30.0):
    """An oblique affine of unequal spacings, right-handed as a DICOM series is."""
    a, b = np.radians([turn, -20.0])
    around_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    around_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(around_z) @ around_x * SPACING
    affine[:3, 3] = [-20, 7.5, 100]
    return affine


def array():
    return np.random.default_rng(0).integers(-900, 3000, SHAPE).astype(np.int16)


def with_nibabel(folder, name):
    nib.save(nib.Nifti1Image(array(), grid()), folder / name)
    return [folder / name]


def with_simpleitk(folder, name):
    image = sitk.GetImageFromArray(array().T)
    image.SetSpacing(SPACING)
    lps = np.diag([-1, -1, 1]) @ grid()[:3]
    image.SetDirection((lps[:, :3] / SPACING).ravel())
    image.SetOrigin(lps[:, 3])
    sitk.WriteImage(image, folder / name, useCompression="z" in name)
    return [folder / name]


def with_pydicom(folder, name):
    return list(write_series(folder / name, array(), grid()))


@pytest.mark.parametrize(
    ("write", "name"),
    [
        *((with_nibabel, name) for name in ("a.nii", "a.nii.gz", "A.NII.GZ")),
        *((with_simpleitk, name) for name in ("a.nii.gz", "a.nrrd", "z.nrrd", "a.nhdr", "z.nhdr")),
        *((with_simpleitk, name) for name in ("a.mha", "z.mha", "a.mhd", "z.mhd")),
        (with_pydicom, "series"),
    ],
)
def test_a_volume_is_the_same_in_every_format(tmp_path, write, name):
    files = write(tmp_path, name)
    found = read_channels(files)
    np.testing.assert_array_equal(found.image[0], array())
    np.testing.assert_allclose(found.affine, grid(), atol=2e-5)
    assert (found.image.dtype, found.affine.dtype, found.remarks) == (np.int16, np.float64, ())
    assert found.image.flags.c_contiguous
    if len(files) == 1:
        np.testing.assert_array_equal(read_volume(files[0]).image, array())
