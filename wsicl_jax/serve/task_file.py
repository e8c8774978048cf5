"""A session as the JSON that `wsicl predict --context` takes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsicl_jax import __version__
from wsicl_jax.errors import DataError
from wsicl_jax.serve.documents import Image, State
from wsicl_jax.serve.folder import Folder


def task_document(
    state: State, folder: Folder, network: str, directory: Path, mask_of: Callable[[str], Path]
) -> dict[str, Any]:
    """The context images of a session and their prompts, for a file in `directory`.

    `network` is the name of the network that segments, and `mask_of` gives the file of an image's
    accepted mask. Structures without a prompt on any
    context image are left out.

    Raises:
        DataError: no context image has a prompt, or one is no longer in the folder.
    """
    names = {structure.value: structure.name for structure in state.structures}
    context: list[dict[str, Any]] = []
    used: set[int] = set()
    for id, image in state.images.items():
        if image.role != "context":
            continue
        for value in marked(image):
            if id not in folder.images:
                raise DataError(f"{id} is not in the folder any more; put it back or leave it out")
            entry = {"image": _relative(folder[id].path, directory), "structure": names[value]}
            entry |= prompts_of(image, value)
            if value in image.accepted:
                entry |= {"mask": _relative(mask_of(id), directory), "labels": [value]}
            context.append(entry)
            used.add(value)
    if not context:
        raise DataError("no context image has a prompt; mark a structure on one")
    return {
        "version": 1,
        "network": network,
        "software": f"wsicl_jax {__version__}",
        "coordinates": "voxel",
        "structures": {name: value for value, name in names.items() if value in used},
        "context": context,
    }


def marked(image: Image) -> list[int]:
    """The values of the structures that an image shows."""
    return sorted({prompt.structure for prompt in image.prompts} | set(image.accepted))


def prompts_of(image: Image, value: int) -> dict[str, list[Any]]:
    """The prompts of a structure on an image, by the keys of the JSON; without empty lists."""
    prompts = [prompt for prompt in image.prompts if prompt.structure == value]
    by_key: dict[str, list[Any]] = {"boxes": [list(p.box) for p in prompts if p.box is not None]}
    for inside, prefix in ((True, ""), (False, "negative_")):
        chosen = [prompt for prompt in prompts if prompt.inside == inside]
        by_key[f"{prefix}points"] = [list(p.point) for p in chosen if p.point is not None]
        by_key[f"{prefix}scribbles"] = [list(p.scribble) for p in chosen if p.scribble is not None]
    return {key: given for key, given in by_key.items() if given}


def _relative(path: Path, directory: Path) -> str:
    return Path(os.path.relpath(path, directory)).as_posix()
