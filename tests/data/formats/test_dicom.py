"""DICOM series: values, order and place of slices, and what makes no volume."""

import locale
import sys
from contextlib import contextmanager

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_written import headers, write_all, write_series

from wsicl_jax.data.formats.dicom import is_dicom, read_series, scan
from wsicl_jax.errors import DataError

SHAPE = (4, 5, 7)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.linalg.qr([[1.0, 0.3, -0.2], [0.4, 1, 0.5], [0.1, -0.2, 1]])[0] * -1
OBLIQUE[:3, 2] *= np.sign(np.linalg.det(OBLIQUE[:3, :3]))
OBLIQUE[:3, :3] *= [1.5, 0.75, 3]
OBLIQUE[:3, 3] = [-20, 7.5, 100]


def ramp(dtype=np.int16):
    return np.arange(np.prod(SHAPE), dtype=dtype).reshape(SHAPE)


def test_slices_are_ordered_by_place_whatever_their_names_and_numbers(tmp_path):
    files = write_series(tmp_path, ramp(), OBLIQUE)
    for given in (files, files[::-1], files[3:] + files[:3]):
        found = read_series(given)
        np.testing.assert_array_equal(found.voxels, ramp())
        np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-6)
        assert (found.voxels.dtype, found.remarks) == (np.int16, ())


def test_a_series_is_as_gdcm_reads_it(tmp_path):
    write_series(tmp_path, ramp(np.uint16), OBLIQUE, RescaleSlope=2, RescaleIntercept=-1024)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    found = read_series(sorted(tmp_path.iterdir()))
    np.testing.assert_array_equal(found.voxels, sitk.GetArrayFromImage(image).T)
    index = (3, 1, 6)
    there = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
    np.testing.assert_allclose((found.affine @ [*index, 1])[:3], there, atol=1e-5)


@pytest.mark.parametrize(
    ("slope", "intercept", "kind"),
    [(1, 0, np.uint16), (1, -1024, np.int16), (3, 70000, np.int32), (0.5, -3, np.float32)],
)
def test_values_are_rescaled_and_whole_numbers_stay_integers(tmp_path, slope, intercept, kind):
    files = write_series(
        tmp_path, ramp(np.uint16), OBLIQUE, RescaleSlope=slope, RescaleIntercept=intercept
    )
    found = read_series(files).voxels
    assert found.dtype == kind
    np.testing.assert_allclose(found, ramp(np.float64) * slope + intercept, rtol=1e-7)


def test_each_slice_has_its_own_scale(tmp_path):
    made = headers(ramp(np.uint16), OBLIQUE)
    for number, data in enumerate(made):
        data.RescaleSlope, data.RescaleIntercept = f"{0.5 + number:.10g}", "1"
    slopes = 0.5 + np.arange(SHAPE[2])[::-1]
    found = read_series(write_all(tmp_path, made)).voxels
    np.testing.assert_allclose(found, ramp(np.float64) * slopes + 1, rtol=1e-6)


@contextmanager
def kept_locale():
    """The writer of JPEG leaves the whole process in the locale "C" when it is done."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


@pytest.mark.parametrize("codec", ["JPEG", "JPEG2000"])
def test_losslessly_compressed_files_are_read(tmp_path, codec):
    array = np.arange(40 * 50 * 3, dtype=np.int16).reshape(40, 50, 3) - 99
    plain = write_series(tmp_path / "plain", array, OBLIQUE)
    for file in plain:
        image = sitk.ReadImage(str(file))
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor(codec)
        writer.SetFileName(str(tmp_path / file.name))
        with kept_locale():
            writer.Execute(image)
    files = sorted(tmp_path.glob("*.dcm"))
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_series(files).voxels, array)


def test_slices_of_a_tilted_gantry_are_sheared_and_remarked(tmp_path):
    sheared = OBLIQUE.copy()
    sheared[:3, 2] += 0.5 * OBLIQUE[:3, 1]
    found = read_series(write_series(tmp_path, ramp(), sheared))
    np.testing.assert_allclose(found.affine, sheared, atol=1e-6)
    assert found.remarks == (f"slices sheared by {np.degrees(np.arctan(0.375 / 3)):.1f} degrees",)


def without(number):
    return lambda made: made.pop(number)


def twice(made):
    made.append(made[2])


def moved(made):
    made[2].ImagePositionPatient[2] += 0.6


def turned(made):
    made[1].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def wider(made):
    made[1].PixelSpacing = [2, 2]


def cropped(made):
    made[1].Rows -= 1
    made[1].PixelData = made[1].PixelData[: -2 * made[1].Columns]


def unplaced(made):
    del made[1].ImagePositionPatient


def coloured(made):
    for data in made:
        data.SamplesPerPixel, data.PhotometricInterpretation = 3, "RGB"


def short(made):
    made[1].PixelData = made[1].PixelData[:-10]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without(2), "not evenly spaced: 3 to 6 mm, .* 00[12].*; most likely 1 are missing there"),
        (moved, "not evenly spaced"),
        (twice, "lie at one place"),
        (turned, "unlike orientation or pixel spacing"),
        (wider, "unlike orientation or pixel spacing"),
        (cropped, r"\(4, 4\) rows and columns|\(5, 4\)"),
        (unplaced, "does not say where its slices lie"),
        (coloured, "voxels of colours"),
        (short, "cannot be read as DICOM"),
        (lambda made: made.__delitem__(slice(1, None)), "only slice of its series"),
    ],
)
def test_files_that_make_no_volume_say_why(tmp_path, spoil, reason):
    made = headers(ramp(), OBLIQUE)
    spoil(made)
    with pytest.raises(DataError, match=reason):
        read_series(write_all(tmp_path, made))


@pytest.mark.parametrize(("length", "reason"), [(0, "is empty"), (300, "cannot be read as DICOM|")])
def test_a_file_cut_off_is_named(tmp_path, length, reason):
    files = write_series(tmp_path, ramp(), OBLIQUE)
    files[2].write_bytes(files[2].read_bytes()[:length])
    with pytest.raises(DataError, match=f"002.dcm.*{reason}"):
        read_series(files)
    files[2].unlink()
    with pytest.raises(DataError, match=r"002.dcm is missing"):
        read_series(files)


def test_slices_off_by_rounding_only_are_a_volume(tmp_path):
    made = headers(ramp(), OBLIQUE)
    made[3].ImagePositionPatient[1] += 0.05
    np.testing.assert_allclose(read_series(write_all(tmp_path, made)).affine, OBLIQUE, atol=1e-6)


def test_a_file_of_many_frames_is_a_volume_too(tmp_path):
    """As enhanced objects have it: place and scale for each frame, in any order."""
    one = headers(ramp(np.uint16), OBLIQUE)
    order = [3, 0, 6, 1, 5, 2, 4]
    data = one[0]
    data.NumberOfFrames = len(order)
    data.PixelData = b"".join(one[i].PixelData for i in order)
    shared, own = pydicom.Dataset(), []
    measures, turn, scale = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing = data.PixelSpacing
    turn.ImageOrientationPatient = data.ImageOrientationPatient
    scale.RescaleSlope, scale.RescaleIntercept = 1, -5
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    shared.PixelValueTransformationSequence = [scale]
    for i in order:
        frame, place = pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = one[i].ImagePositionPatient
        frame.PlanePositionSequence = [place]
        own.append(frame)
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = own
    for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(data, key)
    found = read_series(write_all(tmp_path, [data]))
    np.testing.assert_array_equal(found.voxels, ramp() - 5)
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-6)


def test_a_folder_is_searched_for_series_by_content(tmp_path):
    files = write_series(tmp_path / "a/deep", ramp(), OBLIQUE)
    for file in files:
        file.rename(file.with_suffix(""))
    write_series(tmp_path / "b", ramp()[:, :, :3], OBLIQUE, SeriesDescription="scout", PatientID="")
    (tmp_path / "notes.txt").write_text("x" * 200)
    (tmp_path / ".hidden.dcm").write_bytes(b"")
    (tmp_path / "lost.dcm").write_bytes(b"")
    series, segmentations, damaged = scan(tmp_path)
    assert {(s.description, s.modality, s.patient, len(s.files)) for s in series} == {
        ("thorax", "CT", "P7", 7),
        ("scout", "CT", "", 3),
    }
    assert segmentations == []
    assert damaged == {tmp_path / "lost.dcm": "no DICOM header; copy it again"}
    assert is_dicom(tmp_path / "a/deep/000") and not is_dicom(tmp_path / "a")


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    files = write_series(tmp_path, ramp(), OBLIQUE)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"dcm needs pydicom.*pip install 'wsicl_jax\[dicom\]'"):
        read_series(files)
