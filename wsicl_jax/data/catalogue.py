"""What is known of a case without reading its voxels, as one line of a store's catalogue.

The same entry is in the case's own metadata. A catalogue is JSON, one line a case, with a
checksum in each: pandas reads it with `read_json(..., lines=True)`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from wsicl_jax.errors import DataError
from wsicl_jax.geometry.axes import Box, Shape3, spacing_of
from wsicl_jax.geometry.grids import WorkingGrid
from wsicl_jax.storage.digests import has_valid_digest, with_digest
from wsicl_jax.storage.documents import checked, parse_json


@dataclass(frozen=True, eq=False)
class Case:
    """A case of a store."""

    name: str
    subject: str
    """Whom it shows; several cases may show one subject."""
    shape: Shape3
    affine: Float[np.ndarray, "4 4"]
    """From voxel indices to RAS+ millimetres, float64."""
    voxel_counts: dict[int, int]
    """Voxels of each label that the case has; no background."""
    boxes: dict[int, Box]
    """Tight box of each label that the case has."""
    digest: str
    """Hash of its image, label map and affine: other content has another one."""
    source: "SourceGrid"
    """What it was made of."""
    remarks: tuple[str, ...] = ()
    """What was unusual about its files."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along each axis."""
        return spacing_of(self.affine)

    @property
    def orientation(self) -> str:
        """Where its axes point to, such as RAS: to the right, to the front, up."""
        from nibabel import orientations

        return "".join(code or "?" for code in orientations.aff2axcodes(self.affine))


class SourceFile(NamedTuple):
    """An original file: another one if it has changed."""

    name: str
    """Below the folder of the data set."""
    size: int
    """Bytes."""
    changed_ns: int
    """When its content was changed, in nanoseconds since 1970."""


@dataclass(frozen=True, eq=False)
class SourceGrid:
    """The original files of a case, and the way from their grid to the store's."""

    files: tuple["SourceFile", ...]
    affine: Float[np.ndarray, "4 4"]
    """From the files' voxel indices to RAS+ millimetres, float64."""
    grid: WorkingGrid
    """From the files' voxels to the store's, and back."""
    intensities: tuple[tuple[float, float], ...] | None = None
    """The values that became 0 and 1, for each channel; None: they are those of the files."""


def is_case_name(name: str) -> bool:
    """Whether a name can be that of a directory in a store, on every system."""
    return bool(name) and not name.startswith((".", "__")) and not re.search(r"[/\\\x00]", name)


def _checked_affine(rows: tuple) -> np.ndarray:
    affine = np.array(rows, np.float64)
    if not is_affine(affine):
        raise ValueError("the affine is singular or no affine")
    return affine


def is_affine(affine: Float[np.ndarray, "4 4"]) -> bool:
    """Whether a matrix places voxels in the world: finite, and each axis has a direction."""
    finite = bool(np.isfinite(affine).all()) and affine[3].tolist() == [0, 0, 0, 1]
    return finite and bool(np.linalg.matrix_rank(affine[:3, :3]) == 3)


def _named(name: str) -> str:
    if not is_case_name(name):
        raise ValueError("is no name of a case")
    return name


_RULES = ConfigDict(strict=True, frozen=True, arbitrary_types_allowed=True)
_Count = Annotated[int, Field(ge=0, lt=2**48)]
_Side = Annotated[int, Field(ge=1, lt=2**31)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
# JSON has lists alone, which strict tuples refuse.
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

    case: Annotated[str, AfterValidator(_named)]
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
    return bool(np.less(box.start, box.stop).all() and np.less_equal(box.stop, shape).all())


def to_entry(
    case: Case, data_set: str, channel_names: Sequence[str], label_names: Mapping[int, str]
) -> dict[str, Any]:
    """The line of a case, sealed."""
    source, way = case.source, case.source.grid
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
            "shape": list(way.shape),
            "affine": source.affine.tolist(),
            "order": list(way.order),
            "flips": list(way.flips),
            "crop": way.crop and [list(way.crop.start), list(way.crop.stop)],
            "intensities": source.intensities and [list(ends) for ends in source.intensities],
        },
        "remarks": list(case.remarks),
    }
    return with_digest(json.loads(json.dumps(entry)))


def from_entry(entry: Any) -> Case:
    """The case of a line.

    Raises:
        ValueError: it is damaged.
    """
    if not has_valid_digest(entry):
        raise ValueError("its checksum does not fit")
    found = checked(_ENTRIES, entry)
    source = found.source
    way = WorkingGrid(source.shape, found.shape, source.order, source.flips, source.crop)
    return Case(
        found.case,
        found.subject,
        found.shape,
        found.affine,
        {value: label.voxels for value, label in found.labels.items()},
        {value: label.box for value, label in found.labels.items()},
        found.digest,
        SourceGrid(
            tuple(SourceFile(*file) for file in source.files),
            source.affine,
            way,
            source.intensities and tuple(source.intensities),
        ),
        tuple(found.remarks),
    )


def to_lines(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """A catalogue's content, from the entries of all cases."""
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def from_lines(content: bytes, path: str) -> dict[str, Case]:
    """The cases of a catalogue by name, from its content.

    Raises:
        DataError: it is damaged.
    """
    cases = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            case = from_entry(parse_json(line))
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
