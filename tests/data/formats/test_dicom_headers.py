"""DICOM files whose headers say something else than they should."""

import contextlib
import copy

import numpy as np
import pydicom
import pytest
from dicom_written import headers, write_all, write_segmentation, write_series
from pydicom.dataelem import DataElement
from pydicom.uid import generate_uid

from wsicl_jax.data.formats.dicom import read_series, scan, series_in
from wsicl_jax.data.formats.dicom_seg import read_segmentation
from wsicl_jax.data.images import read_volume
from wsicl_jax.errors import DataError, WsiclError

SHAPE = (6, 5, 4)
AFFINE = np.array([[-0.7, 0, 0, 60], [0, -1.3, 0, 70], [0, 0, 3.1, -90], [0, 0, 0, 1.0]])
ARRAY = np.arange(120, dtype=np.int16).reshape(SHAPE)


def with_type(file, keyword, kind):
    """A file again, an element of whose header says that it is of another type."""
    tag = pydicom.tag.Tag(keyword)
    before = tag.group.to_bytes(2, "little") + tag.elem.to_bytes(2, "little")
    before += pydicom.datadict.dictionary_VR(tag).encode()
    content = file.read_bytes()
    assert content.count(before) == 1
    file.write_bytes(content.replace(before, before[:4] + kind))


@pytest.mark.parametrize("keyword", ["PatientID", "SeriesDescription", "AccessionNumber"])
def test_an_unknown_type_of_an_unneeded_element_is_ignored(tmp_path, keyword):
    files = write_series(tmp_path, ARRAY, AFFINE)
    for file in files:
        with_type(file, keyword, b"ZZ")
    np.testing.assert_array_equal(read_series(files).voxels, ARRAY)
    ((series,), _, damaged) = scan(tmp_path)
    assert len(series.files) == 4 and not damaged


@pytest.mark.parametrize("keyword", ["Rows", "PixelSpacing", "SOPClassUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("kind", [b"ZZ", b"\x06\x00"])
def test_an_unknown_type_of_a_needed_element_is_reported(tmp_path, keyword, kind):
    files = write_series(tmp_path, ARRAY, AFFINE)
    with_type(files[2], keyword, kind)
    with pytest.raises(DataError, match=r"002\.dcm"):
        read_series(files)


@pytest.mark.parametrize(
    "keyword",
    [
        *("SOPClassUID", "SeriesInstanceUID", "Rows", "NumberOfFrames"),
        *("PhotometricInterpretation", "RescaleSlope", "SamplesPerPixel"),
    ],
)
def test_two_values_of_a_single_valued_element_are_reported(tmp_path, keyword):
    made = headers(ARRAY, AFFINE, RescaleSlope="1", RescaleIntercept="0", NumberOfFrames="1")
    element = made[1][keyword]
    made[1][keyword] = DataElement(element.tag, element.VR, [element.value] * 2)
    files = write_all(tmp_path, made)
    with pytest.raises(DataError, match=rf"001\.dcm has 2 values of .*{keyword}"):
        read_series(files)
    if keyword in ("SOPClassUID", "SeriesInstanceUID", "Rows"):
        assert list(scan(tmp_path)[2]) == [files[1]]


def test_an_element_that_should_be_a_sequence_is_reported(tmp_path):
    made = headers(ARRAY, AFFINE)
    made[0].add(DataElement("SharedFunctionalGroupsSequence", "LO", "x"))
    with pytest.raises(DataError, match="SharedFunctionalGroupsSequence of type LO"):
        read_series(write_all(tmp_path, made))


@pytest.mark.parametrize("seed", range(60))
def test_whatever_a_header_says_only_errors_of_use_come(tmp_path, seed):
    """Bytes of headers are changed; the pixels are not."""
    rng = np.random.default_rng(seed)
    kind = ("image", "segmentation")[seed % 2]
    files = write_series(tmp_path / "image", ARRAY, AFFINE)
    spoilt = files[1]
    if kind == "segmentation":
        spoilt = write_segmentation(tmp_path / "seg.dcm", files, {"a": ARRAY > 50})
    content = bytearray(spoilt.read_bytes())
    end = content.find(b"\xe0\x7f\x10\x00") + 8
    for place in rng.integers(132, end, rng.integers(1, 6)):
        content[place] = rng.integers(256)
    spoilt.write_bytes(content)
    for read in (
        lambda: read_series(files),
        lambda: scan(tmp_path),
        lambda: read_segmentation([tmp_path / "seg.dcm"], {"a": 1}, SHAPE, AFFINE),
    ):
        with contextlib.suppress(WsiclError):
            read()


def contours():
    data = copy.deepcopy(headers(ARRAY, AFFINE)[0])
    for key in ("Rows", "Columns", "PixelData"):
        delattr(data, key)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    data.SeriesInstanceUID, data.Modality = generate_uid(), "RTSTRUCT"
    return data


def test_contours_are_refused_with_a_remedy(tmp_path):
    write_all(tmp_path, [contours()])
    with pytest.raises(DataError, match=r"000\.dcm holds contours \(RTSTRUCT\).*label map"):
        read_volume(tmp_path / "000.dcm")
    with pytest.raises(DataError, match="folder without DICOM images"):
        read_volume(tmp_path)


def test_a_segmentation_is_no_image(tmp_path):
    files = write_series(tmp_path / "image", ARRAY, AFFINE)
    path = write_segmentation(tmp_path / "seg.dcm", files, {"a": ARRAY > 50})
    with pytest.raises(DataError, match=r"DICOM-SEG.*mask of an image"):
        read_volume(path)


def test_a_report_is_no_image(tmp_path):
    data = contours()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    write_all(tmp_path, [data])
    with pytest.raises(DataError, match="holds no image: Basic Text SR"):
        read_volume(tmp_path / "000.dcm")


def test_a_folder_of_one_series_is_an_image(tmp_path):
    write_series(tmp_path / "a", ARRAY, AFFINE)
    write_all(tmp_path / "a" / "other", [contours()])
    found = read_volume(tmp_path / "a")
    np.testing.assert_array_equal(found.image, ARRAY)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-6)
    write_series(tmp_path / "b", ARRAY, AFFINE, SeriesDescription="late phase")
    with pytest.raises(
        DataError, match=r"2 DICOM series \(.*late phase \(4 files\).*folder of one"
    ):
        series_in(tmp_path)
