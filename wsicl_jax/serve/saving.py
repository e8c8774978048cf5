"""What a person saves: label maps, the task, and the session, in a directory of the folder."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from wsicl_jax.data.formats.writing import check_installed, write_label_map
from wsicl_jax.data.layouts.layout import stem_of
from wsicl_jax.errors import DataError
from wsicl_jax.serve.folder import SAVED, Folder
from wsicl_jax.serve.session import Session
from wsicl_jax.serve.task_file import marked, task_document
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.safe_names import file_name

TASK = "task.json"
_SESSION = "session.json"
_MASKS = "context_masks"


def save(session: Session, folder: Folder, network: str, ending: str) -> dict[str, Any]:
    """Write results in the format `ending`; returns the directory, files and a command line.

    A second call replaces the files of the first.

    Raises:
        DataError: there is nothing to save, a package is missing, or a file cannot be written.
    """
    check_installed(ending)
    state = session.state
    results = {
        id: session.result_file(id)
        for id, image in state.images.items()
        if image.result is not None and id in folder.images and session.result_file(id).exists()
    }
    has_task = any(image.role == "context" and marked(image) for image in state.images.values())
    if not results and not has_task:
        raise DataError("there is nothing to save yet: no prompt on a context image, no result")
    output = folder.root / SAVED / f"{file_name(state.name)}-{state.id[:6]}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        names = _names(list(state.images))
        written = [
            _write_result(session, folder, id, output / f"{names[id]}.{ending}") for id in results
        ]
        if has_task:
            masks = output / _MASKS
            task = task_document(
                state,
                folder,
                network,
                output,
                lambda id: _copied(session, id, masks / f"{names[id]}.nii.gz"),
            )
            write_whole(output / TASK, (json.dumps(task, indent=1) + "\n").encode())
            written.append(TASK)
        write_whole(output / _SESSION, (state.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise DataError(f"{output.name} cannot be written: {error.strerror}") from error
    command = f"wsicl predict {network} --context {TASK} --output masks TARGET"
    return {
        "folder": output.relative_to(folder.root).as_posix(),
        "files": [*written, _SESSION],
        "command": command if has_task else None,
    }


def _names(ids: Sequence[str]) -> dict[str, str]:
    """A name for the files of each image: its own without ending, unless two share it."""
    stems = {id: stem_of(Path(id)) for id in ids}
    shared = Counter(stems.values())
    return {id: stem if shared[stem] == 1 else id for id, stem in stems.items()}


def _write_result(session: Session, folder: Folder, id: str, path: Path) -> str:
    label_map = nib.load(session.result_file(id))
    names = {structure.name: structure.value for structure in session.state.structures}
    voxels = np.asarray(label_map.dataobj)
    write_label_map(path, voxels, label_map.affine, names, folder[id].files)
    return path.name


def _copied(session: Session, id: str, path: Path) -> Path:
    """A copy of an accepted mask beside the task, since the session's may change."""
    path.parent.mkdir(exist_ok=True)
    write_whole(path, session.accepted_file(id).read_bytes())
    return path
