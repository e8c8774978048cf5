"""A context set from the command line: a JSON file, pairs of files, or cases of a data set."""

import hashlib
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
from wsicl_jax.inference.inputs.images import as_path
from wsicl_jax.inference.inputs.request import read_context
from wsicl_jax.storage.digests import digest_of

SUBJECTS = 8
"""Default number of cases from a data set; with more, accuracy hardly grows."""

_MAX_NAMED = 3
"""Largest number of skipped cases that a note names."""


class ContextSet(NamedTuple):
    """The context images of each structure, not read yet."""

    structures: dict[str, list[Example]]
    values: dict[str, int]
    """Value of each structure in label maps."""
    files: tuple[Path, ...]
    """All source files, so that no result replaces one."""
    notes: tuple[str, ...] = ()
    """What was chosen, and what was skipped."""
    network: str | None = None
    """Name of the network that the JSON file was made with, if it tells."""

    def notes_for(self, networks: Sequence[str]) -> tuple[str, ...]:
        """The notes, and one more if the file was made with another network than `networks`.

        Names alone are compared, since paths differ between machines.
        """
        names = [Path(network).name for network in networks]
        if self.network is None or [Path(self.network).name] == names:
            return self.notes
        given = " and ".join(networks)
        note = f"the context set was made with the network {self.network}, and is used with {given}"
        return (*self.notes, note)

    def digest(self) -> str:
        """Hash of the content of all files and prompts, wherever the files are."""
        content = {
            name: [_content_of(example) for example in examples]
            for name, examples in self.structures.items()
        }
        return digest_of([content, self.values])


def from_files(
    request: Path | None,
    pairs: Sequence[tuple[Path, Path]] = (),
    labels: Mapping[int, str] | None = None,
) -> ContextSet:
    """The context set of a JSON file, of images with their masks, or of both.

    `labels` names values of the masks, each a structure; without it, all voxels that are not zero
    are one structure.

    Raises:
        DataError: the JSON file cannot be read, or there are `labels` without a mask.
        PromptError: the JSON file has another form, or there is no context image; the masks have
            several structures, or another one than the file.
    """
    if labels and not pairs:
        raise DataError("labels name values of masks, but there is no mask; add images with masks")
    structures: dict[str, list[Example]] = {}
    values: dict[str, int] = {}
    files: list[Path] = []
    network = None
    if request is not None:
        context = read_context(request)
        structures = {name: list(examples) for name, examples in context.structures.items()}
        values, network = dict(context.values), context.network
        files.append(request)
    if pairs:
        named = {name: value for value, name in labels.items()} if labels else None
        for name in _joined(structures, named):
            chosen = None if named is None else [named[name]]
            examples = structures.setdefault(name, [])
            values.setdefault(name, 1 if named is None else named[name])
            for number, (image, mask) in enumerate(pairs, 1):
                label = f"example {number}"
                examples.append(Example(image, mask=mask, labels=chosen, name=label))
    if not structures:
        raise PromptError("no context set; give context images with prompts")
    examples = [example for each in structures.values() for example in each]
    files += [file for example in examples for file in example.files]
    return ContextSet(structures, values, tuple(dict.fromkeys(files)), network=network)


def _joined(structures: Mapping[str, object], named: Mapping[str, int] | None) -> list[str]:
    """The structures of masks that join the structures of a file."""
    if not structures:
        return list(named or {UNNAMED: 1})
    if len(structures) > 1 or (named is not None and list(named) != list(structures)):
        other = list(named) if named else "one structure"
        raise PromptError(
            f"the JSON file has the structures {list(structures)}, so masks of {other} cannot be "
            "added; both must have the same one structure, or the file must name all of them"
        )
    return list(structures)


def from_dataset(
    folder: Path,
    *,
    subjects: int = SUBJECTS,
    seed: int = 0,
    structures: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    channel: int = 0,
    labels: Mapping[int, str] | None = None,
    targets: Collection[Path] = (),
    reading: ReadingConfig | None = None,
) -> ContextSet:
    """Training cases of a data set of nnU-Net, the Decathlon or paired folders, with their masks.

    `seed` samples `subjects` cases; if they lack a structure, further cases join for it.
    `structures` chooses among those that dataset.json names, `exclude` drops some; `labels` names
    them if the folder does not. Cases among `targets` are not used: their truth is not for the
    network. A structure that no case has is skipped with a note, unless `structures` names it.

    Raises:
        DataError: the folder has another layout or no case; a structure or channel is unknown, or
            no case has it.
    """
    layout = find_layout(folder)
    values = _values(layout, structures, exclude, labels)
    excluded = {file.resolve() for file in targets}
    cases = [
        case
        for case in layout.cases
        if not any(file.resolve() in excluded for image in case.images for file in image)
    ]
    if not cases:
        raise DataError(
            f"{folder} has no training case to use: of {len(layout.cases)}, "
            f"{len(layout.cases) - len(cases)} are targets themselves"
        )
    context: dict[str, list[Example]] = {name: [] for name in values}
    used: list[CaseFiles] = []
    skipped = dict(layout.skipped)
    for number in np.random.default_rng((seed, RandomStream.CONTEXT_SET)).permutation(len(cases)):
        missing = [name for name, examples in context.items() if not examples]
        if len(used) >= subjects and not missing:
            break
        case = cases[number]
        try:
            present = set(np.unique(read_label(case.labels[0], reading).label).tolist())
        except DataError as error:
            skipped[case.name] = str(error)
            continue
        candidates = missing if len(used) >= subjects else list(values)
        names = [name for name in candidates if values[name] in present]
        if names:
            image = _image(layout, case, channel, reading)
            used.append(case)
        for name in names:
            mask, labels_of = case.labels[0], [values[name]]
            context[name].append(Example(image, mask=mask, labels=labels_of, name=case.name))
    absent = [name for name, examples in context.items() if not examples]
    if absent and (structures is not None or len(absent) == len(context)):
        raise DataError(
            f"no training case of {folder} has {', '.join(absent)}; choose other structures"
        )
    case_names = ", ".join(sorted(case.name for case in used))
    notes = [f"{folder}: {len(used)} of {len(layout.cases)} training cases: {case_names}"]
    if absent:
        notes.append(f"{folder}: skipped {', '.join(absent)}, which no training case has")
        context = {name: examples for name, examples in context.items() if examples}
        values = {name: values[name] for name in context}
    if skipped:
        listed = list(skipped.items())[:_MAX_NAMED]
        reasons = "; ".join(f"{name} {reason}" for name, reason in listed)
        more = f"; and {len(skipped) - _MAX_NAMED} more" if len(skipped) > _MAX_NAMED else ""
        notes.append(f"{folder}: skipped cases: {reasons}{more}")
    # Another seed may use any case, so all are protected.
    files = [f for case in layout.cases for i in (*case.images, case.labels) for f in i]
    return ContextSet(context, values, tuple(files), tuple(notes))


def _values(
    layout: Layout,
    structures: Sequence[str] | None,
    exclude: Sequence[str],
    labels: Mapping[int, str] | None,
) -> dict[str, int]:
    """The value of each structure of the task."""
    if layout.kind == "dicom":
        raise DataError(
            f"{layout.source} is DICOM, whose segmentations are not supported as a context set; "
            "convert them to label maps and pair these with --example"
        )
    known = labels or layout.label_names
    if known is None:
        raise DataError(
            f"{layout.source} does not name its structures; name their values, such as "
            "--labels liver=1,spleen=2"
        )
    values = {name: value for value, name in known.items()}
    if unknown := [name for name in (*(structures or ()), *exclude) if name not in values]:
        raise DataError(f"{layout.source} has no structures {unknown}; it has {list(values)}")
    chosen = [name for name in dict.fromkeys(structures or values) if name not in exclude]
    if not chosen:
        raise DataError(f"all structures of {layout.source} are excluded: {list(exclude)}")
    return {name: values[name] for name in chosen}


def _content_of(example: Example) -> list[str]:
    sources = (example.image, example.mask, *example.markups, *example.negative_markups)
    files = [_file_digest(each) for each in sources]
    prompts = (example.points, example.points_mm, example.scribbles, example.scribbles_mm)
    prompts += (example.boxes, example.boxes_mm, example.prompts, example.markup_axes)
    negative = (example.negative_points, example.negative_points_mm, example.negative_scribbles)
    negative += (example.negative_scribbles_mm, len(example.negative_markups))
    return [*files, repr(example.labels), repr(prompts), repr(negative)]


def _file_digest(image: object) -> str:
    path = as_path(image)
    digest = hashlib.blake2b(digest_size=16)
    if path is None:
        voxels = getattr(image, "image", None)
        digest.update(b"" if voxels is None else voxels.tobytes())
        return digest.hexdigest()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()


def _image(
    layout: Layout, case: CaseFiles, channel: int, reading: ReadingConfig | None
) -> Path | Volume:
    """One channel of a case, read here if the file has several."""
    count = max(len(layout.channel_names), len(case.images))
    if channel >= count:
        raise DataError(
            f"{layout.source} has channels {list(layout.channel_names)}, numbered from 0; there "
            f"is no channel {channel}"
        )
    if len(case.images) == count:
        return case.images[channel][0]
    channels = read_channels(case.images[0], reading)
    for remark in channels.remarks:
        warnings.warn(f"{case.images[0][0]}: {remark}", stacklevel=2)
    return Volume(channels.image[channel].astype(np.float32, copy=False), channels.affine)
