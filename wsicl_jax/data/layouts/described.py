"""Folders with a dataset.json: nnU-Net (v2, and v1) and the Medical Segmentation Decathlon."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsicl_jax.data.images import READ_ENDINGS
from wsicl_jax.data.layouts.layout import (
    CaseFiles,
    Layout,
    LayoutFiles,
    checked,
    in_order,
    layout_of,
    name_of,
    stem_of,
    visible,
    volumes,
)
from wsicl_jax.errors import DataError
from wsicl_jax.storage.documents import parse_json, read_file

CHANNEL = re.compile(r"(.+)_(\d{4})")
"""nnU-Net's file names without ending: case and channel number."""


def is_described(source: Path) -> bool:
    """Whether a folder has a dataset.json."""
    return (source / "dataset.json").is_file()


def is_decathlon(source: Path) -> bool:
    """Whether a described folder is one of the Decathlon, whose files hold all channels."""
    content = _read_description(source)
    if "channel_names" in content or any(
        CHANNEL.fullmatch(stem_of(file)) for file in volumes(source / "imagesTr")
    ):
        return False
    return isinstance(content.get("training"), list)


def nnunet(source: Path) -> Layout:
    """The training cases of an nnU-Net folder: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`.

    If dataset.json lists the files of each case under `dataset`, these are used instead.

    Raises:
        DataError: dataset.json is missing, invalid or needs what a store cannot hold, or there
            are no cases.
    """
    content = _read_description(source)
    ending = content.get("file_ending", ".nii.gz")
    if ending not in READ_ENDINGS:
        raise DataError(
            f"{source / 'dataset.json'}: file_ending {ending!r} is not supported, only "
            f"{', '.join(READ_ENDINGS)}"
        )
    channels = _nnunet_channels(source, content)
    names = _label_names(source, content.get("labels"))
    if "dataset" in content:
        cases, skipped = _listed_files(source, content["dataset"])
        return layout_of("nnunet", source, channels, names, cases, skipped)
    cases: dict[str, LayoutFiles] = defaultdict(LayoutFiles)
    skipped = {}
    for folder in (source / "imagesTr", source / "labelsTr"):
        for file in visible(folder):
            stem = file.name.removesuffix(ending)
            numbered = CHANNEL.fullmatch(stem)
            if stem == file.name:
                skipped[f"{folder.name}/{file.name}"] = f"does not end in {ending}"
            elif folder.name == "labelsTr":
                cases[stem].labels.append(file)
            elif numbered:
                cases[numbered[1]].images[int(numbered[2])].append(file)
            else:
                skipped[f"{folder.name}/{file.name}"] = "has no channel number such as _0000"
    if not cases:
        raise DataError(f"{source} has no {ending} files of cases in imagesTr and labelsTr")
    return layout_of("nnunet", source, channels, names, cases, skipped)


def _listed_files(source: Path, listed: Any) -> tuple[dict[str, LayoutFiles], dict[str, str]]:
    """The files of each case that nnU-Net's `dataset` lists, and cases with missing files."""
    file = source / "dataset.json"
    cases, skipped = {}, {}
    if not isinstance(listed, dict):
        raise DataError(f"{file}: dataset is {listed!r}; expected files by case")
    for name, entry in listed.items():
        try:
            images = {channel: [source / path] for channel, path in enumerate(entry["images"])}
            labels = [source / entry["label"]]
        except (KeyError, TypeError):
            raise DataError(
                f"{file}: dataset has {name!r}: {entry!r}; expected "
                '{"images": ["...", ...], "label": "..."}'
            ) from None
        missing = [f for f in (*(f for (f,) in images.values()), *labels) if not f.is_file()]
        if missing:
            skipped[name] = f"{missing[0]} is missing, though dataset.json lists it"
        else:
            cases[name] = LayoutFiles(images, labels)
    return cases, skipped


def _nnunet_channels(source: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    channels = content.get("channel_names", content.get("modality"))
    return _numbered_names(source, "channel_names", channels)


def decathlon(source: Path) -> Layout:
    """The training cases that a Decathlon folder's dataset.json lists.

    Raises:
        DataError: as `nnunet`.
    """
    content, file = _read_description(source), source / "dataset.json"
    channels = _numbered_names(source, "modality", content.get("modality"))
    names = _label_names(source, content.get("labels"))
    cases, skipped = {}, {}
    if not isinstance(content.get("training"), list):
        raise DataError(f"{file} has no list training, as the Decathlon's has")
    for entry in content["training"]:
        try:
            image, label = (source / entry[part] for part in ("image", "label"))
        except (KeyError, TypeError):
            raise DataError(
                f"{file}: training has {entry!r}; expected "
                '{"image": "./imagesTr/...", "label": "./labelsTr/..."}'
            ) from None
        name = stem_of(label)
        if name.startswith("."):
            continue
        missing = [f.name for f in (image, label) if not f.is_file()]
        if name in cases:
            skipped[name] = "is in dataset.json twice"
        elif missing:
            skipped[name] = f"{' and '.join(missing)} missing, though dataset.json lists it"
        else:
            cases[name] = CaseFiles(name, name, ((image,),), (label,))
    listed = {file.resolve() for case in cases.values() for file in (*case.images[0], *case.labels)}
    for folder in (source / "imagesTr", source / "labelsTr"):
        for stray in visible(folder):
            if stray.resolve() not in listed and stem_of(stray) not in skipped:
                skipped[f"{folder.name}/{stray.name}"] = "is not in dataset.json"
    cases = {name: case for name, case in cases.items() if name not in skipped}
    return checked(
        Layout("msd", source, name_of(source), channels, names, in_order(cases), skipped)
    )


def _numbered_names(source: Path, what: str, channels: Any) -> tuple[str, ...]:
    expected = [str(i) for i in range(len(channels))] if isinstance(channels, dict) else []
    if not expected or sorted(channels, key=str) != sorted(expected):
        raise DataError(
            f"{source / 'dataset.json'}: {what} is {channels!r}; expected names by number, "
            'such as {"0": "MRI"}'
        )
    return tuple(str(channels[number]) for number in expected)


def _read_description(source: Path) -> dict[str, Any]:
    file = source / "dataset.json"
    try:
        content = parse_json(read_file(file))
    except FileNotFoundError:
        raise DataError(
            f"{file} is missing; nnU-Net v2 and the Decathlon describe a data set in it"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a {type(content).__name__}; expected an object")
    return content


def _label_names(source: Path, labels: Any) -> dict[int, str]:
    file = source / "dataset.json"
    if not isinstance(labels, dict):
        raise DataError(f"{file}: labels is {labels!r}; expected values by name")
    if all(value.isdecimal() and isinstance(name, str) for value, name in labels.items()):
        # The Decathlon has names by value.
        labels = {name: int(value) for value, name in labels.items()}
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
