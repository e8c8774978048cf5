"""What is known of a case without reading its voxels, as one line of a store's catalogue.

The same entry is in the case's own metadata. A catalogue is JSON, one line a case, with a
checksum in each: pandas reads it with `read_json(..., lines=True)`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from wsicl_jax.axes import Box, Shape3, spacing_of
from wsicl_jax.errors import DataError
from wsicl_jax.geometry import WorkingGrid
from wsicl_jax.sealing import is_sealed, seal


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
    return seal(json.loads(json.dumps(entry)))


def from_entry(entry: Any) -> Case:
    """The case of a line.

    Raises:
        ValueError: it is damaged.
    """
    if not is_sealed(entry):
        raise ValueError("its checksum does not fit")
    labels = {int(value): found for value, found in entry["labels"].items()}
    source = entry["source"]
    way = WorkingGrid(
        tuple(source["shape"]),
        tuple(entry["shape"]),
        tuple(source["order"]),
        tuple(source["flips"]),
        _box(source["crop"]) if source["crop"] else None,
    )
    ends = source["intensities"]
    return Case(
        entry["case"],
        entry["subject"],
        tuple(entry["shape"]),
        np.array(entry["affine"], np.float64).reshape(4, 4),
        {value: found["voxels"] for value, found in labels.items()},
        {value: _box(found["box"]) for value, found in labels.items()},
        entry["digest"],
        SourceGrid(
            tuple(SourceFile(*file) for file in source["files"]),
            np.array(source["affine"], np.float64).reshape(4, 4),
            way,
            ends and tuple((low, high) for low, high in ends),
        ),
        tuple(entry["remarks"]),
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
            case = from_entry(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is damaged in line {number}: {error}; convert the data again"
            ) from error
        cases[case.name] = case
    return cases


def _box(ends: Sequence[Sequence[int]]) -> Box:
    return Box(tuple(ends[0]), tuple(ends[1]))
