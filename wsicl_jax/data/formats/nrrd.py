"""NRRD files, attached (.nrrd) and detached (.nhdr)."""

import math
import re
from pathlib import Path

import numpy as np

from wsicl_jax.data.formats.decoded import Declared, Decoded
from wsicl_jax.data.formats.payload import excerpt
from wsicl_jax.data.formats.text_header import (
    LPS_TO_RAS,
    DeclaredVolume,
    Fields,
    affine_of,
    dimensions,
    text_header,
    voxel_files,
)
from wsicl_jax.errors import DataError

ENDINGS = (".nrrd", ".nhdr")

_END = re.compile(rb"\r?\n\r?\n")
_MAGIC = re.compile(r"NRRD000\d")

_INTEGERS = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        *("longlong", "long long", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
}
_KINDS = {
    **{name: kind for kind, names in _INTEGERS.items() for name in names},
    **{"float": "f4", "double": "f8"},
}

_FIELDS = {
    *("dimension", "type", "block size", "encoding", "endian", "content", "old min", "old max"),
    *("min", "max", "data file", "line skip", "byte skip", "number", "sample units", "sizes"),
    *("spacings", "thicknesses", "axis mins", "axis maxs", "centers", "labels", "units", "kinds"),
    *("space", "space dimension", "space units", "space origin", "space directions"),
    *("measurement frame",),
}
_ALIASES = {
    **{"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"},
    **{
        "oldmin": "old min",
        "oldmax": "old max",
        "blocksize": "block size",
        "centerings": "centers",
    },
    **{"axismins": "axis mins", "axismaxs": "axis maxs", "sampleunits": "sample units"},
}

_SIGNS = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
"""Signs that turn the axes of each space to RAS+."""

_DOMAINS = ("domain", "space", "time", "???", "none")
"""Kinds of axes in space and time; all others hold the values of one voxel."""

_VECTOR = re.compile(r"none|\(([^()]*)\)", re.IGNORECASE)


def declared(path: Path) -> Declared:
    """Shape and type of a file's voxels, from its header. Raises as `read`."""
    return _volume(path).declared


def read(path: Path) -> Decoded:
    """A file's voxels and its affine in mm; several values in each voxel become channels.

    Raises:
        DataError: the file, or one that it names, is missing, empty, damaged, elsewhere than
            beside or below the header, or holds fewer bytes than declared; it is of colours, or
            not of 3 dimensions, or of 4 with frames.
    """
    return _volume(path).read()


def _volume(path: Path) -> DeclaredVolume:
    header = text_header(path, _END)
    fields, names = _fields(path, header.lines)
    count = dimensions(fields, "dimension")
    sizes = fields.wholes("sizes", count, least=1)
    encoding = fields.text("encoding").lower()
    if encoding not in ("raw", "gz", "gzip", "txt", "text", "ascii"):
        raise fields.error("encoding", "expected raw, gzip or ascii")
    kind = _kind(fields, is_text=encoding[0] in "ta")
    named = fields.values.get("data file")
    if named is None and path.name.lower().endswith(".nhdr"):
        raise DataError(f"{path} names no file of voxels (data file); expected one beside it")
    skipped = fields.whole("byte skip", least=-1, default=0)
    files = (path,) if named is None else voxel_files(fields, "data file", names, (3, 4))
    spatial, affine, oriented, remarks = _place(fields, sizes)
    return DeclaredVolume(
        path,
        sizes,
        spatial,
        kind,
        affine,
        files,
        header=header.size if named is None else 0,
        skipped_lines=fields.whole("line skip", default=0),
        skipped=None if skipped < 0 else skipped,
        compressed=encoding in ("gz", "gzip"),
        text=encoding in ("txt", "text", "ascii"),
        remarks=remarks,
        oriented=oriented,
    )


def _fields(path: Path, lines: tuple[str, ...]) -> tuple[Fields, list[str]]:
    """The fields of a header, and the lines after a list of files."""
    if not lines or not _MAGIC.fullmatch(lines[0].strip()):
        raise DataError(f"{path} cannot be read as NRRD: its first line is not that of NRRD")
    fields = Fields(path, {})
    for number, line in enumerate(lines[1:], 2):
        if not line.strip() or line.startswith("#") or ":=" in line:
            continue
        name, colon, value = line.partition(": ")
        if not colon:
            name, colon, value = line.partition(":")
        name = _ALIASES.get(name.strip().lower(), name.strip().lower())
        if not colon or name not in _FIELDS:
            raise DataError(
                f"{path} cannot be read as NRRD: line {number}, {excerpt(line)!r}, is no field; "
                "the header may be damaged"
            )
        if name in fields.values:
            raise DataError(f"{path} cannot be read as NRRD: it has {name!r} twice in its header")
        fields.values[name] = value.strip()
        if name == "data file" and value.split()[:1] == ["LIST"]:
            return fields, [line.strip() for line in lines[number:] if line.strip()]
    return fields, []


def _kind(fields: Fields, *, is_text: bool) -> np.dtype:
    name = " ".join(fields.text("type").lower().split())
    if name not in _KINDS:
        raise fields.error("type", "expected a type of numbers, such as short or float")
    kind = np.dtype(_KINDS[name])
    if kind.itemsize == 1 or is_text:
        return kind
    endian = fields.text("endian").lower()
    if endian not in ("little", "big"):
        raise fields.error("endian", "expected little or big")
    return kind.newbyteorder("<" if endian == "little" else ">")


def _place(
    fields: Fields, sizes: tuple[int, ...]
) -> tuple[tuple[int, ...], np.ndarray, bool, tuple[str, ...]]:
    """The axes in space, their affine, whether the header has it, and remarks."""
    kinds = fields.values.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    if len(kinds) != len(sizes):
        raise fields.error("kinds", f"expected {len(sizes)} words, one for each axis")
    space = fields.values.get("space", "").lower()
    is_known = space.removesuffix("-time") in _SIGNS
    remarks: tuple[str, ...] = ()
    if "space directions" in fields.values:
        dimension = 3 + space.endswith("-time")
        if "space" not in fields.values:
            dimension = fields.whole("space dimension", least=1, default=3)
        if dimension not in (3, 4):
            raise fields.error("space dimension", "expected 3, or 4 with time")
        vectors = _vectors(fields, len(sizes), dimension)
        spatial = tuple(axis for axis, vector in enumerate(vectors) if vector is not None)
        steps = np.array([vectors[axis][:3] for axis in spatial[:3]])
        origin = _origin(fields, dimension)[:3]
    else:
        is_known, origin = False, [0.0] * 3
        spatial = tuple(axis for axis, kind in enumerate(kinds) if kind in _DOMAINS)
        spacings = [math.nan] * len(sizes)
        if "spacings" in fields.values:
            spacings = fields.numbers("spacings", len(sizes))
        chosen = [spacings[axis] for axis in spatial[:3]]
        if any(map(math.isnan, chosen)):
            remarks = ("no voxel spacing in its header, taken as 1 mm",)
        steps = np.diag([1.0 if math.isnan(step) else step for step in chosen])
    if len(spatial) < 3:
        return spatial, np.eye(4), False, ()
    to_ras = np.diag([*_SIGNS[space.removesuffix("-time")], 1.0]) if is_known else LPS_TO_RAS
    return spatial, to_ras @ affine_of(steps, origin), is_known, remarks


def _vectors(fields: Fields, count: int, dimension: int) -> list[list[float] | None]:
    """The step along each axis; None along one that is not in space."""
    text = fields.text("space directions")
    matches = list(_VECTOR.finditer(text))
    if len(matches) != count or _VECTOR.sub("", text).strip():
        raise fields.error("space directions", f"expected {count} vectors such as (1,0,0), or none")
    steps = [
        None
        if match[1] is None
        else fields.numbers("space directions", dimension, match[1].replace(",", " "))
        for match in matches
    ]
    return [None if step is None or all(map(math.isnan, step)) else step for step in steps]


def _origin(fields: Fields, dimension: int) -> list[float]:
    if "space origin" not in fields.values:
        return [0.0] * dimension
    text = fields.text("space origin")
    if not (text.startswith("(") and text.endswith(")")):
        raise fields.error("space origin", "expected a vector such as (1,0,0)")
    return fields.numbers("space origin", dimension, text[1:-1].replace(",", " "))
