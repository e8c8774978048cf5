"""The files of a batch: names, refusals before the work, writing, and records for `--resume`.

A hidden directory beside the results has a record of each target. It is written before the files
of the target appear, and the label map appears last: a target with both is finished.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from wsicl_jax.data.formats.dicom_file import is_dicom
from wsicl_jax.data.formats.writing import (
    HAVE_NAMES,
    REFER_TO_SERIES,
    check_installed,
    format_of,
    write_label_map,
    write_probabilities,
)
from wsicl_jax.errors import DataError, WsiclError
from wsicl_jax.inference.batch.targets import Target, as_file_name
from wsicl_jax.inference.result import Segmentation
from wsicl_jax.storage.atomic import partial, write_whole

LABELS = "labels.json"
"""File with the values of structures, beside label maps whose format has no names."""

RECORDS = ".predict"
"""Directory of records, in that of the results."""

_MAX_NAMED = 3
"""Largest number of file names in an error message."""

_PROBABILITY_FORMAT = {"seg.nrrd": "nrrd", "dcm": "nii.gz", "rtstruct.dcm": "nii.gz"}
"""Format of probabilities, if that of label maps cannot hold them."""


class Outputs(NamedTuple):
    """The files of one target's result."""

    label_map: Path
    probabilities: dict[str, Path]
    """By structure; empty unless asked for."""

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.label_map, *self.probabilities.values())


def outputs_of(target: Target, names: Sequence[str], *, probabilities: bool) -> Outputs:
    """The files of a target: `case.nii.gz`, and `case_liver_prob.nii.gz` for each structure."""
    if not probabilities:
        return Outputs(target.output, {})
    ending = format_of(target.output)
    stem = target.output.name[: -len(ending) - 1]
    parts = [as_file_name(name) for name in names]
    files = {}
    for number, (name, part) in enumerate(zip(names, parts, strict=True), 1):
        part = part if part and parts.count(part) == 1 else f"{part}_{number}"
        file = f"{stem}_{part}_prob.{_PROBABILITY_FORMAT.get(ending, ending)}"
        files[name] = target.output.with_name(file)
    return Outputs(target.output, files)


def refusals(
    targets: Sequence[Target],
    output: Path,
    structures: Mapping[str, int],
    *,
    inputs: Sequence[Path] = (),
    probabilities: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> list[str]:
    """Reasons why a batch must not begin, from the names and places of its files alone.

    No result goes into a folder with a target or with one of `inputs`, the files of the context
    set. Other files are replaced only with `overwrite`, and with `resume` those of targets that
    this command began before. `structures` gives the value of each.
    """
    outputs = [outputs_of(t, list(structures), probabilities=probabilities) for t in targets]
    files = [file for each in outputs for file in each.files]
    problems = []
    for ending in sorted({format_of(file) for file in files}):
        try:
            check_installed(ending)
        except DataError as error:
            problems.append(str(error))
    for ending, format_name in REFER_TO_SERIES.items():
        referring = [target for target in targets if format_of(target.output) == ending]
        if other := [target.name for target in referring if not is_dicom(target.files[0])]:
            problems.append(
                f"{_listed(other)}: no DICOM, to which {format_name} could refer; choose another "
                "format"
            )
    if twice := [path.name for path, count in Counter(files).items() if count > 1]:
        problems.append(
            f"several targets would be written to {_listed(twice)}, since a result takes its "
            "target's name; predict them into different directories"
        )
    for what, kept in (
        ("targets", [file for target in targets for file in target.files]),
        ("context files", inputs),
    ):
        # The folder of the name, and the folder of the file if the name is a link.
        inside = [f for f in kept if output.resolve() in (f.parent.resolve(), f.resolve().parent)]
        if inside:
            problems.append(
                f"{output} holds {what}: {_listed([file.name for file in inside])}; give results a "
                "directory of their own"
            )
    begun = [resume and read_record(target) is not None for target in targets]
    existing = [
        str(path)
        for each, own in zip(outputs, begun, strict=True)
        for path in each.files
        if path.exists() and not own
    ]
    labels = labels_file(output, structures, targets)
    if labels and labels.exists() and labels.read_bytes() != _labels(structures):
        existing.append(f"{labels}, with other values,")
    if existing and not overwrite:
        problems.append(
            f"{_listed(existing)} exist already; "
            + (
                "they are not from a batch that could go on: "
                if resume
                else "if this batch was cut off, go on with --resume; else "
            )
            + "allow overwriting or give another directory"
        )
    place = next((p for p in (output, *output.parents) if p.exists()), None)
    if place is not None and not place.is_dir():
        problems.append(f"{output} cannot be used as a directory: {place} is a file")
    return problems


class Records:
    """The records of the results in one directory.

    `settings` are those that results depend on, in JSON, by names that users know.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]):
        self.directory = output / RECORDS
        self._settings = json.loads(json.dumps(dict(settings)))

    def is_finished(self, target: Target) -> bool:
        """Whether a target is finished, with these settings and with its present files.

        Raises:
            DataError: it was finished with other settings.
        """
        record = read_record(target)
        if record is None or not target.output.exists():
            return False
        before = record["settings"]
        other = [name for name, value in self._settings.items() if before.get(name) != value]
        if other:
            raise DataError(
                f"{target.output} was made with another {', '.join(other)}; go on with the same, "
                "give another directory, or allow overwriting"
            )
        return record["target"] == _state_of(target)

    def begin(self, target: Target) -> None:
        """Record that the files of a target are about to appear.

        Raises:
            OSError: the record cannot be written.
        """
        self.directory.mkdir(exist_ok=True)
        record = {"target": _state_of(target), "settings": self._settings}
        write_whole(_record_of(target), json.dumps(record, indent=1).encode())


def read_record(target: Target) -> dict[str, Any] | None:
    """The record of a target; None if there is none, or it cannot be read."""
    try:
        record = json.loads(_record_of(target).read_bytes())
        return record if {"target", "settings"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def write_result(target: Target, result: Segmentation, records: Records) -> None:
    """Write the files of a target, all or none.

    Raises:
        DataError: a file cannot be written.
    """
    outputs = outputs_of(target, list(result.structures), probabilities=bool(result.probabilities))
    folder = target.output.parent
    temporary: Path | None = None
    try:
        records.directory.mkdir(exist_ok=True)
        temporary = partial(records.directory, "")
        temporary.mkdir(exist_ok=True)
        for name, path in outputs.probabilities.items():
            write_probabilities(
                temporary / path.name, result.probabilities[name], result.affine, target.files
            )
        write_label_map(
            temporary / outputs.label_map.name,
            result.label_map,
            result.affine,
            result.structures,
            target.files,
        )
        # From here on there may be no label map for a moment, but never one of another batch.
        outputs.label_map.unlink(missing_ok=True)
        records.begin(target)
        for path in (*outputs.probabilities.values(), outputs.label_map):
            (temporary / path.name).replace(path)
    except WsiclError as error:
        raise type(error)(str(error).replace(str(temporary), str(folder))) from error.__cause__
    except OSError as error:
        raise DataError(f"{target.output} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            records.directory.rmdir()  # only if it has no record


def labels_file(
    output: Path, structures: Mapping[str, int], targets: Sequence[Target]
) -> Path | None:
    """The file for names that the label maps cannot hold; None if it is not needed."""
    nameless = any(format_of(target.output) not in HAVE_NAMES for target in targets)
    return output / LABELS if len(structures) > 1 and nameless else None


def write_labels(path: Path, structures: Mapping[str, int]) -> None:
    """Write the values of structures as JSON.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        write_whole(path, _labels(structures))
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def _labels(structures: Mapping[str, int]) -> bytes:
    return (json.dumps(dict(structures), indent=1, ensure_ascii=False) + "\n").encode()


def _state_of(target: Target) -> list[Any]:
    """Sizes and times that show whether a target has changed, without reading it."""
    states = (file.stat() for file in target.files)
    return [target.channel, *([state.st_size, state.st_mtime_ns] for state in states)]


def _record_of(target: Target) -> Path:
    return target.output.parent / RECORDS / f"{target.output.name}.json"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
