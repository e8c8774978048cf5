"""Targets: what the files and folders that people name mean, and where results go."""

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

_MOST_CHANNELS = 100
"""Numbers from here on that a name ends in are no channel, but a date, a subject or the like."""

_OWN_FORMAT = {
    **{".nii.gz": "nii.gz", ".nii": "nii", ".hdr": "nii.gz"},
    **{".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "mha", ".mhd": "mha"},
}
"""The format of a result by the ending of its target; nii.gz for all others."""


@dataclass(frozen=True)
class Target:
    """One image to segment."""

    name: str
    """What people know it by: its path as it was given, or found."""
    files: tuple[Path, ...]
    """Its file, or all files of a DICOM series."""
    output: Path
    """Where its label map goes."""
    channel: int = 0
    """Which channel is segmented, if its file holds several."""
    remarks: tuple[str, ...] = ()
    """What was chosen on the way to it."""


class TargetList(NamedTuple):
    """What was named."""

    targets: tuple[Target, ...]
    notes: tuple[str, ...]
    """What each folder was taken for."""
    problems: tuple[str, ...]
    """Why something that was named gives no target."""


class _Image(NamedTuple):
    """An image that was found, and the name that its result gets."""

    files: tuple[Path, ...]
    result: str
    name: str
    remarks: tuple[str, ...] = ()
    is_channel: bool = False
    """Whether its name says which channel it is, so that none is left to choose."""


def find_targets(
    named: Sequence[Path], output: Path, *, ending: str | None = None, channel: int = 0
) -> TargetList:
    """The targets that files and folders stand for, each with its output in `output`.

    A file is itself. A folder stands for all images in it, in natural order; if their names end
    in channel numbers, as nnU-Net's do, for one image of each case, of `channel`; and for every
    DICOM series in it or below, named by its folder. Results are named as their targets, without
    channel numbers, and end in `ending`, or else in the target's own format.
    """
    images: list[_Image] = []
    notes, problems = [], []
    files = [path for path in named if not path.is_dir()]
    whole = {path: case_and_channel(path) for path in files}
    cases = [case and (path.parent, case[0]) for path, case in whole.items()]
    for path in named:
        if not path.is_dir():
            case = whole[path]
            # Several channels of a case that are named one by one are results of their own.
            alone = case and cases.count((path.parent, case[0])) == 1
            result = case[0] if alone else stem_of(path)
            images.append(_Image((path,), result, str(path), is_channel=bool(case)))
            continue
        try:
            found = [*_images_in(path, channel), *_series_in(path)]
        except DataError as error:
            problems.append(str(error))
            continue
        if not found:
            problems.append(
                f"{path} has no image in it: expected files named {', '.join(READ_ENDINGS)}, or "
                "DICOM files"
            )
        images += found
        several = [image for image in found if image.remarks]
        how = f", {several[0].remarks[0]}" if several else ""
        notes.append(f"{path}: {len(found)} image{'s' * (len(found) != 1)}{how}")
    targets = tuple(
        Target(
            image.name,
            image.files,
            output / f"{image.result}.{ending or _own_format(image.files[0])}",
            0 if image.is_channel else channel,
            image.remarks,
        )
        for image in images
    )
    return TargetList(targets, tuple(notes), tuple(problems))


def read_target(
    target: Target, reading: ReadingConfig | None = None
) -> tuple[Volume, tuple[str, ...]]:
    """A target's image, and what is unusual about it.

    Raises:
        DataError: as `data.images.read_channels`, or it has no such channel.
    """
    try:
        found = read_channels(target.files, reading, may_be_constant=True)
    except DataError as error:
        if len(target.files) == 1 and "only slice" in str(error):
            raise DataError(f"{error}; give the folder of its series") from error
        raise
    count = len(found.image)
    if target.channel >= count:
        raise DataError(
            f"{target.name} has {count} channel{'s' * (count != 1)}, numbered from 0; there is no "
            f"channel {target.channel}"
        )
    remarks = (*target.remarks, *found.remarks)
    if count > 1:
        remarks = (*remarks, f"channel {target.channel} of {count}")
    image = found.image[target.channel].astype(np.float32, copy=False)
    return Volume(image, found.affine), remarks


def case_and_channel(file: Path) -> tuple[str, int] | None:
    """Case and channel of a file that is named as nnU-Net does, `CASE_0000.nii.gz`; or None."""
    numbered = CHANNEL.fullmatch(stem_of(file))
    if numbered is None or int(numbered[2]) >= _MOST_CHANNELS:
        return None
    return numbered[1], int(numbered[2])


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A key for sorting by which 9 comes before 10."""
    parts = re.split(r"(\d+)", text)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def _own_format(file: Path) -> str:
    endings = (e for e in _OWN_FORMAT if file.name.lower().endswith(e))
    return _OWN_FORMAT[next(endings)] if file.name.lower().endswith(READ_ENDINGS) else "nii.gz"


def _images_in(folder: Path, channel: int) -> Iterator[_Image]:
    """The images of a folder; of a case with several channels, the one asked for."""
    files = sorted(volumes(folder), key=lambda file: natural(file.name))
    found = [case_and_channel(file) for file in files]
    cases: dict[str, set[int]] = defaultdict(set)
    for case in filter(None, found):
        cases[case[0]].add(case[1])
    # Numbers that begin elsewhere count visits or the like.
    if None in found or not any(0 in channels for channels in cases.values()):
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
    for file, (name, number) in zip(files, found, strict=True):
        if number == channel:
            yield _Image((file,), name, str(file), remarks, is_channel=True)


def _series_in(folder: Path) -> Iterator[_Image]:
    """The DICOM series in a folder and below, each named by the folder that it lies in."""
    series, _, damaged = dicom.scan(folder)
    places: dict[Path, list[dicom.Series]] = defaultdict(list)
    for one in series:
        parents = {file.parent for file in one.files}
        shared = next(iter(parents))
        while not all(parent.is_relative_to(shared) for parent in parents):
            shared = shared.parent
        places[shared].append(one)
    # A file that cannot be read may be a slice: its series fails rather than lack it.
    for file in damaged:
        near = [place for place in places if file.is_relative_to(place)]
        if near:
            place = max(near, key=lambda place: len(place.parts))
            places[place] = [s._replace(files=(*s.files, file)) for s in places[place]]
        else:
            places[file.parent].append(dicom.Series("", "", "", "", (file,)))
    for place in sorted(places, key=lambda place: natural(str(place))):
        name = "_".join(place.relative_to(folder).parts) or folder.resolve().name
        found = places[place]
        if len(found) == 1:
            yield _Image(found[0].files, name, str(place))
            continue
        descriptions = [as_file_name(one.description) for one in found]
        for one, described in zip(found, descriptions, strict=True):
            own = described if descriptions.count(described) == 1 else ""
            own = own or one.uid.rpartition(".")[2]
            yield _Image(one.files, f"{name}_{own}", f"{place} ({one.description or one.uid})")


def as_file_name(text: str) -> str:
    """Text as a short part of a file's name: letters, digits, points, dashes, underscores."""
    return cut(re.sub(r"[^\w.-]+", "_", text).strip("_."))
