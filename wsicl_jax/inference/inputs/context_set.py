"""A context set from the command line: a JSON file, pairs of files, or cases of a data set."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.images import Volume, read_channels, read_label
from wsicl_jax.data.layouts.find import find_layout
from wsicl_jax.data.layouts.layout import CaseFiles, Layout
from wsicl_jax.data.random_streams import RandomStream
from wsicl_jax.errors import DataError, PromptError
from wsicl_jax.inference.inputs.example import UNNAMED, Example
from wsicl_jax.inference.inputs.request import read_context

SUBJECTS = 8
"""Cases of a data set that show a task, unless said otherwise; beyond, accuracy hardly grows."""

_TOLD = 3
"""Most cases that are named where some cannot be used."""


class ContextSet(NamedTuple):
    """What shows a task; images are not read yet."""

    structures: dict[str, list[Example]]
    values: dict[str, int]
    """Value of each structure in label maps."""
    files: tuple[Path, ...]
    """All that it comes from, so that no result replaces one."""
    notes: tuple[str, ...] = ()
    """What was chosen for it, and what could not be used."""


def from_files(
    request: Path | None,
    pairs: Sequence[tuple[Path, Path]] = (),
    labels: Mapping[int, str] | None = None,
) -> ContextSet:
    """The context set of a JSON file, and of images with their masks.

    `labels` names values of the masks, each a structure; without, all voxels that are not zero
    are one structure.

    Raises:
        DataError: the JSON file cannot be read, or `labels` come without a mask.
        PromptError: the JSON file is not of its form, or there is no context image; masks of
            several structures, or of another one, cannot be added to the structures of a file.
    """
    if labels and not pairs:
        raise DataError("labels name values of masks, and there is none; give images with masks")
    structures: dict[str, list[Example]] = {}
    values: dict[str, int] = {}
    files: list[Path] = []
    if request is not None:
        context = read_context(request)
        structures = {name: list(examples) for name, examples in context.structures.items()}
        values = dict(context.values)
        files.append(request)
    if pairs:
        named = {name: value for value, name in labels.items()} if labels else None
        for name in _joined(structures, named):
            chosen = None if named is None else [named[name]]
            examples = structures.setdefault(name, [])
            values.setdefault(name, 1 if named is None else named[name])
            for number, (image, mask) in enumerate(pairs, 1):
                called = f"example {number}"
                examples.append(Example(image, mask=mask, labels=chosen, name=called))
    if not structures:
        raise PromptError("no context set: nothing shows what is to be segmented")
    examples = [example for shown in structures.values() for example in shown]
    files += [file for example in examples for file in example.files]
    return ContextSet(structures, values, tuple(dict.fromkeys(files)))


def _joined(structures: Mapping[str, object], named: Mapping[str, int] | None) -> list[str]:
    """The structures that masks show, beside those of a file."""
    if not structures:
        return list(named or {UNNAMED: 1})
    if len(structures) > 1 or (named is not None and list(named) != list(structures)):
        own = list(named) if named else "one"
        raise PromptError(
            f"the JSON file shows the structures {list(structures)}, to which masks of {own} "
            "cannot be added; both must show one and the same, or name all of them in the file"
        )
    return list(structures)


def from_dataset(
    folder: Path,
    *,
    subjects: int = SUBJECTS,
    seed: int = 0,
    structures: Sequence[str] | None = None,
    channel: int = 0,
    labels: Mapping[int, str] | None = None,
    targets: Collection[Path] = (),
    reading: ReadingConfig | None = None,
) -> ContextSet:
    """Training cases of a data set of nnU-Net, the Decathlon or paired folders, with their masks.

    `subjects` cases are drawn by `seed`; where they lack a structure, further ones join for it.
    `structures` chooses among those that dataset.json names; `labels` names them where the folder
    does not. Cases of `targets` are left out, which would show themselves their own truth.

    Raises:
        DataError: the folder is of no such layout or has no case left; a structure or channel is
            unknown, or no case has it.
    """
    layout = find_layout(folder)
    values = _chosen(layout, structures, labels)
    taken = {file.resolve() for file in targets}
    cases = [c for c in layout.cases if not any(f.resolve() in taken for i in c.images for f in i)]
    if not cases:
        raise DataError(
            f"{folder} has no training case left: {len(layout.cases)} are there, of which "
            f"{len(layout.cases) - len(cases)} are targets themselves"
        )
    found: dict[str, list[Example]] = {name: [] for name in values}
    used: list[CaseFiles] = []
    skipped = dict(layout.skipped)
    for number in np.random.default_rng((seed, RandomStream.CONTEXT_SET)).permutation(len(cases)):
        missing = [name for name, examples in found.items() if not examples]
        if len(used) >= subjects and not missing:
            break
        case = cases[number]
        try:
            present = set(np.unique(read_label(case.labels[0], reading).label).tolist())
        except DataError as error:
            skipped[case.name] = str(error)
            continue
        lacking = missing if len(used) >= subjects else list(values)
        shown = [name for name in lacking if values[name] in present]
        if shown:
            image = _image(layout, case, channel, reading)
            used.append(case)
        for name in shown:
            mask, chosen = case.labels[0], [values[name]]
            found[name].append(Example(image, mask=mask, labels=chosen, name=case.name))
    if nowhere := [name for name, examples in found.items() if not examples]:
        raise DataError(
            f"no training case of {folder} has {', '.join(nowhere)}; leave it out of structures"
        )
    names = ", ".join(sorted(case.name for case in used))
    notes = [f"{folder}: {len(used)} of {len(layout.cases)} training cases: {names}"]
    if skipped:
        told = "; ".join(f"{name} {why}" for name, why in list(skipped.items())[:_TOLD])
        more = f"; and {len(skipped) - _TOLD} more" if len(skipped) > _TOLD else ""
        notes.append(f"{folder}: not used: {told}{more}")
    # All cases are protected, since any may be drawn the next time.
    files = [f for case in layout.cases for i in (*case.images, case.labels) for f in i]
    return ContextSet(found, values, tuple(files), tuple(notes))


def _chosen(
    layout: Layout, structures: Sequence[str] | None, labels: Mapping[int, str] | None
) -> dict[str, int]:
    """The value of each structure that is asked for."""
    if layout.kind == "dicom":
        raise DataError(
            f"{layout.source} is DICOM; its segmentations cannot show a task yet, convert them to "
            "label maps and pair these with --example"
        )
    known = labels or layout.label_names
    if known is None:
        raise DataError(
            f"{layout.source} does not name its structures; name their values, such as "
            "--labels liver=1,spleen=2"
        )
    values = {name: value for value, name in known.items()}
    if structures is None:
        return values
    if unknown := [name for name in structures if name not in values]:
        raise DataError(f"{layout.source} has no structures {unknown}; it has {list(values)}")
    return {name: values[name] for name in dict.fromkeys(structures)}


def _image(
    layout: Layout, case: CaseFiles, channel: int, reading: ReadingConfig | None
) -> Path | Volume:
    """The channel of a case, read where its file holds several."""
    count = max(len(layout.channel_names), len(case.images))
    if channel >= count:
        raise DataError(
            f"{layout.source} has channels {list(layout.channel_names)}, numbered from 0; there "
            f"is no channel {channel}"
        )
    if len(case.images) == count:
        return case.images[channel][0]
    found = read_channels(case.images[0], reading)
    for remark in found.remarks:
        warnings.warn(f"{case.images[0][0]}: {remark}", stacklevel=2)
    return Volume(found.image[channel].astype(np.float32, copy=False), found.affine)
