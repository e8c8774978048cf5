"""Prompts in files of other tools: 3D Slicer, napari, and roughly drawn label maps.

Each reader returns prompts in voxels of the image; nothing here writes these formats.
"""

import os
from pathlib import Path

from wsicl_jax.config import ReadingConfig
from wsicl_jax.data.images import READ_ENDINGS, Volume
from wsicl_jax.errors import PromptError, located
from wsicl_jax.inference.inputs.external import label_map, napari, slicer
from wsicl_jax.prompts import Prompt

_AXES = ("xyz", "zyx")


def read_prompts(
    path: str | os.PathLike,
    volume: Volume,
    *,
    axes: str = "xyz",
    reading: ReadingConfig | None = None,
) -> list[Prompt]:
    """The prompts of a file, in voxels of their image; at least one.

    - `.mrk.json`, `.json`: markups of 3D Slicer; `.fcsv`: its older lists of points.
    - `.csv`: a points or shapes layer of napari, with its axes in the order `axes`, "xyz" or
      "zyx"; `axes` has no effect on other files.
    - `.nii.gz`, `.nrrd` and other images: a label map, each separate component a prompt.

    Raises:
        DataError: the file cannot be read, or a label map is not on the image's grid.
        PromptError: its content is not what the tool writes; it has no prompt, or one that is
            not supported or outside the image; or the ending or `axes` is unknown.
    """
    path = Path(path)
    if axes not in _AXES:
        raise PromptError(f"axes are {axes!r}; expected one of {', '.join(_AXES)}")
    name = path.name.lower()
    if name.endswith(READ_ENDINGS):
        return label_map.as_prompts(path, volume, reading)
    with located(str(path)):
        if name.endswith(".json"):
            return slicer.markups(path, volume)
        if name.endswith(".fcsv"):
            return slicer.fiducials(path, volume)
        if name.endswith(".csv"):
            return napari.layer(path, volume, axes)
        raise PromptError(
            "of no known kind; expected .mrk.json or .fcsv (3D Slicer), .csv (napari), or a label "
            f"map named {', '.join(READ_ENDINGS)}"
        )
