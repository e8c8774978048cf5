"""DICOM-SEG as it is written: read by highdicom and pydicom, and by our own reader."""

import itertools
import sys

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_written import headers, write_all, write_series
from pydicom.uid import EnhancedCTImageStorage
from scipy.spatial.transform import Rotation

from wsicl_jax.data.formats.dicom import read_series
from wsicl_jax.data.formats.dicom_seg import read_segmentation
from wsicl_jax.data.formats.dicom_seg_writer import write_segmentation
from wsicl_jax.errors import DataError

SHAPE = (6, 5, 4)
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
AFFINE[:3, :3] *= (0.7, 1.3, 3.1)
AFFINE[:3, 3] = -11.25, 23.5, 400
NAMES = {"spleen": 300, "liver": 7, "肝臓": 9}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A series; its slices are read in another order than its files stand."""
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    return write_series(tmp_path_factory.mktemp("series"), array, AFFINE)


def label():
    found = np.zeros(SHAPE, np.uint16)
    found[0:2, 1:4, 1], found[3, 0, 0:3], found[5, 2:4, 3] = 7, 300, 9
    return found


def written(tmp_path, series, label, affine, names=NAMES):
    write_segmentation(tmp_path / "seg.dcm", label, affine, names, series)
    return tmp_path / "seg.dcm"


def test_the_label_map_is_read_again_on_the_grid_of_the_series(tmp_path, series):
    found = read_series(series)
    file = written(tmp_path, series, label(), found.affine)
    again = read_segmentation([file], NAMES, SHAPE, found.affine)
    np.testing.assert_array_equal(again, label())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_axes_of_the_label_map_may_run_in_any_order_and_direction(tmp_path, series, order):
    """Written from a turned label map, it is the same file for whoever reads it."""
    flips = [axis for axis in range(3) if (axis + order[0]) % 2]
    affine = AFFINE.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (SHAPE[axis] - 1)
        affine[:3, axis] *= -1
    turned = np.flip(label(), flips).transpose(order)
    file = written(tmp_path, series, turned, affine[:, [*order, 3]])
    np.testing.assert_array_equal(read_segmentation([file], NAMES, SHAPE, AFFINE), label())


def test_highdicom_finds_segments_frames_and_references(tmp_path, series):
    seg = hd.seg.segread(written(tmp_path, series, label(), AFFINE))
    assert [seg.get_segment_description(n).segment_label for n in (1, 2, 3)] == [
        *("liver", "肝臓", "spleen"),
    ]
    images = {data.SOPInstanceUID: data for data in map(pydicom.dcmread, series)}
    masks = seg.get_pixels_by_source_instance(list(images), ignore_spatial_locations=False)
    for frame, image in zip(masks, images.values(), strict=True):
        z = SHAPE[2] - image.InstanceNumber
        expected = np.stack([value == label()[:, :, z].T for value in (7, 9, 300)], axis=-1)
        np.testing.assert_array_equal(frame, expected)


def test_patient_and_study_are_those_of_the_series_in_any_alphabet(tmp_path):
    made = headers(np.zeros(SHAPE, np.int16), AFFINE, SpecificCharacterSet="ISO_IR 100")
    for data in made:
        data.PatientName, data.SeriesNumber = "Müller^Jörg", 4
    file = written(tmp_path, write_all(tmp_path / "s", made), label(), AFFINE)
    found, source = pydicom.dcmread(file), made[0]
    for key in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert getattr(found, key) == getattr(source, key)
    assert str(found.PatientName) == "Müller^Jörg"
    assert found.SeriesInstanceUID != source.SeriesInstanceUID and found.Modality == "SEG"
    assert found.SeriesNumber == 1004
    (reference,) = found.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(reference.ReferencedInstanceSequence) == SHAPE[2]


def test_a_series_that_was_anonymised_may_lack_what_may_be_empty(tmp_path):
    made = headers(np.zeros(SHAPE, np.int16), AFFINE)
    for data in made:
        for key in ("PatientName", "PatientBirthDate", "AccessionNumber", "StudyID", "StudyDate"):
            delattr(data, key)
    file = written(tmp_path, write_all(tmp_path / "s", made), label(), AFFINE)
    np.testing.assert_array_equal(read_segmentation([file], NAMES, SHAPE, AFFINE), label())


def test_a_file_of_many_frames_is_a_series_too(tmp_path):
    """As enhanced objects have it, the frames in any order."""
    one = headers(np.zeros(SHAPE, np.uint16), AFFINE)
    order = [3, 0, 1, 2]
    data = one[0]
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    data.NumberOfFrames, data.PixelData = len(order), b"".join(one[i].PixelData for i in order)
    shared, own = pydicom.Dataset(), []
    measures, turn = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = data.PixelSpacing, data.SliceThickness
    turn.ImageOrientationPatient = data.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    for i in order:
        frame, place = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = one[i].ImagePositionPatient
        frame.PlanePositionSequence = [place]
        own.append(frame)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], own
    for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(data, key)
    series = write_all(tmp_path / "s", [data])
    file = written(tmp_path, series, label(), read_series(series).affine)
    np.testing.assert_array_equal(read_segmentation([file], NAMES, SHAPE, AFFINE), label())


def test_an_empty_prediction_is_written_without_a_warning(tmp_path, series, caplog):
    file = written(tmp_path, series, np.zeros(SHAPE, np.uint8), AFFINE)
    assert not read_segmentation([file], NAMES, SHAPE, AFFINE).any()
    assert not caplog.records


@pytest.mark.parametrize(
    ("shape", "moved"), [((6, 5, 3), 0.0), ((6, 5, 4), 0.4), ((6, 5, 4), 60.0)]
)
def test_a_label_map_of_another_grid_is_refused(tmp_path, series, shape, moved):
    affine = AFFINE.copy()
    affine[:3, 3] += moved
    with pytest.raises(DataError, match=r"dcm does not lie on the grid of the label map"):
        written(tmp_path, series, np.zeros(shape, np.uint8), affine)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("degrees", [2, 45])
def test_a_grid_that_is_turned_against_the_series_is_refused(tmp_path, series, degrees):
    turned, affine = Rotation.from_euler("z", degrees, degrees=True).as_matrix(), AFFINE.copy()
    affine[:3, :3] = AFFINE[:3, :3] @ turned
    with pytest.raises(DataError, match="does not lie on the grid"):
        written(tmp_path, series, label(), affine)


def test_a_name_too_long_for_dicom_is_refused(tmp_path, series):
    with pytest.raises(DataError, match=r"64 characters, 'x+' has 65; rename"):
        written(tmp_path, series, label(), AFFINE, {"x" * 65: 7, "b": 9, "c": 300})


def test_a_series_without_attributes_for_references_is_reported(tmp_path):
    made = headers(np.zeros(SHAPE, np.int16), AFFINE)
    for data in made:
        del data.StudyInstanceUID
    series = write_all(tmp_path / "s", made)
    with pytest.raises(DataError, match=r"cannot be made as DICOM-SEG .*StudyInstanceUID.*another"):
        written(tmp_path, series, label(), AFFINE)
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_a_failed_write_is_reported_and_leaves_nothing(tmp_path, series, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"seg\.dcm cannot be written: No space left"):
        written(tmp_path, series, label(), AFFINE)
    assert not list(tmp_path.iterdir())


def test_without_highdicom_the_extra_is_named(tmp_path, series, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(DataError, match=r"needs highdicom.*pip install 'wsicl_jax\[dicom\]'"):
        written(tmp_path, series, label(), AFFINE)
