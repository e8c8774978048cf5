"""Files as pictures: an image with a label map, a context set with its prompts."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsicl_jax.config import PromptKind, ReadingConfig
from wsicl_jax.data.images import check_same_grid, read_label, read_volume
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.inputs.images import as_label_map, as_volume
from wsicl_jax.prompts import SECONDS, kind_of, to_channel
from wsicl_jax.storage.safe_names import in_figure
from wsicl_jax.terminal.progress import track
from wsicl_jax.tools.show.pictures import Row, rows_figure, size_of

_VALUES: dict[PromptKind, int] = {kind: value for value, kind in enumerate(SECONDS, 1)}


def image_figure(
    image: Path,
    labels: Path | None,
    names: Mapping[int, str],
    path: Path,
    reading: ReadingConfig | None = None,
) -> None:
    """Write a PNG of an image, with the outlines of a label map on its grid.

    Raises:
        DataError: a file cannot be read, or they are not on one grid.
    """
    volume = read_volume(image, reading)
    label = np.zeros(volume.image.shape, np.uint8)
    if labels is not None:
        label, affine, _ = read_label(labels, reading)
        check_same_grid((image, labels), (volume.image.shape, label.shape), (volume.affine, affine))
    row = Row("", volume.image, label, volume.affine)
    rows_figure([row], names, f"{in_figure(image.name)}   {size_of(volume)}", path)


def context_figure(
    structures: Mapping[str, Sequence[Example]], path: Path, reading: ReadingConfig | None = None
) -> None:
    """Write a PNG of a context set: each image with its prompts, as large as they are painted.

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
            label = np.zeros(volume.image.shape, np.uint8)
            for prompt in prompts:
                label[to_channel([prompt], label.shape) > 0] = _VALUES[kind_of(prompt)]
            title = Path(str(example.image)).name if example.files else "array"
            rows.append(Row(f"{name}: {title}", volume.image, label, volume.affine))
            bar.advance()
    names = {value: kind for kind, value in _VALUES.items()}
    rows_figure(rows, names, "context set", path)
