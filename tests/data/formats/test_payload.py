"""Which files are opened, which of their bytes are read, and which names a header may give."""

import gzip
import os
import re
import resource
import subprocess
import sys
import time
import zlib

import nibabel as nib
import numpy as np
import pytest

from wsicl_jax.data.formats.payload import read_bytes
from wsicl_jax.data.formats.text_header import files_of, numbered_names
from wsicl_jax.data.images import read_volume
from wsicl_jax.errors import DataError

NRRD = (
    "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 5 7\nencoding: {encoding}\n"
    "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n{rest}"
)
META = (
    "ObjectType = Image\nNDims = 3\nDimSize = 4 5 7\nElementType = MET_UCHAR\n"
    "ElementSpacing = 1 1 1\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n{rest}"
)
VOXELS = np.arange(140, dtype=np.uint8)
SLICES = {f"{z}.raw": VOXELS[20 * z : 20 * (z + 1)].tobytes() for z in range(7)}


def detached(folder, named, ending=".nhdr"):
    """A header that names a file of voxels."""
    path = folder / f"a{ending}"
    if ending == ".nhdr":
        path.write_text(NRRD.format(encoding="raw", rest=f"data file: {named}\n"))
    else:
        path.write_text(META.format(rest=f"ElementDataFile = {named}\n"))
    return path


def assert_read(path):
    np.testing.assert_array_equal(read_volume(path).image.ravel(order="F"), VOXELS)


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_a_header_may_name_files_beside_and_below_it(tmp_path, ending):
    (tmp_path / "below").mkdir()
    for name in ("a.raw", "below/a.raw", "a name with blanks.raw"):
        (tmp_path / name).write_bytes(VOXELS.tobytes())
        assert_read(detached(tmp_path, name, ending))
    assert_read(detached(tmp_path, tmp_path / "below" / "a.raw", ending))


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
@pytest.mark.parametrize("by", ["parent", "absolute", "link to file", "link to folder"])
def test_a_header_may_not_name_a_file_elsewhere(tmp_path, ending, by):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(VOXELS.tobytes())
    (inside / "file.raw").symlink_to(outside / "secret")
    (inside / "folder").symlink_to(outside)
    named = {
        "parent": "../out/secret",
        "absolute": outside / "secret",
        "link to file": "file.raw",
        "link to folder": "folder/secret",
    }[by]
    with pytest.raises(DataError, match="which is not beside or below it"):
        read_volume(detached(inside, named, ending))


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
@pytest.mark.parametrize("pattern", ["LIST", "%d.raw 0 6 1"])
def test_slices_in_separate_files_make_one_volume(tmp_path, ending, pattern):
    for name, content in SLICES.items():
        (tmp_path / name).write_bytes(content)
    named = "\n".join(["LIST", *SLICES]) if pattern == "LIST" else pattern
    assert_read(detached(tmp_path, named, ending))
    with pytest.raises(DataError, match=r"cannot be in 6 files"):
        read_volume(detached(tmp_path, named.replace("\n6.raw", "").replace("0 6", "0 5"), ending))


def test_every_file_of_a_list_is_checked(tmp_path):
    for name, content in SLICES.items():
        (tmp_path / name).write_bytes(content)
    for wrong in ("/etc/passwd", "../a.raw"):
        with pytest.raises(DataError, match="not beside or below"):
            read_volume(detached(tmp_path, "\n".join(["LIST", *list(SLICES)[:6], wrong])))


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("a%s.raw", "0 6 1"),
        ("a%d%d.raw", "0 6 1"),
        ("a%d%n.raw", "0 6 1"),
        ("a%99999999d.raw", "0 6 1"),
        ("a%d.raw", "0 6 0"),
        ("a%d.raw", "6 0 1"),
        ("a%d.raw", "0 999999999999 1"),
        ("a%d.raw", f"0 {'9' * 30} 1"),
        ("a%d.raw", f"0 {'9' * 5000} 1"),
    ],
)
def test_a_pattern_of_names_stands_for_a_bounded_number_of_files(tmp_path, pattern, numbers):
    with pytest.raises(DataError, match="names files by"):
        numbered_names(tmp_path / "a.nhdr", pattern, numbers.split())


def test_a_pattern_counts_down_and_pads(tmp_path):
    assert numbered_names(tmp_path, "a%03d.raw", ["9", "5", "-2"]) == [
        "a009.raw",
        "a007.raw",
        "a005.raw",
    ]


@pytest.mark.parametrize(
    "name", ["a.nii", "a.nii.gz", "a.hdr", "a.nrrd", "a.mha", "a.dcm", "a.png"]
)
@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, name, what):
    path = tmp_path / name
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    start = time.monotonic()
    with pytest.raises(DataError, match=r"no regular file|folder|0 DICOM series"):
        read_volume(path)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_voxels_come_from_regular_files_only(tmp_path, ending, what):
    (os.mkfifo if what == "pipe" else os.mkdir)(tmp_path / "a.raw")
    with pytest.raises(DataError, match=r"no regular file|is a folder"):
        read_volume(detached(tmp_path, "a.raw", ending))


def test_names_that_no_file_can_have_are_cut_in_the_message(tmp_path):
    for name, reason in (("A" * 300, "longer name"), ("a\0b", "NUL")):
        with pytest.raises(DataError, match=reason) as caught:
            read_volume(f"{name}.nii.gz")
        assert len(str(caught.value)) < 200 and "\0" not in str(caught.value)
    with pytest.raises(DataError, match="which cannot be"):
        files_of(tmp_path / "a.nhdr", ["b" * 5000])
    with pytest.raises(DataError, match="which cannot be"):
        files_of(tmp_path / "a.nhdr", ["b\0"])


def bomb(path, header):
    """Headers of small images, with 200 MB of zeros behind them, compressed."""
    with path.open("wb") as file:
        stream = zlib.compressobj(9, wbits=31)
        if path.name.endswith(".gz"):
            file.write(stream.compress(header))
        else:
            file.write(header)
        for _ in range(200):
            file.write(stream.compress(bytes(10**6)))
        file.write(stream.flush())
    return path


def test_no_more_is_unpacked_than_a_header_declares(tmp_path):
    nifti = nib.Nifti1Image(np.zeros((4, 5, 7), np.uint8), np.eye(4)).to_bytes()
    paths = [
        bomb(tmp_path / "a.nii.gz", nifti),
        bomb(tmp_path / "a.nrrd", (NRRD.format(encoding="gzip", rest="") + "\n").encode()),
        bomb(
            tmp_path / "a.mha",
            META.format(rest="CompressedData = True\nElementDataFile = LOCAL\n").encode(),
        ),
    ]
    code = (
        "import re, sys\nfrom wsicl_jax.data.images import read_volume\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\nfor path in sys.argv[1:]:\n"
        "    try:\n        read_volume(path)\n"
        "    except Exception as error:\n        print(type(error).__name__, error)\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    *told, grown = run.stdout.splitlines()
    assert len(told) == 3
    assert all(line.startswith("DataError") and "unpacks to more than" in line for line in told)
    assert int(grown) < 30_000  # kB


def test_a_small_file_that_declares_much_is_refused_before_memory_is_taken(tmp_path):
    header = NRRD.replace("4 5 7", "1000 1000 900")
    (tmp_path / "a.nrrd").write_text(header.format(encoding="raw", rest="") + "\nxx")
    (tmp_path / "b.nrrd").write_text(header.format(encoding="gzip", rest="") + "\nxx")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("a.nrrd", "b.nrrd"):
        with pytest.raises(DataError, match=r"cut off|needs .* GB"):
            read_volume(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("pieces", [1, 3])
def test_parts_that_were_compressed_one_by_one_are_one(tmp_path, pieces):
    content = np.random.default_rng(0).integers(0, 9, 3_000_000).astype(np.uint8)
    packed = b"".join(gzip.compress(part.tobytes(), 1) for part in np.split(content, pieces))
    for after in (b"", b"\0" * 1000):
        (tmp_path / "a.gz").write_bytes(packed + after)
        found = read_bytes([tmp_path / "a.gz"], len(content) - 5, skipped=5, compressed=True)
        np.testing.assert_array_equal(found, content[5:])


def test_voxels_may_lie_at_the_end_of_a_file(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"a header of another tool" + VOXELS.tobytes())
    path = tmp_path / "a.nhdr"
    path.write_text(NRRD.format(encoding="raw", rest="byte skip: -1\ndata file: a.raw\n"))
    assert_read(path)
    path = tmp_path / "a.mhd"
    path.write_text(META.format(rest="HeaderSize = -1\nElementDataFile = a.raw\n"))
    assert_read(path)


def test_lines_and_bytes_before_the_voxels_are_skipped(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"one line\nand another\n1234" + VOXELS.tobytes())
    path = tmp_path / "a.nhdr"
    path.write_text(
        NRRD.format(encoding="raw", rest="line skip: 2\nbyte skip: 4\ndata file: a.raw\n")
    )
    assert_read(path)


def test_voxels_in_text_are_read(tmp_path):
    text = "\n".join(map(str, VOXELS))
    path = tmp_path / "a.nrrd"
    path.write_text(NRRD.format(encoding="ascii", rest="\n") + text)
    assert_read(path)
    (tmp_path / "a.mha").write_text(
        META.format(rest="BinaryData = False\nElementDataFile = LOCAL\n") + text
    )
    assert_read(tmp_path / "a.mha")
    path.write_text(NRRD.format(encoding="ascii", rest="\n") + text.replace("139", "300"))
    with pytest.raises(DataError, match="no uint8"):
        read_volume(path)
    path.write_text(NRRD.format(encoding="ascii", rest="\n") + text[:-9])
    with pytest.raises(DataError, match=re.escape("it has 138 voxels of 140")):
        read_volume(path)
