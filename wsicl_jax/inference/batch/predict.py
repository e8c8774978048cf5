"""Segment a batch of targets into files."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.formats.dicom_file import is_dicom
from wsicl_jax.data.formats.writing import (
    HAVE_NAMES,
    check_installed,
    format_of,
    write_label_map,
    write_probabilities,
)
from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, WsiclError
from wsicl_jax.inference.batch.finished import Finished, read_record
from wsicl_jax.inference.batch.targets import Target, as_file_name, read_target
from wsicl_jax.inference.result import Segmentation
from wsicl_jax.storage.atomic import partial, why_full, write_whole
from wsicl_jax.terminal.progress import track

LABELS = "labels.json"
"""Names the values of label maps, beside those whose format has no place for names."""

_NAMED = 3
"""Most file names in an error message."""

_BESIDE = {"seg.nrrd": "nrrd", "dcm": "nii.gz"}
"""The format of probabilities where that of label maps holds none."""


@runtime_checkable
class Segments(Protocol):
    """What is needed of a task."""

    structures: dict[str, int]
    remarks: tuple[str, ...]

    def stream(
        self,
        targets: Sequence[Target],
        *,
        read: Callable[[Target], Volume],
        probabilities: bool,
        show: bool,
    ) -> Iterator[tuple[Target, Segmentation | WsiclError]]: ...


class Outputs(NamedTuple):
    """The files that become of one target."""

    label_map: Path
    probabilities: dict[str, Path]
    """By structure; empty unless asked for."""

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.label_map, *self.probabilities.values())


@dataclass(frozen=True)
class PredictSummary:
    """What became of every target."""

    written: tuple[Path, ...]
    """Label maps that were made, in the targets' order."""
    failed: dict[str, str]
    """Name of a target to why it has no label map."""
    remarks: dict[str, tuple[str, ...]]
    """Name of a target, or "context set", to what was done otherwise than usual and to what looks
    like a mistake."""
    there: int = 0
    """How many were finished before."""

    def table(self) -> RenderableType:
        """The counts, and a row for every failure and remark, for `console().print`."""
        total = len(self.written) + len(self.failed) + self.there
        folders = {str(path.parent) for path in self.written}
        where = f" to {folders.pop()}" if len(folders) == 1 else ""
        before = f", {self.there} were there" if self.there else ""
        shown: list[RenderableType] = [
            Text(f"{len(self.written)} of {total} label maps written{where}{before}")
        ]
        for title, rows in (
            ("failed", [(name, reason) for name, reason in self.failed.items()]),
            ("remark", [(name, text) for name, texts in self.remarks.items() for text in texts]),
        ):
            if rows:
                shown.append(table_of(("target", title), rows))
        return Group(*shown)


def table_of(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose long paths are broken into lines, not cut."""
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def outputs_of(target: Target, names: Sequence[str], *, probabilities: bool) -> Outputs:
    """The files of a target: `case.nii.gz`, and `case_liver_prob.nii.gz` for each structure."""
    if not probabilities:
        return Outputs(target.output, {})
    ending = format_of(target.output)
    stem = target.output.name[: -len(ending) - 1]
    parts = [as_file_name(name) for name in names]
    found = {}
    for number, (name, part) in enumerate(zip(names, parts, strict=True), 1):
        part = part if part and parts.count(part) == 1 else f"{part}_{number}"
        file = f"{stem}_{part}_prob.{_BESIDE.get(ending, ending)}"
        found[name] = target.output.with_name(file)
    return Outputs(target.output, found)


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
    """Why a batch must not begin: all that names and places of its files tell, nothing is read.

    No result is written into a folder that holds a target or one of `inputs`, the files that the
    context set comes from. Other files are replaced only with `overwrite`, and those of targets
    that this command has begun before with `resume`. `structures` gives the value of each.
    """
    found = [outputs_of(t, list(structures), probabilities=probabilities) for t in targets]
    files = [file for outputs in found for file in outputs.files]
    problems = []
    for ending in sorted({format_of(file) for file in files}):
        try:
            check_installed(ending)
        except DataError as error:
            problems.append(str(error))
    other = [t.name for t in targets if format_of(t.output) == "dcm" and not is_dicom(t.files[0])]
    if other:
        problems.append(
            f"{_some(other)}: no DICOM, to which DICOM-SEG could refer; choose another format"
        )
    if twice := [path.name for path, count in Counter(files).items() if count > 1]:
        problems.append(
            f"several targets would be written to {_some(twice)}, since a result takes its "
            "target's name; predict them into different directories"
        )
    names = _labels_file(output, structures, [target.output for target in targets])
    for what, kept in (
        ("targets", [file for target in targets for file in target.files]),
        ("context files", inputs),
    ):
        # Where a file is named, and where it lies if that was a link.
        inside = [f for f in kept if output.resolve() in (f.parent.resolve(), f.resolve().parent)]
        if inside:
            problems.append(
                f"{output} holds {what}: {_some([file.name for file in inside])}; give results a "
                "directory of their own"
            )
    begun = [resume and read_record(target) is not None for target in targets]
    existing = [
        str(path)
        for outputs, own in zip(found, begun, strict=True)
        for path in outputs.files
        if path.exists() and not own
    ]
    if names and names.exists() and names.read_bytes() != _labels(structures):
        existing.append(f"{names}, with other values,")
    if existing and not overwrite:
        problems.append(
            f"{_some(existing)} exist already; "
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


def predict(
    task: Segments,
    targets: Sequence[Target],
    output: Path,
    *,
    probabilities: bool = False,
    reading: ReadingConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> PredictSummary:
    """Segment each target into its files in the directory `output`; see `refusals` first.

    The files of a target appear together, or none of them. A target that cannot be used is named
    in the summary and does not end the batch. Where there are several structures and the format
    has no place for their names, labels.json tells the value of each. With `resume`, targets that
    are finished are left as they are; `settings` are those that results depend on, besides
    `probabilities` and the task's structures. Several processes may fill one directory.

    Raises:
        DataError: `output` is no directory and cannot become one, the disk is full, or a target
            was finished with other settings.
    """
    finished = Finished(
        output,
        {**(settings or {}), "structures": task.structures, "probabilities": probabilities},
    )
    there = [target for target in targets if resume and finished.has(target)]
    targets = [target for target in targets if target not in there]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output} cannot be used as a directory: {error.strerror}") from error
    written: list[Path] = []
    failed: dict[str, str] = {}
    remarks: dict[str, tuple[str, ...]] = {"context set": task.remarks} if task.remarks else {}
    told: dict[str, tuple[str, ...]] = {}

    def read(target: Target) -> Volume:
        volume, told[target.name] = read_target(target, reading)
        return volume

    names = _labels_file(output, task.structures, [target.output for target in targets])
    found = task.stream(targets, read=read, probabilities=probabilities, show=False)
    with track(len(targets), "predicting") as bar:
        for target, outcome in found:
            bar.status(target.output.name)
            try:
                if isinstance(outcome, WsiclError):
                    raise outcome
                if names and not written:
                    _write_labels(names, task.structures)
                _write(target, outcome, finished)
            except WsiclError as error:
                if why_full(error):
                    raise DataError(
                        f"{error}; {len(written) + len(there)} label maps are whole: make room, "
                        "then go on with --resume"
                    ) from error
                failed[target.name] = str(error)
            else:
                written.append(target.output)
                if said := (*told[target.name], *outcome.remarks):
                    remarks[target.name] = said
            del outcome
            bar.advance()
    return PredictSummary(tuple(written), failed, remarks, len(there))


def _write(target: Target, found: Segmentation, finished: Finished) -> None:
    """Write the files of a target, all of them or none."""
    kept = bool(found.probabilities)
    outputs = outputs_of(target, list(found.structures), probabilities=kept)
    place = target.output.parent
    beside: Path | None = None
    try:
        finished.directory.mkdir(exist_ok=True)
        beside = partial(finished.directory, "")
        beside.mkdir(exist_ok=True)
        for name, path in outputs.probabilities.items():
            write_probabilities(
                beside / path.name, found.probabilities[name], found.affine, target.files
            )
        write_label_map(
            beside / outputs.label_map.name,
            found.label_map,
            found.affine,
            found.structures,
            target.files,
        )
        # Between here and the end there may be no label map, but never one of another batch.
        outputs.label_map.unlink(missing_ok=True)
        finished.begin(target)
        for path in (*outputs.probabilities.values(), outputs.label_map):
            (beside / path.name).replace(path)
    except WsiclError as error:
        raise type(error)(str(error).replace(str(beside), str(place))) from error.__cause__
    except OSError as error:
        raise DataError(f"{target.output} cannot be written: {error.strerror}") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        with suppress(OSError):
            finished.directory.rmdir()  # if no record came into it


def _labels_file(output: Path, structures: Mapping[str, int], files: Sequence[Path]) -> Path | None:
    """Where the names go that the files themselves cannot hold; None if they need no place."""
    nameless = any(format_of(file) not in HAVE_NAMES for file in files)
    return output / LABELS if len(structures) > 1 and nameless else None


def _labels(structures: Mapping[str, int]) -> bytes:
    return (json.dumps(dict(structures), indent=1, ensure_ascii=False) + "\n").encode()


def _write_labels(path: Path, structures: Mapping[str, int]) -> None:
    try:
        write_whole(path, _labels(structures))
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
