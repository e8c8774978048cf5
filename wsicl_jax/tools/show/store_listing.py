"""Tables of the stores in a directory, or of the cases and labels of one store."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsicl_jax.data.catalogue import Case
from wsicl_jax.data.store import Store, read_root, read_skipped
from wsicl_jax.errors import DataError
from wsicl_jax.storage.location import Location

_MAX_LABELS = 6


def listing(path: str) -> RenderableType:
    """The cases of a store with their labels, or the stores in a directory.

    Raises:
        DataError: `path` is neither, or the store is damaged or not finished.
    """
    location = Location.of(path)
    directory = location.directory
    if directory is not None and directory.is_dir() and not (directory / "zarr.json").exists():
        stores = [d for d in sorted(directory.iterdir()) if (d / "zarr.json").is_file()]
        if not stores:
            raise DataError(
                f"{path} is not a store and contains none; make one with `wsicl convert`"
            )
        return _stores(stores)
    store = Store.open(location)
    tables: list[RenderableType] = [_cases(store), label_table(store)]
    if skipped := read_skipped(location):
        tables.append(_skipped(skipped))
    return Group(*tables)


def _stores(paths: list[Path]) -> Table:
    table = Table("store", "data set")
    table.add_column("cases", justify="right")
    table.add_column("labels", justify="right")
    table.add_column("channels")
    table.add_column("median shape", justify="right")
    for path in paths:
        try:
            if read_root(Location.of(path)) is None:
                continue
            store = Store.open(path)
        except DataError as error:
            table.add_row(Text(path.name), Text(str(error)))
            continue
        shape = np.median([case.shape for case in store.catalogue.values()], axis=0)
        table.add_row(
            Text(path.name),
            Text(store.name),
            str(len(store.cases)),
            str(len(store.label_names)),
            Text(", ".join(store.channel_names)),
            triple(shape),
        )
    return table


def _cases(store: Store) -> Table:
    several = len({case.subject for case in store.catalogue.values()}) < len(store.cases)
    table = Table(
        title=f"{store.name}: {len(store.cases)} cases ({', '.join(store.channel_names)})"
    )
    table.add_column("case")
    if several:
        table.add_column("subject")
    table.add_column("shape", justify="right")
    table.add_column("spacing, mm", justify="right")
    table.add_column("axes")
    table.add_column("labels")
    table.add_column("remarks")
    for name, case in store.catalogue.items():
        table.add_row(
            Text(name),
            *([Text(case.subject)] if several else []),
            triple(case.shape),
            triple(case.spacing_mm),
            case.orientation,
            Text(_label_list(case, store.label_names)),
            Text("; ".join(case.remarks)),
        )
    return table


def label_table(store: Store) -> Table:
    """A row for each label: number of cases, median voxels and median box."""
    table = Table(title="Labels")
    table.add_column("label", justify="right")
    table.add_column("name")
    table.add_column("cases", justify="right")
    table.add_column("median voxels", justify="right")
    table.add_column("median box", justify="right")
    for value, name in store.label_names.items():
        cases = [case for case in store.catalogue.values() if value in case.voxel_counts]
        counts = [case.voxel_counts[value] for case in cases]
        boxes = [case.boxes[value].extent for case in cases]
        table.add_row(
            str(value),
            Text(name),
            str(len(cases)),
            f"{np.median(counts):,.0f}" if counts else "-",
            triple(np.median(boxes, axis=0)) if boxes else "-",
        )
    return table


def _skipped(reasons: Mapping[str, str]) -> Table:
    table = Table("skipped", "reason")
    for name, reason in sorted(reasons.items()):
        table.add_row(Text(name), Text(reason))
    return table


def _label_list(case: Case, names: Mapping[int, str]) -> str:
    values = sorted(case.voxel_counts)
    if len(values) > _MAX_LABELS:
        return f"{len(values)} of {len(names)}"
    return ", ".join(f"{names[value]} {case.voxel_counts[value]:,}" for value in values)


def triple(values) -> str:
    """Three numbers as text, such as a shape or a spacing."""
    return " x ".join(f"{value:.4g}" for value in values)
