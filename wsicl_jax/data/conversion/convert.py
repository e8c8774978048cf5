"""From a folder of images and labels to a store.

Many processes, and many machines with a part each, may write one store. Intact cases are not made
again, so the same command continues a conversion that was killed. The process after which no case
is missing finishes the store.
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
from typing import Literal, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsicl_jax.config import PreparationConfig, ReadingConfig
from wsicl_jax.data import store
from wsicl_jax.data.conversion.source_case import read_source_case, scan_labels, source_files
from wsicl_jax.data.conversion.stored_case import to_stored_case
from wsicl_jax.data.layouts.find import find_layout
from wsicl_jax.data.layouts.layout import CaseFiles, Kind, Layout
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.errors import DataError
from wsicl_jax.storage.location import Location
from wsicl_jax.storage.lock import part_locked
from wsicl_jax.terminal.progress import track

_SKIPPED_CASES = "skipped/"
"""One file for each skipped case."""

_EXAMPLES = 3


@dataclass(frozen=True)
class ConversionSummary:
    """What became of every case of the source."""

    store: Location
    written: tuple[str, ...]
    """Cases that were written, sorted."""
    existing: tuple[str, ...] = ()
    """Cases that the store had already, intact."""
    skipped: Mapping[str, str] | None = None
    """Cases, and files without a case, that were skipped, each with the reason."""
    remarks: Mapping[str, tuple[str, ...]] | None = None
    """What was unusual about cases of the store."""
    removed: tuple[str, ...] = ()
    """Cases that the store had and the source has no more."""
    missing: int = 0
    """Cases of other parts that are not written yet; the store is finished when none is."""

    def report(self) -> RenderableType:
        """The counts, and a table of everything to check, for `console().print`."""
        parts: list[RenderableType] = [Text(line) for line in self._headlines()]
        if self.skipped:
            table = Table("skipped", "reason")
            for name, reason in sorted(self.skipped.items()):
                table.add_row(Text(name), Text(reason))
            parts.append(table)
        if self.remarks:
            table = Table("used, with a remark", "cases", "such as")
            for remark, names in sorted(_cases_by_remark(self.remarks).items()):
                table.add_row(Text(remark), str(len(names)), Text(", ".join(names[:_EXAMPLES])))
            parts.append(table)
        return Group(*parts)

    def _headlines(self) -> Iterator[str]:
        done = len(self.written) + len(self.existing)
        total = done + len(self.skipped or {})
        if not done and not self.missing:
            yield f"0 of {total} can be used; no store was made"
            return
        before = f", {len(self.existing)} of them before" if self.existing else ""
        yield f"{done} of {total} written to {self.store}{before}"
        if self.removed:
            yield f"{len(self.removed)} removed, as the source has them no more"
        if self.missing:
            yield f"{self.missing} are left to other parts; the store is finished with the last"


class _Outcome(NamedTuple):
    case: str
    state: Literal["written", "existing", "skipped"]
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
    """Write the cases of a folder into a store, or continue it; `workers` at a time.

    `kind` is the folder's layout; `label_names` names the label values if the folder does not.
    Part (i, n) makes every n-th case, from the i-th on. If no case can be used, there is no store
    and the summary has no written case. A process refuses an image whose reading would take it
    above `max_memory_gb` or, without that, needs more than half of the machine's memory.

    Raises:
        DataError: the folder is of no known layout or does not fit into a store, has no cases,
            or the store cannot be written or has other data or options.
        LockedError: another process makes the same part, or parts of another number.
    """
    location = Location.of(path)
    with part_locked(location.url, part, f"the store {location}"):
        return _convert(
            find_layout(source, kind=kind),
            location,
            preparation or PreparationConfig(),
            label_names,
            part,
            workers,
            max_memory_gb,
        )


def _convert(
    layout: Layout,
    location: Location,
    preparation: PreparationConfig,
    label_names: Mapping[int, str] | None,
    part: tuple[int, int],
    workers: int,
    max_memory_gb: float | None,
) -> ConversionSummary:
    reading = ReadingConfig(
        assume_orientation=preparation.assume_orientation, max_memory_gb=max_memory_gb
    )
    label_names = _begin(location, layout, label_names, preparation, reading)
    number, parts = part
    cases = layout.cases[number - 1 :: parts]
    convert_case = functools.partial(
        _convert_case,
        location=location,
        layout=replace(layout, cases=(), skipped={}),  # small: each process gets it
        label_names=label_names,
        preparation=preparation,
        reading=reading,
    )
    by_state: dict[str, list[_Outcome]] = defaultdict(list)
    with track(len(cases), f"converting {layout.name}") as progress:
        for outcome in _outcomes(convert_case, cases, workers):
            by_state[outcome.state].append(outcome)
            skipped = len(by_state["skipped"])
            progress.advance()
            progress.status(f"{skipped} skipped" if skipped else "")
    removed, missing = _finish(location, layout)
    used = by_state["written"] + by_state["existing"]
    return ConversionSummary(
        location,
        tuple(sorted(outcome.case for outcome in by_state["written"])),
        tuple(sorted(outcome.case for outcome in by_state["existing"])),
        {outcome.case: outcome.reason for outcome in by_state["skipped"]} | layout.skipped,
        {outcome.case: outcome.remarks for outcome in used if outcome.remarks},
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
    """Create the store, or check that it has the same settings; the names of its labels."""
    known = label_names or layout.label_names
    root = store.read_root(location)
    if root is None:
        names = dict(known or scan_labels(layout, reading))
        try:
            create_store(location, layout.name, layout.channel_names, names, preparation)
        except DataError:
            # The process of another part may have created it; then its settings are compared.
            root = store.read_root(location)
            if root is None:
                raise
        else:
            return names
    now = store.Root(
        layout.name, layout.channel_names, dict(known or root.label_names), preparation
    )
    for setting in ("name", "channel_names", "label_names", "preparation"):
        before, requested = getattr(root, setting), getattr(now, setting)
        if before != requested:
            raise DataError(
                f"{location} was begun with {setting} {before}, now it is {requested}; go on as "
                "before, or remove it or name another store"
            )
    return root.label_names


def _outcomes(convert_case, cases: Sequence[CaseFiles], workers: int) -> Iterator[_Outcome]:
    if workers <= 1 or len(cases) <= 1:
        yield from map(convert_case, cases)
        return
    # Not forked: TensorStore has threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(cases)), mp_context=context)
    try:
        for future in as_completed([pool.submit(convert_case, files) for files in cases]):
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process of the conversion was killed, most likely for lack of memory; go on with "
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
    """Write one case unless the store has it. Raises `DataError` if writing fails."""
    name, reason_file = files.name, f"{_SKIPPED_CASES}{files.name}.json"
    try:
        sources = source_files(layout, files)
        before = store.read_case(location, name)
        if before and before.source.files == sources and store.is_intact(location, before):
            return _Outcome(name, "existing", remarks=before.remarks)
        raw = read_source_case(
            layout, files, label_names, reading, replace_nonfinite=preparation.replace_nonfinite
        )
        case = to_stored_case(raw.image, raw.label, raw.affine, sources, preparation)
    except DataError as error:
        location.delete(store.CATALOGUE)
        location.write(reason_file, json.dumps({"reason": str(error)}).encode())
        location.delete(f"cases/{name}/")
        return _Outcome(name, "skipped", reason=str(error))
    location.delete(store.CATALOGUE)
    write_case(
        location,
        name,
        case.image,
        case.label,
        case.affine,
        subject=files.subject,
        source=case.source,
        remarks=raw.remarks,
    )
    location.delete(reason_file)
    return _Outcome(name, "written", remarks=raw.remarks)


def _finish(location: Location, layout: Layout) -> tuple[tuple[str, ...], int]:
    """Write the catalogue if no case is missing; removed cases, and the number of missing ones."""
    planned = {files.name for files in layout.cases}
    reason_files = {
        key.removeprefix(_SKIPPED_CASES).removesuffix(".json"): key
        for key in location.keys(_SKIPPED_CASES)
    }
    complete = store.complete_cases(location)
    if missing := planned - complete - reason_files.keys():
        return (), len(missing)
    removed = tuple(sorted(complete - planned))
    usable = complete & planned
    if not usable:
        location.delete()
        return removed, 0
    for name in removed:
        location.delete(f"cases/{name}/")
    reasons = {
        name: store.read_texts(location, key).get("reason", "")
        for name, key in reason_files.items()
        if name in planned and name not in usable
    }
    skipped = json.dumps(reasons | layout.skipped, indent=1, sort_keys=True)
    location.write(store.SKIPPED, skipped.encode())
    finish_store(location, usable)
    return removed, 0


def _cases_by_remark(remarks: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    cases = defaultdict(list)
    for name, texts in sorted(remarks.items()):
        for remark in texts:
            cases[remark].append(name)
    return cases
