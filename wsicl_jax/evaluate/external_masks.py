"""Scores of masks that came from elsewhere, on the episodes of a list."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from wsicl_jax.config import EvaluatedKind
from wsicl_jax.data.images import check_same_grid, read_label
from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate.cases import Cases, mask
from wsicl_jax.evaluate.episode_list import decoded, read_list
from wsicl_jax.evaluate.in_context import fewer, scored
from wsicl_jax.evaluate.planning import cases_of
from wsicl_jax.evaluate.records import ABOUT, Cell, Score, cell_name, read_about, write_cell
from wsicl_jax.prompts import ONCE_PER_IMAGE, annotation_seconds
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.terminal.progress import track

_NAMED = 3
"""Most files that a message names."""


def score_masks(
    episodes_path: Path,
    masks: Path,
    output: Path,
    *,
    model: str,
    kind: EvaluatedKind,
    prompts: int,
    contexts: int,
    tolerance_mm: float,
) -> list[Score]:
    """Score `MASKS/EPISODE.nii.gz` for every episode of a list and write them as a sweep's cell.

    A mask is on its target's own grid, every voxel above 0 is inside. `kind`, `prompts` and
    `contexts` say what the model was shown; they are for the tables.

    Raises:
        DataError: a mask is missing, cannot be read, or is on another grid than its target; the
            list lacks the kind, or has fewer contexts or prompts. Nothing is written then.
        ConfigError: `output` is of a sweep, or of scores at another tolerance.
    """
    about = _about(output, tolerance_mm)
    listed = read_list(episodes_path)
    count = 1 if kind in ONCE_PER_IMAGE else prompts
    listed.check(contexts, kind, count)
    cases = cases_of(listed)
    files = {e.name: masks / f"{e.name}.nii.gz" for e in listed.episodes}
    if missing := [str(file) for file in files.values() if not file.is_file()]:
        raise DataError(
            f"{len(missing)} of {len(files)} masks are missing, such as "
            f"{', '.join(missing[:_NAMED])}; a mask is called as its episode"
        )
    scores = []
    with track(len(files), f"scoring {model}") as bar:
        for episode in listed.episodes:
            found = _read_mask(files[episode.name], cases, episode.target)
            structure = listed.structures[episode.structure]
            shown = [
                decoded(structure.prompts[c], kind, count, mask(cases, c, structure.marked))
                for c in episode.contexts[:contexts]
            ]
            scores.append(
                scored(
                    found,
                    listed,
                    cases,
                    episode,
                    tolerance_mm,
                    model=model,
                    protocol="in_context",
                    kind=kind,
                    prompts=count,
                    contexts=contexts,
                    seconds=sum(map(annotation_seconds, shown)),
                    fewer=fewer(shown, kind, count),
                )
            )
            bar.advance()
    name = cell_name(model, listed.data_set, f"{kind}-{count}-{contexts}")
    origin = {"masks": str(masks), "episodes_digest": listed.digest}
    cell = Cell(name=name, key=listed.digest, scores=tuple(scores), about=origin)
    write_cell(output, cell)
    about["models"] = {**about.get("models", {}), model: {"masks": str(masks)}}
    about["cells"] = {**about.get("cells", {}), cell.name: cell.key}
    write_whole(output / ABOUT, (json.dumps(about, indent=1) + "\n").encode())
    return scores


def _read_mask(path: Path, cases: Cases, target: str) -> Bool[np.ndarray, "X Y Z"]:
    found, affine = read_label(path)[:2]
    shapes = cases.label(target).shape, found.shape
    try:
        check_same_grid((Path(target), path), shapes, (cases.affine(target), affine))
    except DataError as error:
        raise DataError(f"{error}; masks are on the target's own grid, with its affine") from None
    return found > 0


def _about(output: Path, tolerance_mm: float) -> dict[str, Any]:
    """What the directory's `ABOUT` says, if these scores may be added to it."""
    about = {"tolerance_mm": tolerance_mm, **read_about(output)}
    if "config" in about:
        raise ConfigError(
            f"{output} is the directory of a sweep; give another --output, and both to "
            "`wsicl report`"
        )
    if about["tolerance_mm"] != tolerance_mm:
        raise ConfigError(
            f"{output} has scores at a tolerance of {about['tolerance_mm']} mm, not "
            f"{tolerance_mm}; give another --output"
        )
    return about
