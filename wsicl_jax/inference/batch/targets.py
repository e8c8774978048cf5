"""Targets: the images that named files and folders stand for, and the files of their results."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.formats import dicom
from wsicl_jax.data.images import READ_ENDINGS, Volume, read_channels
from wsicl_jax.data.layouts.described import CHANNEL
from wsicl_jax.data.layouts.layout import stem_of, volumes
from wsicl_jax.errors import DataError
from wsicl_jax.storage.safe_names import cut

_MAX_CHANNELS = 100
"""A larger number at the end of a name is no channel, but a date, a subject or the like."""

_FORMAT_OF_TARGET = {
    **{".nii.gz": "nii.gz", ".nii": "nii", ".hdr": "nii.gz"},
    **{".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "mha", ".mhd": "mha"},
}
"""The format of a result by the ending of its target; nii.gz for all others."""


@dataclass(frozen=True)
class Target:
    """One image to segment."""

    name: str
    """Its path as the user gave it, or as it lies in a folder."""
    files: tuple[Path, ...]
    """Its file, or all files of a DICOM series."""
    output: Path
    """The file of its label map."""
    channel: int = 0
    """The channel to segment, if its file has several."""
    remarks: tuple[str, ...] = ()
    """Choices that led to it."""


class TargetList(NamedTuple):
    """The targets of a command."""

    targets: tuple[Target, ...]
    notes: tuple[str, ...]
    """Number of images in each folder."""
    problems: tuple[str, ...]
    """Reasons why a name gives no target."""


class _Image(NamedTuple):
    """An image, and the name of its result."""

    files: tuple[Path, ...]
    result: str
    name: str
    remarks: tuple[str, ...] = ()
    is_channel: bool = False
    """Whether its name has the channel's number, so that there is none to choose."""


def find_targets(
    named: Sequence[Path], output: Path, *, ending: str | None = None, channel: int = 0
) -> TargetList:
    """The targets that files and folders stand for, each with its output in `output`.

    A file stands for itself. A folder stands for all images in it, in natural order, and for
    every DICOM series in it or below, named by its folder. If names end in channel numbers, as in
    nnU-Net, it stands for the image of `channel` of each case. Results are named as their
    targets, without channel numbers, and end in `ending`, or else in the target's format.
    """
    images: list[_Image] = []
    notes, problems = [], []
    files = [path for path in named if not path.is_dir()]
    numbered = {path: case_and_channel(path) for path in files}
    cases = [case and (path.parent, case[0]) for path, case in numbered.items()]
    for path in named:
        if not path.is_dir():
            case = numbered[path]
            # Several channels of a case, named one by one, are results of their own.
            alone = case and cases.count((path.parent, case[0])) == 1
            result = case[0] if alone else stem_of(path)
            images.append(_Image((path,), result, str(path), is_channel=bool(case)))
            continue
        try:
            in_folder = [*_images_in(path, channel), *_series_in(path)]
        except DataError as error:
            problems.append(str(error))
            continue
        if not in_folder:
            problems.append(
                f"{path} has no image in it: expected files named {', '.join(READ_ENDINGS)}, or "
                "DICOM files"
            )
        images += in_folder
        remarks = [image.remarks[0] for image in in_folder if image.remarks]
        chosen = f", {remarks[0]}" if remarks else ""
        notes.append(f"{path}: {len(in_folder)} image{'s' * (len(in_folder) != 1)}{chosen}")
    targets = tuple(
        Target(
            image.name,
            image.files,
            output / f"{image.result}.{ending or _format_of_target(image.files[0])}",
            0 if image.is_channel else channel,
            image.remarks,
        )
        for image in images
    )
    return TargetList(targets, tuple(notes), tuple(problems))


def read_target(
    target: Target, reading: ReadingConfig | None = None
) -> tuple[Volume, tuple[str, ...]]:
    """A target's image, and remarks on it.

    Raises:
        DataError: as `data.images.read_channels`, or it has no such channel.
    """
    try:
        channels = read_channels(target.files, reading, may_be_constant=True)
    except DataError as error:
        if len(target.files) == 1 and "only slice" in str(error):
            raise DataError(f"{error}; give the folder of its series") from error
        raise
    count = len(channels.image)
    if target.channel >= count:
        raise DataError(
            f"{target.name} has {count} channel{'s' * (count != 1)}, numbered from 0; there is no "
            f"channel {target.channel}"
        )
    remarks = (*target.remarks, *channels.remarks)
    if count > 1:
        remarks = (*remarks, f"channel {target.channel} of {count}")
    image = channels.image[target.channel].astype(np.float32, copy=False)
    return Volume(image, channels.affine), remarks


def case_and_channel(file: Path) -> tuple[str, int] | None:
    """Case and channel of a file named as in nnU-Net, `CASE_0000.nii.gz`; else None."""
    numbered = CHANNEL.fullmatch(stem_of(file))
    if numbered is None or int(numbered[2]) >= _MAX_CHANNELS:
        return None
    return numbered[1], int(numbered[2])


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A sorting key that puts 9 before 10."""
    parts = re.split(r"(\d+)", text)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def _format_of_target(file: Path) -> str:
    name = file.name.lower()
    return next((f for ending, f in _FORMAT_OF_TARGET.items() if name.endswith(ending)), "nii.gz")


def _images_in(folder: Path, channel: int) -> Iterator[_Image]:
    """The images of a folder; of a case with several channels, the image of `channel`."""
    files = sorted(volumes(folder), key=lambda file: natural(file.name))
    numbered = [case_and_channel(file) for file in files]
    cases: dict[str, set[int]] = defaultdict(set)
    for case in filter(None, numbered):
        cases[case[0]].add(case[1])
    # Numbers that do not begin at 0 count visits or the like.
    if None in numbered or not any(0 in channels for channels in cases.values()):
        for file in files:
            yield _Image((file,), stem_of(file), str(file))
        return
    count = max(map(len, cases.values()))
    for name, channels in cases.items():
        if channels != set(range(count)):
            raise DataError(
                f"{folder}: names end in channel numbers, up to {count} for each case, but "
                f"{name!r} has {sorted(channels)}; add what is missing, or name single files"
            )
    if channel >= count:
        raise DataError(
            f"{folder} has {count} channel{'s' * (count != 1)} of each case, numbered from 0; "
            f"there is no channel {channel}"
        )
    remarks = (f"channel {channel} of {count}",) if count > 1 else ()
    for file, (name, number) in zip(files, numbered, strict=True):
        if number == channel:
            yield _Image((file,), name, str(file), remarks, is_channel=True)


def _series_in(folder: Path) -> Iterator[_Image]:
    """The DICOM series in a folder and below, each named by its folder."""
    series, _, damaged = dicom.scan(folder)
    places: dict[Path, list[dicom.Series]] = defaultdict(list)
    for one in series:
        parents = {file.parent for file in one.files}
        shared = next(iter(parents))
        while not all(parent.is_relative_to(shared) for parent in parents):
            shared = shared.parent
        places[shared].append(one)
    # A damaged file may be a slice: its series fails instead of missing a slice.
    for file in damaged:
        near = [place for place in places if file.is_relative_to(place)]
        if near:
            place = max(near, key=lambda place: len(place.parts))
            places[place] = [s._replace(files=(*s.files, file)) for s in places[place]]
        else:
            places[file.parent].append(dicom.Series("", "", "", "", (file,)))
    for place in sorted(places, key=lambda place: natural(str(place))):
        name = "_".join(place.relative_to(folder).parts) or folder.resolve().name
        here = places[place]
        if len(here) == 1:
            yield _Image(here[0].files, name, str(place))
            continue
        descriptions = [as_file_name(one.description) for one in here]
        for one, described in zip(here, descriptions, strict=True):
            suffix = described if descriptions.count(described) == 1 else ""
            suffix = suffix or one.uid.rpartition(".")[2]
            yield _Image(one.files, f"{name}_{suffix}", f"{place} ({one.description or one.uid})")


def as_file_name(text: str) -> str:
    """Text as a short part of a file's name: letters, digits, points, dashes, underscores."""
    return cut(re.sub(r"[^\w.-]+", "_", text).strip("_."))
