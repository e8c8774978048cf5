"""Verification of a store: reads every byte and compares every checksum."""

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
    """A file that is missing or not as it was written."""

    case: str
    """Empty: the damage concerns the whole store."""
    file: str
    """Key of the file below the store."""
    description: str


def verify(path: str | Path | Location) -> tuple[int, list[Damage]]:
    """Read a whole store: the number of cases, and all damaged or missing files.

    Raises:
        DataError: there is no store.
    """
    location = Location.of(path)
    if read_root(location) is None:
        raise DataError(f"no store at {location}; check the path")
    complete = complete_cases(location)
    content = location.read(CATALOGUE)
    damages: list[Damage] = []
    catalogue: dict[str, Case] = {}
    if content is None:
        damages.append(Damage("", CATALOGUE, "is missing: the conversion did not finish"))
    else:
        try:
            catalogue = from_lines(content, CATALOGUE)
        except DataError as error:
            damages.append(Damage("", CATALOGUE, str(error)))
    names = sorted(complete | catalogue.keys())
    with (
        track(len(names), f"verifying {location.name}") as progress,
        ThreadPoolExecutor(_CASES_AT_ONCE) as pool,
    ):
        for damage in pool.map(lambda name: _damage_of(location, name, catalogue), names):
            damages += damage
            progress.advance()
            progress.status(f"{len(damages)} damaged" if damages else "")
    return len(names), damages


def damage_table(damages: Sequence[Damage]) -> Table:
    """A row for each damage."""
    table = Table("case", "file", "damage")
    for damage in damages:
        table.add_row(*map(Text, damage))
    return table


def _damage_of(location: Location, name: str, catalogue: dict[str, Case]) -> list[Damage]:
    metadata = f"cases/{name}/zarr.json"
    case = read_case(location, name)
    if case is None:
        return [Damage(name, metadata, "is missing or damaged")]
    damages = [*_unreadable_groups(location, name)]
    if catalogue and name not in catalogue:
        damages.append(Damage(name, CATALOGUE, "does not have this case"))
    elif catalogue and catalogue[name].digest != case.digest:
        damages.append(Damage(name, metadata, f"is of another conversion than {CATALOGUE}"))
    arrays = []
    for array in (IMAGE, LABEL):
        try:
            opened = open_array(location, case, array)
        except ValueError as error:
            file = f"cases/{name}/{array}/zarr.json"
            damages.append(Damage(name, file, reason(error)))
            continue
        damaged_chunks = [*_damaged_chunks(opened, name, f"cases/{name}/{array}/c")]
        damages += damaged_chunks
        if not damaged_chunks:
            arrays.append(opened.read().result())
    if len(arrays) == 2 and digest_of(*arrays, case.affine) != case.digest:
        damages.append(Damage(name, f"cases/{name}", "has other voxels than were written"))
    return damages


def _unreadable_groups(location: Location, name: str) -> Iterator[Damage]:
    for group in ("labels", "labels/structures"):
        file = f"cases/{name}/{group}/zarr.json"
        try:
            parse_json(location.read(file) or b"")["attributes"]["ome"]
        except (ValueError, LookupError, TypeError):
            yield Damage(name, file, "is missing or damaged")


def _damaged_chunks(array: ts.TensorStore, case: str, prefix: str) -> Iterator[Damage]:
    """The files of an array that cannot be read."""
    shard = array.chunk_layout.write_chunk.shape
    counts = -(-np.array(array.shape) // np.array(shard))
    for position in itertools.product(*map(range, counts)):
        part = tuple(
            slice(i * step, min((i + 1) * step, side))
            for i, step, side in zip(position, shard, array.shape, strict=True)
        )
        try:
            array[part].read().result()
        except ValueError as error:
            yield Damage(case, "/".join([prefix, *map(str, position)]), reason(error))
