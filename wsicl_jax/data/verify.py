"""Whether a store is as it was written: every byte of it is read and every checksum compared."""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorstore as ts
from rich.table import Table
from rich.text import Text

from wsicl_jax.data.catalogue import Case, from_lines
from wsicl_jax.data.store import (
    CATALOGUE,
    IMAGE,
    LABEL,
    complete_cases,
    digest_of,
    open_array,
    read_case,
    read_root,
)
from wsicl_jax.errors import DataError, reason
from wsicl_jax.storage.documents import parse_json
from wsicl_jax.storage.location import Location
from wsicl_jax.terminal.progress import track

_CASES_AT_ONCE = 2


class Damage(NamedTuple):
    """Something that is not as it was written."""

    case: str
    """Empty: it concerns the whole store."""
    file: str
    """Key of the file below the store."""
    what: str


def verify(path: str | Path | Location) -> tuple[int, list[Damage]]:
    """Read everything of a store: the number of cases, and all that is damaged or missing.

    Raises:
        DataError: there is no store.
    """
    location = Location.of(path)
    if read_root(location) is None:
        raise DataError(f"no store at {location}; check the path")
    there = complete_cases(location)
    content = location.read(CATALOGUE)
    found: list[Damage] = []
    catalogue: dict[str, Case] = {}
    if content is None:
        found.append(Damage("", CATALOGUE, "is missing: the conversion did not finish"))
    else:
        try:
            catalogue = from_lines(content, CATALOGUE)
        except DataError as error:
            found.append(Damage("", CATALOGUE, str(error)))
    names = sorted(there | catalogue.keys())
    with (
        track(len(names), f"verifying {location.name}") as progress,
        ThreadPoolExecutor(_CASES_AT_ONCE) as pool,
    ):
        for damage in pool.map(lambda name: _damage_of(location, name, catalogue), names):
            found += damage
            progress.advance()
            progress.status(f"{len(found)} damaged" if found else "")
    return len(names), found


def damage_table(found: Sequence[Damage]) -> Table:
    """A row for everything that is damaged."""
    table = Table("case", "file", "damage")
    for damage in found:
        table.add_row(*map(Text, damage))
    return table


def _damage_of(location: Location, name: str, catalogue: dict[str, Case]) -> list[Damage]:
    metadata = f"cases/{name}/zarr.json"
    case = read_case(location, name)
    if case is None:
        return [Damage(name, metadata, "is missing or damaged")]
    found = [*_unreadable_groups(location, name)]
    if catalogue and name not in catalogue:
        found.append(Damage(name, CATALOGUE, "does not have this case"))
    elif catalogue and catalogue[name].digest != case.digest:
        found.append(Damage(name, metadata, f"is of another conversion than {CATALOGUE}"))
    arrays = []
    for array in (IMAGE, LABEL):
        try:
            opened = open_array(location, case, array)
        except ValueError as error:
            file = f"cases/{name}/{array}/zarr.json"
            found.append(Damage(name, file, reason(error)))
            continue
        damaged = [*_damaged_chunks(opened, f"cases/{name}/{array}/c")]
        found += [Damage(name, file, what) for file, what in damaged]
        if not damaged:
            arrays.append(opened.read().result())
    if len(arrays) == 2 and digest_of(*arrays, case.affine) != case.digest:
        found.append(Damage(name, f"cases/{name}", "has other voxels than were written"))
    return found


def _unreadable_groups(location: Location, name: str) -> Iterator[Damage]:
    for group in ("labels", "labels/structures"):
        file = f"cases/{name}/{group}/zarr.json"
        try:
            parse_json(location.read(file) or b"")["attributes"]["ome"]
        except (ValueError, LookupError, TypeError):
            yield Damage(name, file, "is missing or damaged")


def _damaged_chunks(opened: ts.TensorStore, prefix: str) -> Iterator[tuple[str, str]]:
    """The files of an array that cannot be read, each with the reason."""
    shard = opened.chunk_layout.write_chunk.shape
    counts = -(-np.array(opened.shape) // np.array(shard))
    for position in itertools.product(*map(range, counts)):
        part = tuple(
            slice(i * step, min((i + 1) * step, side))
            for i, step, side in zip(position, shard, opened.shape, strict=True)
        )
        try:
            opened[part].read().result()
        except ValueError as error:
            yield "/".join([prefix, *map(str, position)]), reason(error)
