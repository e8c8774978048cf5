"""Segment a batch of targets into files."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.images import Volume
from wsicl_jax.errors import DataError, WsiclError
from wsicl_jax.inference.batch.outputs import Records, labels_file, write_labels, write_result
from wsicl_jax.inference.batch.targets import Target, read_target
from wsicl_jax.inference.result import Segmentation
from wsicl_jax.storage.atomic import why_full
from wsicl_jax.terminal.progress import track


@runtime_checkable
class Segments(Protocol):
    """The part of a task that a batch needs."""

    structures: dict[str, int]
    remarks: tuple[str, ...]

    def stream(
        self,
        targets: Sequence[Target],
        *,
        read: Callable[[Target], tuple[Volume, tuple[str, ...]]],
        probabilities: bool,
        show: bool,
    ) -> Iterator[tuple[Target, Segmentation | WsiclError]]: ...


@dataclass(frozen=True)
class PredictSummary:
    """The outcome of every target."""

    written: tuple[Path, ...]
    """Label maps, in the targets' order."""
    failed: dict[str, str]
    """Name of a target to the reason why it has no label map."""
    remarks: dict[str, tuple[str, ...]]
    """Name of a target, or "context set", to unusual choices and likely mistakes."""
    finished_before: int = 0
    """Number of targets that were finished before this call."""
    volumes_ml: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Name of a target to the volume of each structure in ml."""

    def table(self) -> RenderableType:
        """Counts, volumes, failures and remarks, for `console().print`."""
        total = len(self.written) + len(self.failed) + self.finished_before
        folders = {str(path.parent) for path in self.written}
        where = f" to {folders.pop()}" if len(folders) == 1 else ""
        before = f", {self.finished_before} finished before" if self.finished_before else ""
        parts: list[RenderableType] = [
            Text(f"{len(self.written)} of {total} label maps written{where}{before}")
        ]
        volumes = [
            (target, name, f"{volume:.4g}")
            for target, each in self.volumes_ml.items()
            for name, volume in each.items()
        ]
        for titles, rows in (
            (("target", "structure", "volume (ml)"), volumes),
            (("target", "failed"), list(self.failed.items())),
            (
                ("target", "remark"),
                [(name, text) for name, texts in self.remarks.items() for text in texts],
            ),
        ):
            if rows:
                parts.append(table_of(titles, rows))
        return Group(*parts)


def table_of(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table that breaks long paths into lines instead of cutting them."""
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for row in rows:
        table.add_row(*map(Text, row))
    return table


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
    """Segment each target into its files in the directory `output`; call `refusals` first.

    The files of a target appear together, or none of them. A target that cannot be used does not
    end the batch; the summary has the reason. If there are several structures and the format has
    no names, labels.json has the value of each. With `resume`, finished targets are skipped;
    `settings` are those that results depend on, besides `probabilities` and the structures.
    Several processes may fill one directory.

    Raises:
        DataError: `output` is no directory and cannot become one, the disk is full, or a target
            was finished with other settings.
    """
    records = Records(
        output,
        {**(settings or {}), "structures": task.structures, "probabilities": probabilities},
    )
    finished = [target for target in targets if resume and records.is_finished(target)]
    targets = [target for target in targets if target not in finished]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output} cannot be used as a directory: {error.strerror}") from error
    written: list[Path] = []
    failed: dict[str, str] = {}
    remarks: dict[str, tuple[str, ...]] = {"context set": task.remarks} if task.remarks else {}
    volumes_ml: dict[str, dict[str, float]] = {}
    labels = labels_file(output, task.structures, targets)
    read = functools.partial(read_target, reading=reading)
    outcomes = task.stream(targets, read=read, probabilities=probabilities, show=False)
    with track(len(targets), "predicting") as bar:
        for target, outcome in outcomes:
            bar.status(target.output.name)
            try:
                if isinstance(outcome, WsiclError):
                    raise outcome
                if labels and not written:
                    write_labels(labels, task.structures)
                write_result(target, outcome, records)
            except WsiclError as error:
                if why_full(error):
                    raise DataError(
                        f"{error}; {len(written) + len(finished)} label maps are whole: make room, "
                        "then go on with --resume"
                    ) from error
                failed[target.name] = str(error)
            else:
                written.append(target.output)
                volumes_ml[target.name] = outcome.volumes_ml
                if outcome.remarks:
                    remarks[target.name] = outcome.remarks
            # Free its memory before waiting for the next target.
            del outcome
            bar.advance()
    return PredictSummary(tuple(written), failed, remarks, len(finished), volumes_ml)
