"""DICOM files that could be misread in silence."""

import numpy as np
import pydicom
import pytest
from dicom_written import headers, write_all, write_segmentation, write_series
from pydicom.uid import RLELossless

from wsicl_jax.data.formats import dicom_file
from wsicl_jax.data.formats.dicom import read_series, scan
from wsicl_jax.data.formats.dicom_seg import read_segmentation
from wsicl_jax.errors import DataError

SHAPE = (6, 5, 7)
AFFINE = np.array([[-0.7, 0, 0, 60], [0, -1.3, 0, 70], [0, 0, 3.1, -90], [0, 0, 0, 1.0]])
ARRAY = np.arange(210, dtype=np.int16).reshape(SHAPE)


@pytest.mark.parametrize("length", [0, 60, 132, 200, 400, 600])
def test_a_last_slice_cut_off_in_its_header_is_no_shorter_volume(tmp_path, length):
    files = write_series(tmp_path, ARRAY, AFFINE)
    files[-1].write_bytes(files[-1].read_bytes()[:length])
    series, _, damaged = scan(tmp_path)
    assert list(damaged) == [files[-1]] and [len(s.files) for s in series] == [6]


def test_reports_are_passed_over_without_a_word(tmp_path):
    files = write_series(tmp_path, ARRAY, AFFINE)
    report = pydicom.dcmread(files[0])
    for key in ("Rows", "Columns", "PixelData"):
        delattr(report, key)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.save_as(tmp_path / "report.dcm")
    series, _, damaged = scan(tmp_path)
    assert not damaged and [len(s.files) for s in series] == [7]


def test_half_of_a_scale_is_refused(tmp_path):
    with pytest.raises(DataError, match="rescale slope 2"):
        read_series(write_series(tmp_path, ARRAY, AFFINE, RescaleSlope=2))


def test_a_scale_that_is_no_number_is_refused(tmp_path):
    made = headers(ARRAY, AFFINE, RescaleSlope="1.5", RescaleIntercept="0")
    files = write_all(tmp_path, made)
    content = files[2].read_bytes()
    assert content.count(b"1.5 ") == 1
    files[2].write_bytes(content.replace(b"1.5 ", b"abc "))
    with pytest.raises(DataError, match=r"002\.dcm has rescale slope abc"):
        read_series(files)


def test_colours_of_a_palette_are_no_grey_values(tmp_path):
    files = write_series(tmp_path, ARRAY, AFFINE, PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(DataError, match="colours"):
        read_series(files)


def test_slices_of_a_segment_wider_apart_than_the_images_are_refused(tmp_path):
    files = write_series(tmp_path / "image", ARRAY, AFFINE)
    path = write_segmentation(tmp_path / "seg.dcm", files, {"liver": ARRAY > 50})
    thin = AFFINE @ np.diag([1, 1, 0.5, 1])
    with pytest.raises(DataError, match="apart"):
        read_segmentation([path], {"liver": 1}, (6, 5, 14), thin)


def test_a_missing_decoder_is_named_and_not_called_damage(tmp_path, monkeypatch):
    files = write_series(tmp_path, ARRAY, AFFINE)
    dataset = pydicom.dcmread(files[0])
    dataset.compress(RLELossless)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"
    decoder = pydicom.pixels.get_decoder(dataset.file_meta.TransferSyntaxUID)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(DataError, match=r"JPEG Lossless.*pip install 'wsicl_jax\[dicom\]'"):
        dicom_file.frames_of(files[0], dataset)
