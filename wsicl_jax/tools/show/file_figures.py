"""Draws files: an image with a label map and a prediction, or a context set with its prompts."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.images import Volume, check_same_grid, read_label, read_volume
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.inputs.images import as_label_map, as_volume
from wsicl_jax.storage.safe_names import in_figure
from wsicl_jax.terminal.progress import track
from wsicl_jax.tools.show.pictures import Convention, Row, rows_figure, size_text


def image_figure(
    image: Path,
    labels: Path | None,
    names: Mapping[int, str],
    path: Path,
    reading: ReadingConfig | None = None,
    *,
    prediction: Path | None = None,
    convention: Convention = "neurological",
) -> None:
    """Write a PNG of an image, with the outlines of a label map and of a prediction.

    Raises:
        DataError: a file cannot be read, or they are not on one grid.
    """
    volume = read_volume(image, reading)
    maps = [_label_on_grid(file, image, volume, reading) for file in (labels, prediction)]
    row = Row("", volume.image, volume.affine, *maps)
    title = f"{in_figure(image.name)}   {size_text(volume.image.shape, volume.spacing_mm)}"
    rows_figure([row], names, title, path, convention=convention)


def context_figure(
    structures: Mapping[str, Sequence[Example]],
    path: Path,
    reading: ReadingConfig | None = None,
    *,
    convention: Convention = "neurological",
) -> None:
    """Write a PNG of a context set: a row for each image, with each of its prompts.

    Raises:
        DataError: an image cannot be read.
        PromptError: an image has no prompt, or one outside of it.
    """
    rows = []
    jobs = [(name, example) for name, examples in structures.items() for example in examples]
    with track(len(jobs), "reading context") as bar:
        for name, example in jobs:
            volume, prompts, _ = example.load(
                functools.partial(as_volume, reading=reading),
                functools.partial(as_label_map, reading=reading),
                reading,
            )
            file = Path(str(example.image)).name if example.files else "array"
            rows.append(Row(f"{name}: {file}", volume.image, volume.affine, prompts=prompts))
            bar.advance()
    rows_figure(rows, {}, "context set", path, convention=convention)


def _label_on_grid(
    file: Path | None, image: Path, volume: Volume, reading: ReadingConfig | None
) -> np.ndarray | None:
    if file is None:
        return None
    label, affine, _ = read_label(file, reading)
    check_same_grid((image, file), (volume.image.shape, label.shape), (volume.affine, affine))
    return label
