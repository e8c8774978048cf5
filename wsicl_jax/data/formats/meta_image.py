"""MetaImage files, attached (.mha) and detached (.mhd)."""

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

ENDINGS = (".mha", ".mhd")

_END = re.compile(rb"^[ \t]*ElementDataFile[ \t]*=(?![ \t]*LIST).*(\n|\Z)", re.MULTILINE)

_KINDS = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}

_ALIASES = {
    **dict.fromkeys(("Rotation", "Orientation"), "TransformMatrix"),
    **dict.fromkeys(("Position", "Origin"), "Offset"),
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}


def declared(path: Path) -> Declared:
    """Shape and type of a file's voxels, from its header. Raises as `read`."""
    return _volume(path).declared


def read(path: Path) -> Decoded:
    """A file's voxels and its affine in mm; several values in each voxel become channels.

    Raises:
        DataError: as that of `nrrd`.
    """
    return _volume(path).read()


def _volume(path: Path) -> DeclaredVolume:
    header = text_header(path, _END)
    fields, listed = _fields(path, header.lines)
    if fields.text("ObjectType", default="Image").lower() != "image":
        raise fields.error("ObjectType", "expected Image")
    count = dimensions(fields, "NDims")
    sizes = fields.wholes("DimSize", count, least=1)
    values = fields.whole("ElementNumberOfChannels", least=1, default=1)
    name = fields.text("ElementType").upper()
    if name not in _KINDS:
        raise fields.error("ElementType", "expected a type of numbers, such as MET_SHORT")
    is_text = not _yes(fields, "BinaryData", default=True)
    order = "=" if is_text else ">" if _yes(fields, "BinaryDataByteOrderMSB") else "<"
    skipped = fields.whole("HeaderSize", least=-1, default=0)
    is_local = fields.text("ElementDataFile").upper() == "LOCAL"
    files = (path,) if is_local else voxel_files(fields, "ElementDataFile", listed, (3,))
    affine, oriented, remarks = _place(fields, count)
    has_channels = values > 1
    return DeclaredVolume(
        path,
        (values, *sizes) if has_channels else sizes,
        tuple(range(has_channels, count + has_channels)),
        np.dtype(_KINDS[name]).newbyteorder(order),
        affine,
        files,
        header=header.size if is_local else max(0, skipped),
        skipped=None if skipped < 0 and not is_local else 0,
        compressed=_yes(fields, "CompressedData"),
        text=is_text,
        remarks=remarks,
        oriented=oriented,
    )


def _fields(path: Path, lines: tuple[str, ...]) -> tuple[Fields, list[str]]:
    """The fields of a header, and the lines after a list of files."""
    fields = Fields(path, {})
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        name = _ALIASES.get(name, name)
        if not equals or not name:
            raise DataError(
                f"{path} cannot be read as MetaImage: line {number}, {excerpt(line)!r}, is no "
                "field such as NDims = 3; the header may be damaged"
            )
        if name in fields.values:
            raise DataError(
                f"{path} cannot be read as MetaImage: it has {excerpt(name)!r} twice in its header"
            )
        fields.values[name] = value
        if name == "ElementDataFile":
            return fields, [line.strip() for line in lines[number:] if line.strip()]
    raise DataError(f"{path} cannot be read as MetaImage: its header has no 'ElementDataFile'")


def _yes(fields: Fields, name: str, *, default: bool = False) -> bool:
    word = fields.text(name, default=str(default)).lower()
    if word not in ("true", "false", "1", "0"):
        raise fields.error(name, "expected True or False")
    return word in ("true", "1")


def _place(fields: Fields, count: int) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    """The affine of the first three axes, whether the header has it, and remarks."""
    if count < 3:
        return np.eye(4), False, ()
    remarks = []
    has_spacing = "ElementSpacing" in fields.values
    if not has_spacing and "ElementSize" not in fields.values:
        remarks.append("no voxel spacing in its header, taken as 1 mm")
        spacing = np.ones(count)
    else:
        name = "ElementSpacing" if has_spacing else "ElementSize"
        spacing = np.array(fields.numbers(name, count))
    oriented = "TransformMatrix" in fields.values
    turn = np.eye(count)
    if oriented:
        # Each row is the direction of an axis.
        turn = np.array(fields.numbers("TransformMatrix", count**2)).reshape(count, count)
    origin = fields.numbers("Offset", count) if "Offset" in fields.values else [0.0] * count
    steps = turn[:3, :3] * spacing[:3, None]
    return LPS_TO_RAS @ affine_of(steps, origin[:3]), oriented, tuple(remarks)
