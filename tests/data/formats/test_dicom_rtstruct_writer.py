"""RTSTRUCT as it is written: contours filled again on the slices of the series."""

import sys

import numpy as np
import pydicom
import pytest
from dicom_written import headers, write_all, write_series
from pydicom.uid import EnhancedCTImageStorage
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.draw import polygon2mask

from wsicl_jax.data.formats.dicom import read_series
from wsicl_jax.data.formats.dicom_rtstruct_writer import write_structure_set
from wsicl_jax.errors import DataError

SHAPE = (24, 20, 6)
PLAIN = np.diag([-0.8, -1.1, 2.5, 1.0])
PLAIN[:3, 3] = 31, 12, -180
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (20, -35, 50), degrees=True).as_matrix()
OBLIQUE[:3, :3] *= (0.7, 1.3, 3.1)
OBLIQUE[:3, 3] = -11.25, 23.5, 400
REVERSED = OBLIQUE @ np.diag([1, 1, -1, 1])
NAMES = {"spleen": 300, "liver": 7, "肝臓": 9, "absent": 4}


def label():
    """A blob, a ring with a blob in its hole, one at the edge, of three values."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1)
    found = np.zeros(SHAPE, np.uint16)
    found[noise > 0.05] = 7
    found[4:15, 3:14, 1:4], found[6:13, 5:12, 1:4], found[8:11, 7:10, 1:4] = 300, 0, 300
    found[18:, 15:, 2:] = 9
    return found


def series_of(folder, affine=PLAIN, **changed):
    return write_series(folder, np.zeros(SHAPE, np.int16), affine, **changed)


def written(folder, series, affine=PLAIN, names=NAMES, given=None):
    path = folder / "rt.dcm"
    write_structure_set(path, label() if given is None else given, affine, names, series)
    return pydicom.dcmread(path)


def filled(structures, series, affine):
    """Masks by name on the grid of an affine, by the images that the contours refer to."""
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, series)}
    names = {roi.ROINumber: roi.ROIName for roi in structures.StructureSetROISequence}
    masks = {name: np.zeros(SHAPE, bool) for name in names.values()}
    into = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ affine)
    for drawn in structures.ROIContourSequence:
        for contour in drawn.get("ContourSequence", ()):
            (reference,) = contour.ContourImageSequence
            image = images[reference.ReferencedSOPInstanceUID]
            assert reference.ReferencedSOPClassUID == image.SOPClassUID
            points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
            assert len(points) == contour.NumberOfContourPoints >= 3
            # All in the plane of their image, for whoever reads them without our grid.
            along, down = np.reshape(image.ImageOrientationPatient, (2, 3)).astype(float)
            off = (points - np.array(image.ImagePositionPatient, float)) @ np.cross(along, down)
            assert abs(off).max() < 1e-4
            voxels = points @ into[:3, :3].T + into[:3, 3]
            z = round(voxels[:, 2].mean())
            np.testing.assert_allclose(voxels[:, 2], z, atol=1e-3)
            name = names[drawn.ReferencedROINumber]
            masks[name][:, :, z] |= polygon2mask(SHAPE[:2], voxels[:, :2])
    return masks


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def volume_mm3(structures, number, spacing):
    """By the areas of contours and the distance of slices, as planning systems do."""
    total = 0.0
    for contour in structures.ROIContourSequence[number].ContourSequence:
        p = np.reshape(contour.ContourData, (-1, 3)).astype(float)
        total += np.linalg.norm(np.cross(p - p[0], np.roll(p, -1, axis=0) - p[0]).sum(axis=0)) / 2
    return total * spacing


@pytest.mark.parametrize("affine", [PLAIN, OBLIQUE, REVERSED], ids=["plain", "oblique", "reversed"])
def test_contours_filled_again_are_the_label_map(tmp_path, affine):
    series = series_of(tmp_path / "s", affine)
    structures = written(tmp_path, series, affine)
    masks = filled(structures, series, affine)
    assert list(masks) == ["absent", "liver", "肝臓", "spleen"]
    assert not masks.pop("absent").any()
    for name, mask in masks.items():
        expected = label() == NAMES[name]
        assert dice(mask, expected) >= 0.98
        assert mask.sum() == pytest.approx(expected.sum(), rel=0.02)


@pytest.mark.parametrize("affine", [PLAIN, OBLIQUE], ids=["plain", "oblique"])
def test_the_grid_of_our_own_reader_fits(tmp_path, affine):
    """Whatever order and direction of slices it chooses."""
    series = series_of(tmp_path / "s", affine)
    found = read_series(series)
    given = np.zeros(SHAPE, np.uint8)
    given[3:9, 5:7, 0] = 1
    structures = written(tmp_path, series, found.affine, {"a": 1}, given)
    np.testing.assert_array_equal(filled(structures, series, found.affine)["a"], given == 1)


def test_volumes_by_contours_are_those_of_voxels(tmp_path):
    given = np.zeros(SHAPE, np.uint8)
    x, y = np.indices(SHAPE[:2])
    given[np.hypot(x - 12, y - 10) < 9.4] = 1
    given[np.hypot(x - 12, y - 10) < 4.2] = 0
    structures = written(tmp_path, series_of(tmp_path / "s"), PLAIN, {"ring": 1}, given)
    found = volume_mm3(structures, 0, 2.5)
    assert found == pytest.approx(given.sum() * 0.8 * 1.1 * 2.5, rel=0.02)


def test_a_hole_is_part_of_the_contour_around_it(tmp_path):
    """A keyhole: readers that join contours keep the hole as well."""
    given = np.zeros(SHAPE, np.uint8)
    given[4:15, 3:14, 2], given[7:9, 7:9, 2] = 1, 0
    structures = written(tmp_path, series_of(tmp_path / "s"), PLAIN, {"ring": 1}, given)
    assert len(structures.ROIContourSequence[0].ContourSequence) == 1


def test_a_structure_without_voxels_has_a_name_and_no_contours(tmp_path):
    given = np.zeros(SHAPE, np.uint8)
    structures = written(tmp_path, series_of(tmp_path / "s"), PLAIN, {"a": 1, "b": 2}, given)
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == ["a", "b"]
    assert not any("ContourSequence" in drawn for drawn in structures.ROIContourSequence)


def test_the_required_modules_are_complete(tmp_path):
    """By the tables of the standard that highdicom has."""
    checks = pytest.importorskip("highdicom._standard_utils")
    structures = written(tmp_path, series_of(tmp_path / "s"))
    for module in (
        *("patient", "general-study", "rt-series", "frame-of-reference", "general-equipment"),
        *("structure-set", "roi-contour", "rt-roi-observations", "approval", "sop-common"),
    ):
        checks.check_required_attributes(structures, module)


def test_numbers_fit_their_type_and_colours_differ(tmp_path):
    structures = written(tmp_path, series_of(tmp_path / "s"))
    colours = [tuple(drawn.ROIDisplayColor) for drawn in structures.ROIContourSequence]
    assert len(set(colours)) == 4 and all(0 <= part <= 255 for rgb in colours for part in rgb)
    contours = structures.ROIContourSequence[1].ContourSequence
    assert max(len(str(value)) for c in contours for value in c.ContourData) <= 16
    numbers = [roi.ROINumber for roi in structures.StructureSetROISequence]
    for sequence in (structures.ROIContourSequence, structures.RTROIObservationsSequence):
        assert [item.ReferencedROINumber for item in sequence] == numbers


def test_patient_study_and_references_are_those_of_the_series(tmp_path):
    made = headers(np.zeros(SHAPE, np.int16), PLAIN, SpecificCharacterSet="ISO_IR 100")
    for data in made:
        data.PatientName, data.SeriesNumber = "Müller^Jörg", 4
    found, source = written(tmp_path, write_all(tmp_path / "s", made)), made[0]
    for key in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert getattr(found, key) == getattr(source, key)
    assert str(found.PatientName) == "Müller^Jörg"
    assert found.Modality == "RTSTRUCT" and found.SeriesNumber == 2004
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    (place,) = found.ReferencedFrameOfReferenceSequence
    (study,) = place.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert place.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert study.ReferencedSOPInstanceUID == source.StudyInstanceUID
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    referenced = {image.ReferencedSOPInstanceUID for image in series.ContourImageSequence}
    assert referenced == {data.SOPInstanceUID for data in made}


def test_a_long_contour_is_written_whole(tmp_path):
    """More than 64 kB, which files with explicit types cannot hold."""
    shape = (200, 200, 2)
    given = np.zeros(shape, np.uint8)
    given[::2], given[:, ::7] = 1, 1
    series = write_series(tmp_path / "s", np.zeros(shape, np.int16), PLAIN)
    structures = written(tmp_path, series, PLAIN, {"comb": 1}, given)
    contour = structures.ROIContourSequence[0].ContourSequence[0]
    assert sum(len(str(value)) + 1 for value in contour.ContourData) > 2**16
    assert contour.NumberOfContourPoints * 3 == len(contour.ContourData)


def test_contours_on_a_file_of_many_frames_name_their_frame(tmp_path):
    one = headers(np.zeros(SHAPE, np.uint16), PLAIN)
    order = [3, 0, 1, 2, 5, 4]
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
    given = np.zeros(SHAPE, np.uint8)
    given[3:9, 5:7, 1] = 1
    structures = written(tmp_path, write_all(tmp_path / "s", [data]), PLAIN, {"a": 1}, given)
    (contour,) = structures.ROIContourSequence[0].ContourSequence
    # The last slice comes first in `headers`, so this one is number 4 of them.
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 1 + order.index(4)


@pytest.mark.parametrize(
    ("changed", "names", "expected"),
    [
        ({"FrameOfReferenceUID": ""}, {"a": 1}, "000.dcm has no FrameOfReferenceUID.*another"),
        ({}, {"x" * 65: 1}, "64 characters without backslash, got 'x+', of 65; rename"),
        ({}, {"a\\b": 1}, r"without backslash, got 'a\\\\b'"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, changed, names, expected):
    series = series_of(tmp_path / "s", **changed)
    with pytest.raises(DataError, match=expected):
        written(tmp_path, series, PLAIN, names, np.ones(SHAPE, np.uint8))
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_files_of_several_series_are_refused(tmp_path):
    two = [*series_of(tmp_path / "s")[:3], *series_of(tmp_path / "t")[3:]]
    with pytest.raises(DataError, match=r"000\.dcm and .*005\.dcm: files of several series; give"):
        written(tmp_path, two)


def test_a_file_that_is_no_image_is_refused(tmp_path):
    written(tmp_path, series_of(tmp_path / "s"))
    with pytest.raises(DataError, match=r"rt\.dcm has no Rows in its header, which RTSTRUCT needs"):
        written(tmp_path, [tmp_path / "rt.dcm"])


def test_a_label_map_of_another_grid_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"dcm does not lie on the grid of the label map"):
        written(tmp_path, series_of(tmp_path / "s"), OBLIQUE)


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    series = series_of(tmp_path / "s")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"needs pydicom.*pip install 'wsicl_jax\[dicom\]'"):
        write_structure_set(tmp_path / "rt.dcm", label(), PLAIN, NAMES, series)


@pytest.mark.slow
def test_rt_utils_reads_the_structures(tmp_path):
    """It moves corners to whole pixels, so its masks have some pixels more at their borders."""
    reader = pytest.importorskip("rt_utils")
    shape, affine = (64, 64, 4), np.diag([-0.8, -0.8, 2.5, 1])
    given = np.zeros(shape, np.uint8)
    x, y = np.indices(shape[:2])
    distance = np.hypot(x - 34, y - 27)
    given[(distance < 25) & (distance > 12)], given[distance < 5] = 1, 2
    series = write_series(tmp_path / "s", np.zeros(shape, np.int16), affine)
    written(tmp_path, series, affine, {"ring": 1, "middle": 2}, given)
    found = reader.RTStructBuilder.create_from(str(tmp_path / "s"), str(tmp_path / "rt.dcm"))
    assert found.get_roi_names() == ["ring", "middle"]
    for value, name in enumerate(found.get_roi_names(), start=1):
        mask = found.get_roi_mask_by_name(name)  # (row, column, slice)
        assert dice(mask, (given == value).transpose(1, 0, 2)) > 0.9
