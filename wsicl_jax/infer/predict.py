"""Segment a batch of image files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsicl_jax.data.formats.nifti import write_mask
from wsicl_jax.data.images import read_volume
from wsicl_jax.errors import DataError, WsiclError
from wsicl_jax.infer.segmenter import ContextSet, Segmenter
from wsicl_jax.progress import track

_NAMED = 3
"""Most file names in an error message."""


@dataclass(frozen=True)
class PredictSummary:
    """What became of every target."""

    written: tuple[Path, ...]
    """Masks, in the targets' order."""
    failed: dict[str, str]
    """Target, as it was given, to why it has no mask."""

    def table(self) -> RenderableType:
        """The counts, and one row for every failed target, for `console().print`."""
        headline = Text(
            f"{len(self.written)} of {len(self.written) + len(self.failed)} masks written"
        )
        if not self.failed:
            return headline
        table = Table("failed", "reason")
        for name, reason in self.failed.items():
            table.add_row(Text(name), Text(reason))
        return Group(headline, table)


def predict_files(
    segmenter: Segmenter,
    context: ContextSet,
    targets: Sequence[Path],
    output: Path,
    *,
    inputs: Sequence[Path] = (),
    overwrite: bool = False,
) -> PredictSummary:
    """Segment each target into a file of the same name in the directory `output`.

    A mask is uint8, on its target's own grid and affine. A target that cannot be used is
    named in the summary and does not end the batch. No mask replaces a target or one of
    `inputs`, the files that the context set came from (`Example.files`).

    Raises:
        DataError: before anything is read or written, if a mask would replace a target or
            an input, or another file and `overwrite` is false; if two targets have the same
            name; if `output` is no directory and cannot become one.
    """
    masks = [output / target.name for target in targets]
    _check_names(targets, masks, inputs, overwrite)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{output} cannot be used as a directory: {error.strerror}") from error
    written, failed = [], {}
    with track(len(targets), "predicting") as bar:
        for target, path in zip(targets, masks, strict=True):
            bar.status(target.name)
            try:
                found = segmenter.segment(read_volume(target), context)
                write_mask(path, found.mask, affine_source=target)
            except WsiclError as error:
                failed[str(target)] = str(error)
            else:
                written.append(path)
            bar.advance()
    return PredictSummary(tuple(written), failed)


def _check_names(
    targets: Sequence[Path], masks: Sequence[Path], inputs: Sequence[Path], overwrite: bool
) -> None:
    twice = [name for name, count in Counter(path.name for path in masks).items() if count > 1]
    if twice:
        raise DataError(
            f"several targets are named {_some(twice)}, and a mask takes its target's name; "
            "predict them into different directories"
        )
    for what, files in (("targets", targets), ("context files", inputs)):
        kept = {file.resolve() for file in files}
        replaced = [str(path) for path in masks if path.resolve() in kept]
        if replaced:
            raise DataError(f"masks would replace {what} {_some(replaced)}; give another directory")
    existing = [str(path) for path in masks if path.exists()]
    if existing and not overwrite:
        raise DataError(
            f"{_some(existing)} exist already; allow overwriting or give another directory"
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
