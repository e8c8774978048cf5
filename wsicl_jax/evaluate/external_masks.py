"""Scores of masks that another tool made, on the episodes of a list."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from wsicl_jax.config import EvaluatedKind
from wsicl_jax.data.images import check_same_grid, read_label
from wsicl_jax.errors import ConfigError, DataError
from wsicl_jax.evaluate.case_sources import Cases, structure_mask
from wsicl_jax.evaluate.episode_list import decoded, read_list
from wsicl_jax.evaluate.planning import cases_of
from wsicl_jax.evaluate.prompted_episodes import about_prompts, score_of
from wsicl_jax.evaluate.records import ABOUT, Cell, Score, cell_name, read_about, write_cell
from wsicl_jax.prompts import ONCE_PER_IMAGE
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.object_path import Place
from wsicl_jax.terminal.progress import track

_MOST_NAMED = 3
"""Files that a message names."""


def score_masks(
    episodes_path: Place,
    masks: Path,
    output: Place,
    *,
    model: str,
    kind: EvaluatedKind,
    prompts: int,
    contexts: int,
    tolerance_mm: float,
) -> list[Score]:
    """Score `MASKS/EPISODE.nii.gz` for every episode of a list and write them as a sweep's cell.

    A mask is on its target's own grid; every voxel above 0 is inside. `kind`, `prompts` and
    `contexts` describe the context set that the model used, for the tables.

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
            f"{', '.join(missing[:_MOST_NAMED])}; name each mask EPISODE.nii.gz"
        )
    scores = []
    with track(len(files), f"scoring {model}") as bar:
        for episode in listed.episodes:
            mask = _read_mask(files[episode.name], cases, episode.target)
            structure = listed.structures[episode.structure]
            prompts_used = []
            for case in episode.contexts[:contexts]:
                marked = structure_mask(cases, case, structure.marked)
                prompts_used.append(decoded(structure.prompts[case], kind, count, marked))
            scores.append(
                score_of(
                    mask,
                    listed,
                    cases,
                    episode,
                    tolerance_mm,
                    model=model,
                    protocol="in_context",
                    contexts=contexts,
                    **about_prompts(prompts_used, kind, count),
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
    label, affine = read_label(path)[:2]
    shapes = cases.label(target).shape, label.shape
    try:
        check_same_grid((Path(target), path), shapes, (cases.affine(target), affine))
    except DataError as error:
        raise DataError(f"{error}; masks are on the target's own grid, with its affine") from None
    return label > 0


def _about(output: Place, tolerance_mm: float) -> dict[str, Any]:
    """The content of the directory's `ABOUT`, if these scores may be added to it."""
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
