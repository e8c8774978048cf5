"""What image files leave unsaid, or say that cannot be: remarks, assumptions and errors."""

import nibabel as nib
import numpy as np
import pytest
from dicom_written import write_series

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.formats.writing import write_label_map
from wsicl_jax.data.images import read_channels, read_label, read_volume
from wsicl_jax.errors import DataError

SHAPE = (4, 5, 7)
SPACING = (1.5, 0.75, 3.0)
VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 7\nencoding: raw\nendian: little\n{place}\n"
META = (
    "ObjectType = Image\nNDims = 3\nDimSize = 4 5 7\nElementType = MET_SHORT\n{place}"
    "ElementDataFile = LOCAL\n"
)
DIRECTIONS = "space directions: (1.5,0,0) (0,0.75,0) (0,0,3)\n"


def nifti(path):
    image = nib.Nifti1Image(VOXELS, None)
    image.header["pixdim"][1:4] = SPACING
    nib.save(image, path)
    return path


def in_text(path, header, place):
    path.write_bytes(header.format(place=place).encode() + VOXELS.tobytes("F"))
    return path


UNORIENTED = {
    "nifti": lambda folder: nifti(folder / "a.nii.gz"),
    "nrrd": lambda folder: in_text(folder / "a.nrrd", NRRD, "spacings: 1.5 0.75 3\n"),
    "nrrd with directions in no space": lambda folder: in_text(
        folder / "a.nrrd", NRRD, f"space dimension: 3\n{DIRECTIONS}"
    ),
    "nrrd in another space": lambda folder: in_text(
        folder / "a.nrrd", NRRD, f"space: scanner-xyz\n{DIRECTIONS}"
    ),
    "metaimage": lambda folder: in_text(folder / "a.mha", META, "ElementSpacing = 1.5 0.75 3\n"),
}


@pytest.mark.parametrize("made", UNORIENTED.values(), ids=UNORIENTED)
def test_an_image_that_says_nothing_of_its_orientation_is_remarked(tmp_path, made):
    path = made(tmp_path)
    (remark,) = read_channels([path]).remarks
    assert remark.startswith("no orientation in its header, axes taken as L")
    assert "assume_orientation" in remark
    with pytest.warns(UserWarning, match="no orientation in its header"):
        volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing_mm, SPACING, rtol=1e-6)
    np.testing.assert_array_equal(volume.image, VOXELS)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SLP"])
@pytest.mark.parametrize("made", UNORIENTED.values(), ids=UNORIENTED)
def test_a_requested_orientation_means_the_same_in_all_formats(tmp_path, made, orientation):
    reading = ReadingConfig(assume_orientation=orientation)
    found = read_channels([made(tmp_path)], reading)
    assert "".join(nib.aff2axcodes(found.affine)) == orientation
    np.testing.assert_allclose(nib.affines.voxel_sizes(found.affine), SPACING, rtol=1e-6)
    middle = found.affine @ [*(np.array(SHAPE) - 1) / 2, 1]
    np.testing.assert_allclose(middle, [0, 0, 0, 1], atol=1e-6)
    assert found.remarks == (
        f"no orientation in its header, axes taken as {orientation}, as requested",
    )
    np.testing.assert_array_equal(read_label(made(tmp_path), reading).affine, found.affine)


def test_an_image_that_says_its_orientation_keeps_it(tmp_path):
    affine = np.diag([*SPACING, 1.0])
    for name in ("a.nii", "a.nrrd", "a.mha"):
        write_label_map(tmp_path / name, (VOXELS % 3).astype(np.uint8), affine, {"a": 1, "b": 2})
        found = read_channels([tmp_path / name], ReadingConfig(assume_orientation="LPS"))
        np.testing.assert_allclose(found.affine, affine, atol=1e-6)
        assert found.remarks == ()


@pytest.mark.parametrize("orientation", [None, "RAS"])
def test_a_mask_of_such_an_image_says_no_more_than_the_image(tmp_path, orientation):
    path = nifti(tmp_path / "a.nii.gz")
    affine = read_channels([path], ReadingConfig(assume_orientation=orientation)).affine
    write_label_map(tmp_path / "m.nii.gz", (VOXELS > 9).astype(np.uint8), affine, {"a": 1}, [path])
    mask = nib.load(tmp_path / "m.nii.gz")
    assert (mask.header["sform_code"], mask.header["qform_code"]) == (0, 0)
    np.testing.assert_array_equal(mask.affine, nib.load(path).affine)


@pytest.mark.parametrize(
    ("name", "header", "place"),
    [("a.nrrd", NRRD, ""), ("a.nrrd", NRRD, "spacings: 1 nan 1\n"), ("a.mha", META, "")],
)
def test_a_spacing_that_nobody_gives_is_remarked(tmp_path, name, header, place):
    found = read_channels([in_text(tmp_path / name, header, place)])
    assert "no voxel spacing in its header, taken as 1 mm" in found.remarks
    np.testing.assert_allclose(nib.affines.voxel_sizes(found.affine), (1, 1, 1))


@pytest.mark.parametrize("spacing", ["9" * 300, "1e999", "0.00001", "inf", "0", "-0"])
@pytest.mark.parametrize("read", [read_volume, read_label, lambda path: read_channels([path])])
@pytest.mark.filterwarnings("ignore:.*no orientation")
def test_an_absurd_spacing_is_an_error_that_names_it(tmp_path, spacing, read):
    for name, header, place in (
        ("a.nrrd", NRRD, "spacings: {} 1 1\n"),
        ("b.nrrd", NRRD, "space: RAS\nspace directions: ({},0,0) (0,1,0) (0,0,1)\n"),
        ("a.mha", META, "ElementSpacing = {} 1 1\n"),
    ):
        path = in_text(tmp_path / name, header, place.format(spacing))
        with pytest.raises(DataError, match=r"(mm; the unit|affine).*repair its header"):
            read(path)


@pytest.mark.parametrize(
    ("degrees", "is_taken"), [(30, True), (44, True), (46, False), (60, False)]
)
def test_axes_that_are_sheared_more_than_any_scanner_does_are_refused(tmp_path, degrees, is_taken):
    affine = np.diag([*SPACING, 1.0])
    turn = np.radians(degrees)
    affine[:3, 2] = 3 * np.array([0, np.sin(turn), np.cos(turn)])
    nib.save(nib.Nifti1Image(VOXELS, affine), tmp_path / "a.nii")
    if is_taken:
        np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine, affine, atol=1e-6)
        return
    with pytest.raises(DataError, match=f"{degrees} degrees off a right angle.*repair"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("named", ["a.hdr", "a.img"])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair, nib.Spm99AnalyzeImage])
def test_pairs_of_header_and_voxels_are_read_by_either_name(tmp_path, kind, named):
    affine = np.diag([-1.5, 0.75, 3, 1])
    kind(VOXELS, affine).to_filename(tmp_path / "a.hdr")
    (tmp_path / "a.mat").unlink(missing_ok=True)  # SPM's own, which is not read
    found = read_channels([tmp_path / named])
    np.testing.assert_array_equal(found.image[0], VOXELS)
    np.testing.assert_allclose(found.affine, nib.load(tmp_path / "a.hdr").affine, atol=1e-6)
    assert bool(found.remarks) == (kind is nib.Spm99AnalyzeImage)


def test_a_pair_without_its_voxels_is_reported(tmp_path):
    nib.Nifti1Pair(VOXELS, np.eye(4)).to_filename(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(DataError, match=r"a\.img is missing"):
        read_volume(tmp_path / "a.hdr")


def test_a_folder_of_dicom_is_an_image(tmp_path):
    affine = np.diag([-1.5, -0.75, 3, 1.0])
    files = write_series(tmp_path / "series", VOXELS, affine)
    found = read_volume(tmp_path / "series")
    np.testing.assert_array_equal(found.image, read_channels(files).image[0])
    write_series(tmp_path / "series" / "second", VOXELS, affine)
    with pytest.raises(DataError, match=r"has 2 DICOM series \(thorax.*, thorax.*; "):
        read_volume(tmp_path / "series")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        read_volume(tmp_path / "empty")


def series(folder):
    write_series(folder / "s", VOXELS, np.diag([-1.5, -0.75, 3, 1.0]))
    return folder / "s"


@pytest.mark.parametrize("made", [*UNORIENTED.values(), series], ids=[*UNORIENTED, "dicom"])
def test_what_needs_more_memory_than_is_allowed_is_not_read(tmp_path, made, monkeypatch):
    path = made(tmp_path)
    for module in ("nifti.read_bytes", "text_header.read_bytes", "dicom.read_object"):
        monkeypatch.setattr(
            f"wsicl_jax.data.formats.{module}", lambda *_, **__: pytest.fail("was read")
        )
    message = r"reading an image of 140 voxels needs .* max_memory_gb is 0.001; allow more"
    for read in (read_volume, read_label):
        with pytest.raises(DataError, match=message):
            read(path, ReadingConfig(max_memory_gb=0.001))


def test_half_of_the_machines_memory_is_the_most_for_an_image_by_default(tmp_path, monkeypatch):
    path = nifti(tmp_path / "a.nii.gz")

    class Little:
        total = 140 * 20 * 2 - 2

    monkeypatch.setattr("psutil.virtual_memory", lambda: Little)
    with pytest.raises(DataError, match="half of the machine's memory is"):
        read_channels([path])
    monkeypatch.setattr(Little, "total", Little.total + 2)
    read_channels([path])
