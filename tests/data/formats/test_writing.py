"""Label maps and probabilities in every format, read back by the libraries of the formats."""

import re

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_written import write_series
from scipy.spatial.transform import Rotation

from wsicl_jax.data.formats.dicom_seg import read_segmentation
from wsicl_jax.data.formats.writing import (
    FORMATS,
    REFER_TO_SERIES,
    check_installed,
    format_of,
    write_label_map,
    write_probabilities,
)
from wsicl_jax.data.images import read_label, read_volume
from wsicl_jax.errors import DataError

SHAPE = (7, 5, 4)
NAMES = {"spleen": 3, "liver": 1, "absent": 2}


def affine(flip=False):
    """Oblique, of unequal spacings; flipped, it is left-handed."""
    found = np.eye(4)
    found[:3, :3] = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
    found[:3, :3] *= (-0.7 if flip else 0.7, 1.3, 3.1)
    found[:3, 3] = -11.25, 23.5, 400
    return found


def labels(largest=3):
    found = np.zeros(SHAPE, np.int64)
    found[0:2, 1:4, 1], found[3:6, 0, 0:3] = 1, largest
    return found


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    return write_series(tmp_path_factory.mktemp("series"), array, affine())


@pytest.mark.parametrize("largest", [3, 255, 256, 65535])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("ending", [e for e in FORMATS if e not in REFER_TO_SERIES])
def test_a_label_map_is_the_same_in_every_format(tmp_path, ending, flip, largest):
    path = tmp_path / f"a.{ending}"
    write_label_map(path, labels(largest), affine(flip), {**NAMES, "spleen": largest})
    found = read_label(path)
    np.testing.assert_array_equal(found.label, labels(largest))
    assert found.label.dtype == (np.uint8 if largest <= 255 else np.uint16)
    np.testing.assert_allclose(found.affine, affine(flip), atol=1e-4)
    # And without our own readers: where a voxel lies, and its value.
    if "nii" in ending:
        image = nib.load(path)
        value, place = int(image.dataobj[4, 0, 2]), image.affine[:3] @ [4, 0, 2, 1]
    else:
        image = sitk.ReadImage(str(path))
        lps = np.array(image.TransformIndexToPhysicalPoint((4, 0, 2)))
        value, place = image.GetPixel(4, 0, 2), lps * [-1, -1, 1]
    assert value == largest
    np.testing.assert_allclose(place, affine(flip)[:3] @ [4, 0, 2, 1], atol=1e-4)


def test_a_dicom_series_gets_segments_of_the_names(tmp_path, series):
    path = tmp_path / "a.dcm"
    write_label_map(path, labels(), affine(), NAMES, series)
    np.testing.assert_array_equal(read_segmentation([path], NAMES, SHAPE, affine()), labels())
    seg = hd.seg.segread(path)
    assert [seg.get_segment_description(n).segment_label for n in (1, 2, 3)] == [
        *("liver", "absent", "spleen"),
    ]


def test_a_segmentation_of_slicer_has_its_keys(tmp_path):
    write_label_map(tmp_path / "a.seg.nrrd", labels(9), affine(), {**NAMES, "spleen\n upper": 9})
    image = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    found = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert found["Segmentation_SourceRepresentation"] == "Binary labelmap"
    assert found["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert found["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert found["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    names, values, extents, layers, identifiers = (
        [found[f"Segment{number}_{key}"] for number in range(4)]
        for key in ("Name", "LabelValue", "Extent", "Layer", "ID")
    )
    assert names == ["liver", "absent", "spleen", "spleen upper"]
    assert values == ["1", "2", "3", "9"] and layers == ["0"] * 4
    assert extents == ["0 1 1 3 1 1", "0 -1 0 -1 0 -1", "0 -1 0 -1 0 -1", "3 5 0 0 0 2"]
    assert len(set(identifiers)) == 4 and "Segment4_ID" not in found
    colours = [tuple(map(float, found[f"Segment{n}_Color"].split())) for n in range(4)]
    assert len(set(colours)) == 4 and all(0 <= part <= 1 for rgb in colours for part in rgb)
    assert all(found[f"Segment{n}_Tags"] == "|" for n in range(4))


@pytest.mark.parametrize("ending", ["nii.gz", "nii", "nrrd", "mha"])
def test_probabilities_are_float32_in_every_format(tmp_path, ending):
    given = np.random.default_rng(0).random(SHAPE).astype(np.float16)
    path = tmp_path / f"a.{ending}"
    write_probabilities(path, given, affine())
    found = read_volume(path)
    np.testing.assert_array_equal(found.image, given.astype(np.float32))
    np.testing.assert_allclose(found.affine, affine(), atol=1e-4)
    kind = nib.load(path).get_data_dtype() if "nii" in ending else None
    assert kind == np.float32 or sitk.ReadImage(str(path)).GetPixelIDTypeAsString() == (
        "32-bit float"
    )


def test_the_geometry_of_a_nifti_source_is_kept_as_it_was_written(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine())
    image.set_sform(affine(), code=4)
    nib.save(image, tmp_path / "source.nii.gz")
    source = [tmp_path / "source.nii.gz"]
    held = read_volume(source[0]).affine
    write_label_map(tmp_path / "a.nii", labels(), held, NAMES, source)
    write_probabilities(tmp_path / "p.nii", np.zeros(SHAPE, np.float32), held, source)
    for name in ("a.nii", "p.nii"):
        found = nib.load(tmp_path / name)
        assert found.header["sform_code"] == 4
        np.testing.assert_array_equal(found.affine, nib.load(source[0]).affine)
    # Other formats take the affine.
    write_label_map(tmp_path / "a.mha", labels(), held, NAMES, source)
    np.testing.assert_allclose(read_label(tmp_path / "a.mha").affine, held)


def test_the_longest_ending_tells_the_format(tmp_path):
    names = {"a.seg.nrrd": "seg.nrrd", "A.NII.GZ": "nii.gz", "seg.nrrd": "nrrd", "x.dcm": "dcm"}
    names["x.RTSTRUCT.dcm"] = "rtstruct.dcm"
    assert {name: format_of(tmp_path / name) for name in names} == names
    with pytest.raises(DataError, match=r"a\.png ends in no format .* \.nii\.gz, "):
        format_of(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "given", "names", "reason"),
    [
        ("a.nii", np.full(SHAPE, -1), NAMES, "values from 1"),
        ("a.nii", labels(), {"a": 0}, "values from 1"),
        ("a.nii", labels(65536), NAMES, "up to 65535, got 65536"),
        ("a.seg.nrrd", labels(9), NAMES, r"values \[9\] have no name"),
        ("a.seg.nrrd", np.zeros(SHAPE, np.uint8), {}, "have no name"),
        ("a.dcm", labels(9), NAMES, r"values \[9\] have no name"),
        ("a.dcm", labels(), NAMES, "no files of one are given; choose another format"),
        ("a.rtstruct.dcm", labels(), NAMES, "RTSTRUCT refers to .* no files of one are given"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, name, given, names, reason):
    with pytest.raises(DataError, match=f"{re.escape(name)}.*{reason}"):
        write_label_map(tmp_path / name, given, affine(), names)
    assert not list(tmp_path.iterdir())


def test_dicom_of_a_target_that_is_none_is_refused(tmp_path):
    write_label_map(tmp_path / "source.nii", labels(), affine(), NAMES)
    with pytest.raises(DataError, match=r"source\.nii is no DICOM file; choose another format"):
        write_label_map(tmp_path / "a.dcm", labels(), affine(), NAMES, [tmp_path / "source.nii"])


@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.dcm"])
def test_segmentation_formats_hold_no_probabilities(tmp_path, name):
    with pytest.raises(DataError, match="holds no probabilities; use"):
        write_probabilities(tmp_path / name, np.zeros(SHAPE, np.float32), affine())


def test_a_missing_package_is_reported_first(monkeypatch):
    for ending in FORMATS:
        check_installed(ending)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"SimpleITK, which writes \.mha.*wsicl_jax\[itk\]"):
        check_installed("mha")
    with pytest.raises(DataError, match=r"highdicom, which writes \.dcm.*wsicl_jax\[dicom\]"):
        check_installed("dcm")
