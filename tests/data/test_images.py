import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsicl_jax.data.images import check_same_grid, read_channels, read_label, read_volume
from wsicl_jax.errors import DataError

SHAPE = (4, 5, 7)
# Sides of 1.5, 0.75 and 3 mm, turned by 30 degrees in the plane.
OBLIQUE = np.array(
    [
        [1.5 * np.sqrt(3) / 2, -0.375, 0, -20],
        [0.75, 0.75 * np.sqrt(3) / 2, 0, 7.5],
        [0, 0, 3, 100],
        [0, 0, 0, 1],
    ]
)


def ramp(dtype=np.float32):
    return np.arange(np.prod(SHAPE), dtype=dtype).reshape(SHAPE)


def save(path, array, affine=OBLIQUE, kind=nib.Nifti1Image):
    nib.save(kind(array, affine), path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_unequal_sides_and_an_oblique_affine_survive(tmp_path, name):
    volume = read_volume(save(tmp_path / name, ramp()))
    np.testing.assert_array_equal(volume.image, ramp())
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(volume.spacing_mm, (1.5, 0.75, 3), rtol=1e-6)
    assert volume.image.dtype == np.float32 and volume.affine.dtype == np.float64


def test_nifti_2_is_read(tmp_path):
    path = save(tmp_path / "a.nii", ramp(), kind=nib.Nifti2Image)
    np.testing.assert_array_equal(read_volume(path).image, ramp())


def test_integers_keep_their_type_and_big_endian_becomes_native(tmp_path):
    image = nib.Nifti1Image(
        ramp(np.int16), OBLIQUE, nib.Nifti1Header(endianness=">"), dtype=np.int16
    )
    nib.save(image, tmp_path / "a.nii")
    array = read_channels([tmp_path / "a.nii"]).image
    assert array.dtype == np.dtype("=i2")
    np.testing.assert_array_equal(array[0], ramp(np.int16))


def test_the_scale_factor_of_the_file_is_applied(tmp_path):
    image = nib.Nifti1Image(ramp(np.int16), OBLIQUE)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii")
    stored = nib.load(tmp_path / "a.nii").get_fdata()
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").image, stored)


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0)])
def test_affines_are_in_millimetres_whatever_the_unit(tmp_path, unit, mm):
    image = nib.Nifti1Image(ramp(), np.diag([1.0, 2.0, 4.0, mm]) / mm)
    image.header.set_xyzt_units(xyz=unit)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").spacing_mm, (1, 2, 4), rtol=1e-6)


def test_one_frame_is_a_volume(tmp_path):
    path = save(tmp_path / "a.nii.gz", ramp()[..., None])
    np.testing.assert_array_equal(read_volume(path).image, ramp())


def missing(path):
    pass


def zero_bytes(path):
    path.write_bytes(b"")


def no_nifti(path):
    path.write_bytes(gzip.compress(b"patient,age\n" * 100))


def cut_off(path):
    rng = np.random.default_rng(0)
    save(path, rng.normal(size=(16, 16, 16)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:4000])


def wrong_checksum(path):
    content = bytearray(save(path, ramp()).read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)


def flat(path):
    save(path, ramp()[0])


def many_frames(path):
    save(path, np.stack([ramp(), ramp()], axis=-1))


def colours(path):
    save(path, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))


def first_row(row):
    def write(path):
        image = nib.Nifti1Image(ramp(), OBLIQUE)
        image.header["srow_x"] = row
        image.header["qform_code"] = 0
        path.write_bytes(gzip.compress(type(image)(ramp(), None, image.header).to_bytes()))

    return write


def nan_voxel(path):
    image = ramp()
    image[1, 2, 3] = np.nan
    save(path, image)


def infinite_voxel(path):
    image = ramp().astype(np.float64)
    image[1, 2, 3] = 1e300
    save(path, image)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (missing, "is missing"),
        (zero_bytes, "is empty"),
        (no_nifti, "cannot be read"),
        (cut_off, "cannot be read.*its end is missing"),
        (wrong_checksum, "cannot be read.*incorrect data check"),
        (flat, r"shape \(5, 7\); expected a 3D"),
        (many_frames, r"shape \(4, 5, 7, 2\); expected one 3D"),
        (colours, "expected grey values"),
        (first_row([0, 0, 0, 0]), "singular affine"),
        (first_row([1, 0, np.nan, 0]), "affine with NaN"),
        (nan_voxel, "1 voxels that are NaN"),
        (infinite_voxel, "1 voxels that are NaN or infinite"),
    ],
)
def test_an_unusable_image_is_named_with_its_reason(tmp_path, damage, reason):
    path = tmp_path / "scan.nii.gz"
    damage(path)
    with pytest.raises(DataError, match=f"scan.nii.gz.*{reason}"):
        read_volume(path)


def test_a_file_of_another_format_is_named(tmp_path):
    (tmp_path / "scan.png").write_bytes(b"PNG")
    with pytest.raises(DataError, match=r"scan.png is of no known format.*\.nii\.gz.*\.mha"):
        read_volume(tmp_path / "scan.png")


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255))
def test_a_damaged_header_is_a_data_error_or_readable(tmp_path_factory, position, value):
    content = bytearray(nib.Nifti1Image(ramp(), OBLIQUE).to_bytes())
    content[position] = value
    path = tmp_path_factory.getbasetemp() / "header.nii"
    path.write_bytes(content)
    try:
        assert np.isfinite(read_volume(path).image).all()
    except DataError as error:
        assert "header.nii" in str(error)


def test_floats_that_are_integers_are_labels(tmp_path):
    label, *_ = read_label(save(tmp_path / "a.nii.gz", ramp() % 3))
    assert label.dtype.kind == "i"
    np.testing.assert_array_equal(label, ramp(int) % 3)


def test_labels_are_exact_in_spite_of_the_rounding_of_a_scale_factor(tmp_path):
    image = nib.Nifti1Image(ramp(np.int16) % 3 * 100, OBLIQUE)
    image.header.set_slope_inter(0.01, 0)
    nib.save(image, tmp_path / "a.nii")
    assert nib.load(tmp_path / "a.nii").get_fdata().max() < 2
    label, *_ = read_label(tmp_path / "a.nii")
    np.testing.assert_array_equal(label, ramp(int) % 3)


@pytest.mark.parametrize(("value", "reason"), [(1.5, "such as 1.5"), (np.inf, "infinite")])
def test_a_label_map_of_other_floats_is_refused(tmp_path, value, reason):
    array = ramp() % 3
    array[0, 0, 0] = value
    with pytest.raises(DataError, match=f"a.nii.gz.*{reason}"):
        read_label(save(tmp_path / "a.nii.gz", array))


def same_grid(affine, shape=SHAPE):
    files = Path("scan.nii"), Path("label.nii")
    check_same_grid(files, (SHAPE, shape), (OBLIQUE, affine))


@pytest.mark.parametrize("axis", range(3))
def test_grids_are_the_same_if_no_corner_is_off_by_more_than_a_tenth_of_a_voxel(axis):
    longer = OBLIQUE.copy()
    longer[:, axis] *= 1 + 0.09 / (SHAPE[axis] - 1)
    same_grid(longer)
    longer[:, axis] = OBLIQUE[:, axis] * (1 + 0.11 / (SHAPE[axis] - 1))
    with pytest.raises(DataError, match=r"scan\.nii and label\.nii .*up to 0\.11 voxels apart"):
        same_grid(longer)


def test_grids_of_other_shapes_are_not_the_same():
    with pytest.raises(DataError, match=r"label\.nii is \(4, 5, 8\) but scan\.nii is \(4, 5, 7\)"):
        same_grid(OBLIQUE, (4, 5, 8))


def test_channels_stay_together_and_come_first(tmp_path):
    array = np.stack([ramp(np.int16), ramp(np.int16) + 500], axis=-1)
    image, affine, remarks = read_channels([save(tmp_path / "a.nii.gz", array)])
    np.testing.assert_array_equal(image, np.moveaxis(array, -1, 0))
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-5)
    assert (image.dtype, remarks) == (np.int16, ())


def test_one_frame_is_remarked(tmp_path):
    assert read_channels([save(tmp_path / "a.nii", ramp()[..., None])]).remarks == (
        "4D with one frame, taken as 3D",
    )


def test_a_header_without_orientation_is_remarked(tmp_path):
    image = nib.Nifti1Image(ramp(), None)
    image.header["pixdim"][1:4] = (1.5, 0.75, 3)
    nib.save(image, tmp_path / "a.nii")
    found = read_channels([tmp_path / "a.nii"])
    np.testing.assert_array_equal(found.affine, nib.load(tmp_path / "a.nii").affine)
    (remark,) = found.remarks
    assert "no orientation in its header, axes taken as LAS" in remark


@pytest.mark.parametrize(("value", "count"), [(np.nan, 1), (np.inf, 1), (-np.inf, 1)])
def test_voxels_that_are_no_numbers_are_counted_or_replaced(tmp_path, value, count):
    array = ramp()
    array[1, 2, 3] = value
    path = save(tmp_path / "a.nii.gz", array)
    with pytest.raises(DataError, match=f"{count} voxels that are NaN or infinite"):
        read_channels([path])
    found = read_channels([path], replace_nonfinite=-7.0)
    array[1, 2, 3] = -7
    np.testing.assert_array_equal(found.image[0], array)
    assert found.remarks == ("NaN or infinite voxels replaced by -7",)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_a_constant_image_is_none(tmp_path, kind):
    path = save(tmp_path / "a.nii.gz", np.full(SHAPE, 3, kind))
    with pytest.raises(DataError, match="is 3 everywhere: there is no image"):
        read_channels([path])


@pytest.mark.parametrize("spacing", [(0.0005, 1, 1), (1, 120, 1), (1, 1, 700), (1000, 1, 1)])
def test_voxels_of_a_size_that_no_scanner_gives_are_refused(tmp_path, spacing):
    path = save(tmp_path / "a.nii.gz", ramp(), np.diag([*spacing, 1.0]))
    with pytest.raises(DataError, match="the unit in its header is most likely wrong"):
        read_channels([path])


def test_integers_of_64_bits_keep_their_values(tmp_path):
    array = ramp(np.int64) + 2**53
    image = nib.Nifti1Image(array, OBLIQUE, dtype=np.int64)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_label(tmp_path / "a.nii").label, array)


def test_labels_stored_as_fractions_are_remarked(tmp_path):
    found = read_label(save(tmp_path / "a.nii.gz", ramp() % 3))
    assert found.remarks == ("floating-point labels, all whole numbers",)
    assert read_label(save(tmp_path / "b.nii.gz", ramp(np.uint8))).remarks == ()
