"""From an nnU-Net v2 folder to one store; a case that cannot be used is named with its reason."""

import json
import re
import shutil
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsicl_jax.data.images import ENDINGS, check_same_grid, read_intensities, read_label
from wsicl_jax.data.store import UNFINISHED, create_store, write_case
from wsicl_jax.errors import DataError
from wsicl_jax.progress import track


@dataclass(frozen=True)
class ConversionSummary:
    """What became of every case of the source."""

    store: Path
    written: tuple[str, ...]
    """Cases in the store, sorted."""
    skipped: dict[str, str]
    """Cases, or files that belong to none, that were left out, each with the reason."""

    def table(self) -> RenderableType:
        """The counts, and one row for everything that was left out, for `console().print`."""
        end = f"written to {self.store}" if self.written else "can be used; no store was made"
        headline = Text(f"{len(self.written)} of {len(self.written) + len(self.skipped)} {end}")
        if not self.skipped:
            return headline
        table = Table("left out", "reason")
        for name, reason in sorted(self.skipped.items()):
            table.add_row(Text(name), Text(reason))
        return Group(headline, table)


@dataclass
class _Files:
    """The files of one case."""

    images: dict[int, Path] = field(default_factory=dict)
    label: Path | None = None


@dataclass(frozen=True)
class _Description:
    """What dataset.json says."""

    channel_names: tuple[str, ...]
    label_names: dict[int, str]
    ending: str


def convert(source: str | Path, store_path: str | Path, *, workers: int) -> ConversionSummary:
    """Write the training cases of an nnU-Net v2 folder into a new store, `workers` at a time.

    If no case can be used, no store is made; the summary then has no written case.

    Raises:
        DataError: dataset.json is missing, invalid or asks for what a store cannot hold,
            there are no cases, or the store exists already or cannot be written.
    """
    source, store_path = Path(source), Path(store_path)
    description = _read_description(source)
    files, skipped = _find_files(source, description.ending)
    name = source.resolve().name
    create_store(
        store_path,
        name,
        description.channel_names,
        description.label_names,
        unfinished=True,
    )

    written = []
    pool = ThreadPoolExecutor(max_workers=max(workers, 1))
    try:
        cases = {
            pool.submit(_convert_case, store_path, case, found, description): case
            for case, found in files.items()
        }
        with track(len(cases), f"converting {name}") as progress:
            for future in as_completed(cases):
                if reason := future.result():
                    skipped[cases[future]] = reason
                else:
                    written.append(cases[future])
                progress.advance()
                progress.status(f"{len(skipped)} left out" if skipped else "")
    finally:
        pool.shutdown(cancel_futures=True)
    if written:
        (store_path / UNFINISHED).unlink()
    else:
        shutil.rmtree(store_path)
    return ConversionSummary(store_path, tuple(sorted(written)), skipped)


def _convert_case(
    store_path: Path, case: str, files: _Files, description: _Description
) -> str | None:
    """Write one case; the reason if it cannot be used. Raises `DataError` if writing fails."""
    try:
        image, label, affine = _read_case(files, description)
    except DataError as error:
        return str(error)
    sources = [file.name for file in (*files.images.values(), files.label)]
    write_case(store_path, case, image, label, affine, sources)
    return None


def _read_case(
    files: _Files, description: _Description
) -> tuple[Num[np.ndarray, "c x y z"], Integer[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    if not files.images:
        raise DataError("has a label but no image")
    if files.label is None:
        raise DataError("has an image but no label")
    channels = range(len(description.channel_names))
    if sorted(files.images) != list(channels):
        raise DataError(
            f"has image channels {sorted(files.images)}; dataset.json names {list(channels)}"
        )
    label, label_affine = read_label(files.label)
    unknown = sorted({int(v) for v in np.unique(label)} - {0, *description.label_names})
    if unknown:
        raise DataError(f"{files.label} has labels {unknown} that dataset.json does not name")
    images = []
    for channel in channels:
        image, affine = read_intensities(files.images[channel])
        check_same_grid(
            (files.images[channel], files.label),
            (image.shape, label.shape),
            (affine, label_affine),
        )
        images.append(image)
    return np.stack(images), label, affine


def _find_files(source: Path, ending: str) -> tuple[dict[str, _Files], dict[str, str]]:
    """The files of each case, and visible files that belong to none with the reason."""
    files: dict[str, _Files] = defaultdict(_Files)
    stray = {}
    for folder in (source / "imagesTr", source / "labelsTr"):
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        for file in (file for file in found if not file.name.startswith(".")):
            stem = file.name.removesuffix(ending)
            numbered = re.fullmatch(r"(.+)_(\d{4})", stem)
            if stem == file.name:
                stray[f"{folder.name}/{file.name}"] = f"does not end in {ending}"
            elif folder.name == "labelsTr":
                files[stem].label = file
            elif numbered:
                files[numbered[1]].images[int(numbered[2])] = file
            else:
                stray[f"{folder.name}/{file.name}"] = "has no channel number such as _0000"
    if not files:
        raise DataError(f"{source} has no {ending} files of cases in imagesTr and labelsTr")
    return dict(sorted(files.items())), stray


def _read_description(source: Path) -> _Description:
    file = source / "dataset.json"
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{file} is missing; expected a folder in nnU-Net v2 layout") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a {type(content).__name__}; expected an object")
    ending = content.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        raise DataError(f"{file}: file_ending {ending!r} is not supported, only {ENDINGS}")
    channels = content.get("channel_names", content.get("modality"))
    expected = [str(i) for i in range(len(channels))] if isinstance(channels, dict) else []
    if not expected or sorted(channels, key=str) != sorted(expected):
        raise DataError(
            f"{file}: channel_names is {channels!r}; expected names by number, "
            'such as {"0": "MRI"}'
        )
    names = tuple(str(channels[number]) for number in expected)
    return _Description(names, _label_names(file, content.get("labels")), ending)


def _label_names(file: Path, labels: Any) -> dict[int, str]:
    if not isinstance(labels, dict):
        raise DataError(f"{file}: labels is {labels!r}; expected values by name")
    names: dict[int, str] = {}
    for name, value in labels.items():
        if isinstance(value, list):
            raise DataError(
                f"{file}: label {name!r} is a region {value}; give every label one integer, "
                "labels can be united into structures in the configuration"
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DataError(f"{file}: label {name!r} is {value!r}; expected an integer from 0")
        if name == "ignore":
            raise DataError(f"{file}: label 'ignore' marks voxels without truth; not supported")
        if value in names:
            raise DataError(f"{file}: labels {names[value]!r} and {name!r} are both {value}")
        names[value] = name
    names.pop(0, None)
    if not names:
        raise DataError(f"{file} names no label but background")
    return dict(sorted(names.items()))
