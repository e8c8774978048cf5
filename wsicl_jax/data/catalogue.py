"""The properties of a case without its voxels: one line of a store's catalogue.

The case's own metadata has the same entry. A catalogue is JSON, one line per case, each with a
checksum: pandas reads it with `read_json(..., lines=True)`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box, Shape3, spacing_of
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.storage.digests import has_valid_digest, is_valid_line, to_line, with_digest
from wsicl_jax.storage.documents import checked, parse_json


@dataclass(frozen=True, eq=False)
class Case:
    """A case of a store."""

    name: str
    subject: str
    """One subject may have several cases."""
    shape: Shape3
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    voxel_counts: dict[int, int]
    """Voxels of each label of the case, without background."""
    boxes: dict[int, Box]
    """Tight box of each label of the case."""
    digest: str
    """Hash of its image, label map and affine."""
    source: "SourceGrid"
    """Its original files and grid."""
    remarks: tuple[str, ...] = ()
    """Unusual properties of its files."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis."""
        return spacing_of(self.affine)

    @property
    def orientation(self) -> str:
        """Directions of its axes, such as RAS: right, anterior, superior."""
        from nibabel import orientations

        return "".join(code or "?" for code in orientations.aff2axcodes(self.affine))


class SourceFile(NamedTuple):
    """An original file. Size and time show whether it has changed."""

    name: str
    """Below the folder of the data set."""
    size: int
    """Bytes."""
    changed_ns: int
    """Time of its last change, in nanoseconds since 1970."""


@dataclass(frozen=True, eq=False)
class SourceGrid:
    """The original files of a case, and the mapping between their grid and the store's."""

    files: tuple[SourceFile, ...]
    affine: Float[np.ndarray, "4 4"]
    """From the files' voxel indices to RAS+ millimetres, float64."""
    grid: WorkingGrid
    """The mapping between the files' voxels and the store's."""
    intensities: tuple[tuple[float, float], ...] | None = None
    """The values that became 0 and 1, for each channel; None: intensities were not scaled."""


_FAR_FROM_SINGULAR = 1e-9
"""Volume of a voxel, as a share of the cube of its largest component, above which the affine
surely has an inverse."""


def is_case_name(name: str) -> bool:
    """Whether a name is valid for a directory in a store, on every operating system."""
    return bool(name) and not name.startswith((".", "__")) and not re.search(r"[/\\\x00]", name)


@lru_cache(maxsize=16)  # a case and its source often have the same
def _checked_affine(rows: tuple) -> np.ndarray:
    affine = np.array(rows, np.float64)
    if not is_affine(affine):
        raise ValueError("the affine is singular or no affine")
    affine.flags.writeable = False
    return affine


def is_affine(affine: Float[np.ndarray, "4 4"]) -> bool:
    """Whether a matrix is a finite, invertible affine."""
    (a, b, c, _), (d, e, f, _), (g, h, i, _), last = affine.tolist()
    if last != [0, 0, 0, 1] or not np.isfinite(affine).all():
        return False
    volume = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    # Far from singular. The rank takes more time than all else about a case.
    if volume > _FAR_FROM_SINGULAR * max(map(abs, (a, b, c, d, e, f, g, h, i))) ** 3:
        return True
    return bool(np.linalg.matrix_rank(affine[:3, :3]) == 3)


def _checked_name(name: str) -> str:
    if not is_case_name(name):
        raise ValueError("is no name of a case")
    return name


_RULES = ConfigDict(strict=True, frozen=True, arbitrary_types_allowed=True)
_Count = Annotated[int, Field(ge=0, lt=2**48)]
_Side = Annotated[int, Field(ge=1, lt=2**31)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
# JSON has only lists, which strict tuples refuse.
_Loose = Field(strict=False)
_Sides = Annotated[tuple[_Side, _Side, _Side], _Loose]
_Index = Annotated[tuple[_Count, _Count, _Count], _Loose]
_Ends = Annotated[tuple[_Index, _Index], _Loose, AfterValidator(lambda ends: Box(*ends))]
_Row = Annotated[tuple[_Number, _Number, _Number, _Number], _Loose]
_Affine = Annotated[tuple[_Row, _Row, _Row, _Row], _Loose, AfterValidator(_checked_affine)]


class _LabelEntry(BaseModel):
    model_config = _RULES

    voxels: _Count
    box: _Ends


class _SourceEntry(BaseModel):
    model_config = _RULES

    files: list[Annotated[tuple[str, _Count, int], _Loose]]
    shape: _Sides
    affine: _Affine
    order: Annotated[tuple[_Count, _Count, _Count], _Loose]
    flips: Annotated[tuple[bool, bool, bool], _Loose]
    crop: _Ends | None
    intensities: list[Annotated[tuple[_Number, _Number], _Loose]] | None

    @model_validator(mode="after")
    def _check(self) -> "_SourceEntry":
        if sorted(self.order) != [0, 1, 2]:
            raise ValueError(f"order is {self.order}; expected 0, 1 and 2 in some order")
        if self.crop and not _lies_in(self.crop, tuple(self.shape[a] for a in self.order)):
            raise ValueError("crop does not lie in the image")
        return self


class _CaseEntry(BaseModel):
    model_config = _RULES

    case: Annotated[str, AfterValidator(_checked_name)]
    subject: str
    shape: _Sides
    affine: _Affine
    labels: dict[Annotated[int, Field(ge=1, strict=False)], _LabelEntry]
    digest: str
    source: _SourceEntry
    remarks: list[str]

    @model_validator(mode="after")
    def _check(self) -> "_CaseEntry":
        for value, label in self.labels.items():
            if not _lies_in(label.box, self.shape):
                raise ValueError(f"the box of label {value} does not lie in the image")
        return self


_ENTRIES = TypeAdapter(_CaseEntry)


def _lies_in(box: Box, shape: tuple[int, ...]) -> bool:
    ends = zip(box.start, box.stop, shape, strict=True)
    return all(start < stop <= side for start, stop, side in ends)


def to_entry(
    case: Case, data_set: str, channel_names: Sequence[str], label_names: Mapping[int, str]
) -> dict[str, Any]:
    """The entry of a case, with its checksum."""
    source, grid = case.source, case.source.grid
    entry = {
        "case": case.name,
        "data_set": data_set,
        "subject": case.subject,
        "modality": list(channel_names),
        "shape": list(case.shape),
        "spacing_mm": [round(step, 9) for step in case.spacing_mm],
        "orientation": case.orientation,
        "affine": case.affine.tolist(),
        "labels": {
            str(value): {
                "name": label_names[value],
                "voxels": count,
                "box": [list(case.boxes[value].start), list(case.boxes[value].stop)],
            }
            for value, count in sorted(case.voxel_counts.items())
        },
        "digest": case.digest,
        "source": {
            "files": [list(file) for file in source.files],
            "shape": list(grid.shape),
            "affine": source.affine.tolist(),
            "order": list(grid.order),
            "flips": list(grid.flips),
            "crop": grid.crop and [list(grid.crop.start), list(grid.crop.stop)],
            "intensities": source.intensities and [list(ends) for ends in source.intensities],
        },
        "remarks": list(case.remarks),
    }
    return with_digest(json.loads(json.dumps(entry)))


def from_entry(entry: Any) -> Case:
    """The case of an entry.

    Raises:
        ValueError: it is damaged.
    """
    if not has_valid_digest(entry):
        raise ValueError("its checksum does not fit")
    return _case_of(checked(_ENTRIES, entry))


def _from_line(line: bytes) -> Case:
    # A line as `to_lines` writes it is parsed and checked at once, in a third of the time. Escapes
    # may be invalid characters, which only `parse_json` refuses.
    if b"\\u" not in line and is_valid_line(line):
        with suppress(ValidationError):
            return _case_of(_ENTRIES.validate_json(line))
    return from_entry(parse_json(line))


def _case_of(case: _CaseEntry) -> Case:
    source = case.source
    return Case(
        case.case,
        case.subject,
        case.shape,
        case.affine,
        {value: label.voxels for value, label in case.labels.items()},
        {value: label.box for value, label in case.labels.items()},
        case.digest,
        SourceGrid(
            tuple(SourceFile(*file) for file in source.files),
            source.affine,
            WorkingGrid(source.shape, case.shape, source.order, source.flips, source.crop),
            source.intensities and tuple(source.intensities),
        ),
        tuple(case.remarks),
    )


def to_lines(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """A catalogue's content, from the entries of all cases."""
    return b"".join(to_line(entry) + b"\n" for entry in entries)


def from_lines(content: bytes, path: str) -> dict[str, Case]:
    """The cases of a catalogue by name, from its content.

    Raises:
        DataError: it is damaged.
    """
    cases = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            case = _from_line(line)
        except ValueError as error:
            raise DataError(
                f"{path} is damaged in line {number}: {error}; convert the data again"
            ) from error
        if case.name in cases:
            raise DataError(
                f"{path} has case {case.name} twice, in line {number} again; convert the data again"
            )
        cases[case.name] = case
    return cases
