"""From a folder of images and labels to a store; a case that cannot be used is named.

Many processes, and many machines with a part each, may fill one store. Cases that are there
and intact are not made again, so that a conversion cut off at any moment goes on with the same
command. Whoever finds nothing missing at its end finishes the store.
"""

import functools
import json
import multiprocessing
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsicl_jax.config import PreparationConfig, ReadingConfig
from wsicl_jax.data import store, store_writer
from wsicl_jax.data.conversion.source_case import read_source_case, scan_labels, source_files
from wsicl_jax.data.conversion.stored_case import to_stored_case
from wsicl_jax.data.layouts.find import find_layout
from wsicl_jax.data.layouts.layout import CaseFiles, Kind, Layout
from wsicl_jax.errors import DataError
from wsicl_jax.storage.location import Location
from wsicl_jax.storage.lock import part_locked
from wsicl_jax.terminal.progress import track

_REFUSED = "skipped/"
"""One file for each case that was tried and cannot be used."""

_NAMES_SHOWN = 3


@dataclass(frozen=True)
class ConversionSummary:
    """What became of every case of the source."""

    store: Location
    written: tuple[str, ...]
    """Cases that were made, sorted."""
    there: tuple[str, ...] = ()
    """Cases that were there already, intact."""
    skipped: Mapping[str, str] | None = None
    """Cases, or files that belong to none, that cannot be used, each with the reason."""
    remarks: Mapping[str, tuple[str, ...]] | None = None
    """What was unusual about cases that went in."""
    removed: tuple[str, ...] = ()
    """Cases that the store had and the source has no more."""
    missing: int = 0
    """Cases of other parts that are not there yet; the store is finished when none is."""

    def report(self) -> RenderableType:
        """The counts, and a row for everything that needs a look, for `console().print`."""
        shown: list[RenderableType] = [Text(line) for line in self._headlines()]
        if self.skipped:
            table = Table("left out", "reason")
            for name, reason in sorted(self.skipped.items()):
                table.add_row(Text(name), Text(reason))
            shown.append(table)
        if self.remarks:
            table = Table("taken, with a remark", "cases", "such as")
            for remark, names in sorted(_cases_by_remark(self.remarks).items()):
                table.add_row(Text(remark), str(len(names)), Text(", ".join(names[:_NAMES_SHOWN])))
            shown.append(table)
        return Group(*shown)

    def _headlines(self) -> Iterator[str]:
        done = len(self.written) + len(self.there)
        total = done + len(self.skipped or {})
        if not done and not self.missing:
            yield f"0 of {total} can be used; no store was made"
            return
        before = f", {len(self.there)} of them before" if self.there else ""
        yield f"{done} of {total} written to {self.store}{before}"
        if self.removed:
            yield f"{len(self.removed)} removed, as the source has them no more"
        if self.missing:
            yield f"{self.missing} are left to other parts; the store is finished with the last"


@dataclass(frozen=True)
class _Outcome:
    case: str
    state: Literal["written", "there", "left out"]
    reason: str = ""
    remarks: tuple[str, ...] = ()


def convert(
    source: str | Path,
    path: str | Path | Location,
    preparation: PreparationConfig | None = None,
    *,
    kind: Kind = "auto",
    label_names: Mapping[int, str] | None = None,
    part: tuple[int, int] = (1, 1),
    workers: int = 1,
    max_memory_gb: float | None = None,
) -> ConversionSummary:
    """Write the cases of a folder into a store, or go on with that; `workers` at a time.

    `kind` is the folder's layout; `label_names` names the label values where it does not. Of
    `part` (i, n) only every n-th case is made, from the i-th on. If no case can be used, no
    store is made; the summary then has no written case. Each process refuses to read what would
    take it above `max_memory_gb`, or by itself above half of the machine's memory.

    Raises:
        DataError: the folder is of no known layout or says what a store cannot hold, there are
            no cases, the store cannot be written, or was begun with other data or options.
        LockedError: another process makes the same part, or parts of another number.
    """
    location = Location.of(path)
    with part_locked(location.url, part, f"the store {location}"):
        return _convert(
            source,
            location,
            preparation or PreparationConfig(),
            kind,
            label_names,
            part,
            workers,
            max_memory_gb,
        )


def _convert(
    source: str | Path,
    location: Location,
    preparation: PreparationConfig,
    kind: Kind,
    label_names: Mapping[int, str] | None,
    part: tuple[int, int],
    workers: int,
    max_memory_gb: float | None,
) -> ConversionSummary:
    layout = find_layout(source, kind=kind)
    reading = ReadingConfig(
        assume_orientation=preparation.assume_orientation, max_memory_gb=max_memory_gb
    )
    label_names = _begin(location, layout, label_names, preparation, reading)
    number, parts = part
    mine = layout.cases[number - 1 :: parts]
    convert_one = functools.partial(
        _convert_case,
        location=location,
        layout=replace(layout, cases=(), skipped={}),  # or each process would get them all
        label_names=label_names,
        preparation=preparation,
        reading=reading,
    )
    outcomes = {}
    with track(len(mine), f"converting {layout.name}") as progress:
        for outcome in _outcomes(convert_one, mine, workers):
            outcomes[outcome.case] = outcome
            skipped = sum(o.state == "left out" for o in outcomes.values())
            progress.advance()
            progress.status(f"{skipped} left out" if skipped else "")
    removed, missing = _finish(location, layout)

    def named(state: str) -> tuple[str, ...]:
        return tuple(sorted(o.case for o in outcomes.values() if o.state == state))

    reasons = {name: outcomes[name].reason for name in named("left out")}
    return ConversionSummary(
        location,
        named("written"),
        named("there"),
        reasons | layout.skipped,
        {name: o.remarks for name, o in outcomes.items() if o.remarks},
        removed,
        missing,
    )


def _begin(
    location: Location,
    layout: Layout,
    label_names: Mapping[int, str] | None,
    preparation: PreparationConfig,
    reading: ReadingConfig,
) -> dict[int, str]:
    """Begin the store, or make sure that it was begun alike; the names of its labels."""
    known = label_names or layout.label_names
    root = store.read_root(location)
    if root is None:
        names = dict(known or scan_labels(layout, reading))
        try:
            store_writer.create_store(
                location, layout.name, layout.channel_names, names, preparation
            )
        except DataError:
            # Another part may have begun it since; then it is compared like any other.
            root = store.read_root(location)
            if root is None:
                raise
        else:
            return names
    now = store.Root(
        layout.name, layout.channel_names, dict(known or root.label_names), preparation
    )
    for what in ("name", "channel_names", "label_names", "preparation"):
        before, asked = getattr(root, what), getattr(now, what)
        if before != asked:
            raise DataError(
                f"{location} was begun with {what} {before}, now it is {asked}; go on as before, "
                "or remove it or name another store"
            )
    return root.label_names


def _outcomes(convert_one, mine: Sequence[CaseFiles], workers: int) -> Iterator[_Outcome]:
    if workers <= 1 or len(mine) <= 1:
        yield from map(convert_one, mine)
        return
    # Not forked: TensorStore has threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(mine)), mp_context=context)
    try:
        for future in as_completed([pool.submit(convert_one, files) for files in mine]):
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process of the conversion was killed, most likely for want of memory; go on with "
            "the same command and fewer --workers: finished cases stay"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _convert_case(
    files: CaseFiles,
    *,
    location: Location,
    layout: Layout,
    label_names: Mapping[int, str],
    preparation: PreparationConfig,
    reading: ReadingConfig,
) -> _Outcome:
    """Make one case, if it is not there. Raises `DataError` if writing fails."""
    name = files.name
    try:
        sources = source_files(layout, files)
        before = store.read_case(location, name)
        if before and before.source.files == sources and store.is_intact(location, before):
            return _Outcome(name, "there", remarks=before.remarks)
        raw = read_source_case(
            layout, files, label_names, reading, replace_nonfinite=preparation.replace_nonfinite
        )
        case = to_stored_case(raw.image, raw.label, raw.affine, sources, preparation)
    except DataError as error:
        _unfinish(location)
        location.write(f"{_REFUSED}{name}.json", json.dumps({"reason": str(error)}).encode())
        location.delete(f"cases/{name}/")
        return _Outcome(name, "left out", reason=str(error))
    _unfinish(location)
    store_writer.write_case(
        location,
        name,
        case.image,
        case.label,
        case.affine,
        subject=files.subject,
        source=case.source,
        remarks=raw.remarks,
    )
    location.delete(f"{_REFUSED}{name}.json")
    return _Outcome(name, "written", remarks=raw.remarks)


def _unfinish(location: Location) -> None:
    location.delete(store.CATALOGUE)


def _finish(location: Location, layout: Layout) -> tuple[tuple[str, ...], int]:
    """Write the catalogue if every case is settled; cases removed, and how many are missing."""
    planned = {files.name for files in layout.cases}
    refused = {
        key.removeprefix(_REFUSED).removesuffix(".json"): key for key in location.keys(_REFUSED)
    }
    there = store.complete_cases(location)
    if missing := planned - there - refused.keys():
        return (), len(missing)
    removed = tuple(sorted(there - planned))
    usable = there & planned
    if not usable:
        location.delete()
        return removed, 0
    for name in removed:
        location.delete(f"cases/{name}/")
    reasons = {
        name: store.read_texts(location, key).get("reason", "")
        for name, key in refused.items()
        if name in planned and name not in usable
    }
    skipped = json.dumps(reasons | layout.skipped, indent=1, sort_keys=True)
    location.write(store.SKIPPED, skipped.encode())
    store_writer.finish_store(location, usable)
    return removed, 0


def _cases_by_remark(remarks: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, said in sorted(remarks.items()):
        for remark in said:
            found[remark].append(name)
    return found
