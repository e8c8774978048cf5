"""Folders of images and labels in pairs, without a description."""

import contextlib
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from wsicl_jax.data.images import READ_ENDINGS, read_channels
from wsicl_jax.data.layouts.described import CHANNEL
from wsicl_jax.data.layouts.layout import (
    Layout,
    LayoutFiles,
    is_volume,
    is_voxel_file,
    layout_of,
    stem_of,
    visible,
    volumes,
)
from wsicl_jax.errors import DataError

IMAGE_FOLDERS = ("images", "imagesTr", "image", "imgs", "img", "volumes")
LABEL_FOLDERS = ("labels", "labelsTr", "label", "segmentations", "segs", "seg", "masks", "mask")
"""Names of folders of images, and of labels; the first that exists is used."""

_SUFFIXES = re.compile(
    r"[_.-](image|img|volume|label|labels|seg|segmentation|mask)$", re.IGNORECASE
)


def is_paired(source: Path) -> bool:
    """Whether a folder has two folders of images and labels, or volumes in it."""
    return _pair_of_folders(source) is not None or bool(volumes(source))


def paired(source: Path) -> Layout:
    """Files of equal names in `images` and `labels`, or `NAME_image` and `NAME_label` in one.

    Raises:
        DataError: there are none.
    """
    folders = _pair_of_folders(source)
    cases: dict[str, LayoutFiles] = defaultdict(LayoutFiles)
    skipped = {}
    if folders:
        images, labels = folders
        for file in visible(images):
            if not is_volume(file):
                if not is_voxel_file(file):
                    skipped[f"{images.name}/{file.name}"] = "is no image of a known format"
                continue
            numbered = CHANNEL.fullmatch(stem_of(file))
            name, channel = (numbered[1], int(numbered[2])) if numbered else (stem_of(file), 0)
            cases[_without_suffix(name)].images[channel].append(file)
        for file in visible(labels):
            if is_volume(file):
                cases[_without_suffix(stem_of(file))].labels.append(file)
            elif not is_voxel_file(file):
                skipped[f"{labels.name}/{file.name}"] = "is no image of a known format"
    else:
        for file in volumes(source):
            suffix = _SUFFIXES.search(stem_of(file))
            is_label = suffix and suffix[1].lower() not in ("image", "img", "volume")
            case = cases[_without_suffix(stem_of(file))]
            (case.labels if is_label else case.images[0]).append(file)
    if not cases:
        raise DataError(
            f"{source} has no pairs of images and labels; looked for folders such as images and "
            "labels, and for files such as A_image.nii.gz and A_label.nii.gz, of "
            f"{', '.join(READ_ENDINGS)}"
        )
    return layout_of("paired", source, _channel_names(cases), None, cases, skipped)


def _channel_names(cases: Mapping[str, LayoutFiles]) -> tuple[str, ...]:
    """Names of the channels: as many as numbered files, or else as the first readable file has."""
    count = max(len(case.images) for case in cases.values())
    if count == 1:
        for file in (file for case in cases.values() for file in case.images.get(0, ())):
            with contextlib.suppress(DataError):  # reported when the case is converted
                count = len(read_channels([file]).image)
                break
    return tuple(f"channel {i}" for i in range(count)) if count > 1 else ("image",)


def _pair_of_folders(source: Path) -> tuple[Path, Path] | None:
    by_name = {folder.name.lower(): folder for folder in source.iterdir() if folder.is_dir()}
    images, labels = (
        next((by_name[name.lower()] for name in names if name.lower() in by_name), None)
        for names in (IMAGE_FOLDERS, LABEL_FOLDERS)
    )
    return (images, labels) if images and labels else None


def _without_suffix(stem: str) -> str:
    return _SUFFIXES.sub("", stem)
