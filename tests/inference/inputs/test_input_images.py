import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError
from wsicl_jax.inference.inputs.images import as_label_map, as_path, as_volume

SHAPE = (6, 5, 4)
AFFINE = np.array([[0, 0, -3, 11.5], [0.75, 0, 0, -2], [0, 1.25, 0, 9], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
LABEL = (VOXELS % 3).astype(np.uint8)


def as_itk(voxels):
    lps = np.diag([-1, -1, 1, 1]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(voxels.T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


@pytest.fixture
def path(tmp_path):
    nib.save(nib.Nifti1Image(VOXELS, AFFINE), tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz"


@pytest.mark.parametrize(
    "form", ["path", "text", "nibabel", "opened", "simple_itk", "volume", "array"]
)
def test_an_image_is_the_same_in_whatever_form_it_comes(path, form):
    options = {}
    given = {
        "path": path,
        "text": str(path),
        "nibabel": nib.Nifti1Image(VOXELS, AFFINE),
        "opened": nib.load(path),
        "simple_itk": as_itk(VOXELS),
        "volume": Volume(VOXELS.astype(np.float32), AFFINE),
        "array": VOXELS,
    }[form]
    if form == "array":
        options = {"affine": AFFINE}
    found = as_volume(given, **options)
    assert found.image.dtype == np.float32
    np.testing.assert_array_equal(found.image, VOXELS)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)


def test_an_array_with_its_spacing_runs_to_the_right_the_front_and_up():
    found = as_volume(VOXELS, spacing_mm=(1, 2, 3))
    np.testing.assert_array_equal(found.affine, np.diag([1, 2, 3, 1]))


def test_axes_of_one_frame_are_dropped():
    found = as_volume(nib.Nifti1Image(VOXELS[..., None], AFFINE))
    assert found.image.shape == SHAPE


@pytest.mark.parametrize("form", ["path", "nibabel", "simple_itk", "array", "truth", "float"])
def test_a_label_map_is_the_same_in_whatever_form_it_comes(tmp_path, form):
    nib.save(nib.Nifti1Image(LABEL, AFFINE), tmp_path / "label.nii.gz")
    given = {
        "path": tmp_path / "label.nii.gz",
        "nibabel": nib.Nifti1Image(LABEL, AFFINE),
        "simple_itk": as_itk(LABEL),
        "array": LABEL,
        "truth": LABEL > 0,
        "float": LABEL.astype(np.float32),
    }[form]
    label, affine = as_label_map(given, Volume(VOXELS.astype(np.float32), AFFINE))
    assert label.dtype.kind in "iu"
    np.testing.assert_array_equal(label, LABEL > 0 if form == "truth" else LABEL)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-6)


def with_nan():
    image = VOXELS.astype(np.float32)
    image[0, 0, 0] = np.nan
    return image


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (VOXELS, {}, "an array needs one of the two: spacing_mm"),
        (VOXELS, {"spacing_mm": (1, 1, 1), "affine": np.eye(4)}, "one of the two"),
        (VOXELS, {"spacing_mm": (1, 1)}, "expected three sizes"),
        (VOXELS, {"spacing_mm": (1, 1, 0)}, "expected three sizes"),
        (VOXELS, {"affine": np.zeros((4, 4))}, "singular"),
        (VOXELS, {"affine": np.full((4, 4), np.nan)}, "NaN or infinity"),
        (VOXELS[0], {"spacing_mm": (1, 1, 1)}, "expected a 3D volume"),
        (VOXELS[:0], {"spacing_mm": (1, 1, 1)}, "expected a 3D volume"),
        (VOXELS.astype(complex), {"spacing_mm": (1, 1, 1)}, "expected grey values"),
        (with_nan(), {"spacing_mm": (1, 1, 1)}, "NaN or infinite"),
        (VOXELS.tolist(), {}, "a list is no image"),
        (nib.Nifti1Image(VOXELS, AFFINE), {"spacing_mm": (1, 1, 1)}, "omit them"),
        ("none.nii.gz", {}, r"none\.nii\.gz is missing"),
        ("image.png", {}, r"image\.png is missing"),
    ],
)
def test_an_image_of_no_use_is_refused(image, options, message):
    with pytest.raises(DataError, match=message):
        as_volume(image, **options)


def test_an_opened_image_whose_file_is_cut_off_is_refused(path):
    opened = nib.load(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="may be damaged"):
        as_volume(opened)


@pytest.mark.parametrize(
    ("label", "message"),
    [(LABEL[0], "expected one 3D volume"), (LABEL + 0.5, "expected whole numbers")],
)
def test_a_label_map_of_no_use_is_refused(label, message):
    with pytest.raises(DataError, match=message):
        as_label_map(label, Volume(VOXELS.astype(np.float32), AFFINE))


def test_only_paths_have_a_path(path):
    assert as_path(path) == as_path(str(path)) == path
    assert as_path(VOXELS) is None


@pytest.mark.parametrize(("unit", "mm"), [("micron", 0.001), ("meter", 1000.0), ("mm", 1.0)])
def test_an_open_nifti_image_of_another_unit_lies_where_its_file_does(tmp_path, unit, mm):
    stored = np.diag([0.5, 2, 3, mm]) / mm
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), stored)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(as_volume(image).affine, np.diag([0.5, 2, 3, 1]))
    np.testing.assert_allclose(as_volume(image).affine, as_volume(tmp_path / "a.nii").affine)
