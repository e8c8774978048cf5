"""Damaged image files: every mutant is read, or refused with the package's own error."""

import gzip
import os
from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_written import write_segmentation, write_series
from fuzz import failures

from wsicl_jax.data.formats import dicom, dicom_seg
from wsicl_jax.data.images import read_channels, read_label, read_volume
from wsicl_jax.errors import WsiclError

SHAPE = (6, 5, 4)
AFFINE = np.array([[0, -0.75, 0, 3], [1.5, 0, 0, -2], [0, 0, 3, 9], [0, 0, 0, 1]], float)
ARRAY = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
EACH = [50, pytest.param(2000, marks=pytest.mark.slow)]
"""Mutants of each kind of file."""

SEED = int(os.environ.get("WSICL_FUZZ_SEED", 0))

WORDS = (
    *(b"data file: LIST\n", b"data file: a%03d.raw 0 9 1", b"/dev/zero", b"../a.raw", b"LOCAL"),
    *(b"encoding: ascii", b"encoding: gzip", b"byte skip: -1", b"line skip: 9999999999"),
    *(b"kinds: domain vector domain", b"type: block", b"space: scanner-xyz", b"dimension: 4"),
    *(b"CompressedData = True", b"BinaryData = False", b"HeaderSize = -1", b"NDims = 4"),
    *(b"ElementType = MET_DOUBLE", b"ElementNumberOfChannels = 1000000", b"(nan,nan,nan)"),
    *(b"sizes: 100000 100000 100000", b"DimSize = 100000 100000 100000", b"(1e308,0,0)"),
    *(b"n+1\x00", b"ni1\x00", b"\x00" * 348, b"DICM", b"\xff" * 16),
)


def read_image(path):
    """Read in all ways, whatever the file is to be."""
    for read in (read_volume, read_label, lambda path: read_channels([path])):
        with suppress(WsiclError):
            read(path)


def read_series(path):
    """Read the folder of a file as a series, which it is the first file of."""
    for read in (read_volume, dicom.scan, lambda folder: read_channels(sorted(folder.iterdir()))):
        with suppress(WsiclError):
            read(path.parent)


def read_segmentation(path):
    """Read DICOM-SEG on the grid of its series."""
    with suppress(WsiclError):
        dicom_seg.segment_names([path])
    dicom_seg.read_segmentation([path], {"liver": 1}, SHAPE, AFFINE)


def volume():
    image = sitk.GetImageFromArray(ARRAY.T)
    image.SetSpacing((1.5, 0.75, 3))
    return image


def files_of(folder, first):
    """A seed of the files of a folder, with the first one first."""
    found = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    return {first: found.pop(first), **found}


def nifti(folder):
    image = nib.Nifti1Image(ARRAY, AFFINE)
    scaled = nib.Nifti2Image(ARRAY, AFFINE)
    scaled.header.set_slope_inter(2, -5)
    return [{"a.nii": image.to_bytes()}, {"a.nii": scaled.to_bytes()}]


def nifti_compressed(folder):
    return [
        {"a.nii.gz": gzip.compress(seed["a.nii"], mtime=0)}
        for seed in (*nifti(folder), {"a.nii": nib.Nifti1Image(ARRAY, AFFINE).to_bytes() * 2})
    ]


def pairs(folder):
    seeds = []
    for number, kind in enumerate((nib.Nifti1Pair, nib.Spm99AnalyzeImage, nib.AnalyzeImage)):
        place = folder / str(number)
        place.mkdir()
        kind(ARRAY, np.diag([-1.5, 0.75, 3, 1])).to_filename(place / "a.hdr")
        seeds.append(files_of(place, "a.hdr"))
    return seeds


def by_itk(name):
    """What ITK writes under a name, compressed and not, of one value and of two."""

    def seeds(folder):
        found = []
        several = sitk.Compose(volume(), volume())
        for number, (image, compressed) in enumerate(
            ((volume(), False), (volume(), True), (several, False))
        ):
            place = folder / str(number)
            place.mkdir()
            sitk.WriteImage(image, place / name, compressed)
            found.append(files_of(place, name))
        return found

    return seeds


def listed(folder):
    """Headers that name a file for each slice."""
    slices = {f"{z}.raw": ARRAY[:, :, z].tobytes("F") for z in range(SHAPE[2])}
    names = "\n".join(slices)
    nrrd = "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 4\nencoding: raw\nendian: little\n"
    meta = (
        "ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\n"
        "ElementSpacing = 1 2 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = "
    )
    return [
        {"a.nhdr": f"{nrrd}data file: LIST\n{names}\n".encode(), **slices},
        {"a.nhdr": f"{nrrd}spacings: 1 2 3\ndata file: %d.raw 0 3 1\n".encode(), **slices},
        {"a.mhd": f"{meta}LIST\n{names}\n".encode(), **slices},
        {"a.mhd": f"{meta}%d.raw 0 3 1\n".encode(), **slices},
        {"a.nrrd": f"{nrrd.replace('raw', 'ascii')}\n{' '.join(map(str, ARRAY.ravel()))}".encode()},
    ]


def series(folder):
    write_series(folder, ARRAY, AFFINE)
    return [files_of(folder, "000.dcm")]


def segmentation(folder):
    files = write_series(folder / "series", ARRAY, AFFINE)
    write_segmentation(folder / "seg" / "seg.dcm", files, {"liver": ARRAY > 50})
    return [files_of(folder / "seg", "seg.dcm")]


def label_maps(folder):
    label = (ARRAY % 3).astype(np.float32)
    place = folder / "nrrd"
    place.mkdir()
    image = sitk.GetImageFromArray((ARRAY % 3).astype(np.uint8).T)
    for name in ("Segment0_ID", "Segment0_LabelValue", "Segment0_Extent"):
        image.SetMetaData(name, "1")
    sitk.WriteImage(image, place / "a.seg.nrrd", True)
    return [
        {"a.nii": nib.Nifti1Image(label, AFFINE).to_bytes()},
        files_of(place, "a.seg.nrrd"),
    ]


FILES = (
    *(nifti, nifti_compressed, pairs, by_itk("a.nrrd"), by_itk("a.nhdr"), by_itk("a.mha")),
    *(by_itk("a.mhd"), listed, label_maps),
)


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize(
    ("kinds", "read"),
    [(FILES, read_image), ((series,), read_series), ((segmentation,), read_segmentation)],
    ids=["files", "dicom", "dicom-seg"],
)
def test_a_damaged_image_is_read_or_refused(tmp_path, kinds, read, each):
    valid = []
    for number, seeds in enumerate(kinds):
        folder = tmp_path / f"seeds-{number}"
        folder.mkdir()
        valid += seeds(folder)
    count = each * len(kinds)
    found = failures(read, valid, tmp_path, count=count, seed=SEED, words=WORDS)
    assert not found, "\n".join(map(str, found))
