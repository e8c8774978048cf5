"""Finds out how far each cell is, from its run, its record in OUTPUT/jobs, and Slurm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wsicl_jax.config import config_to_dict, read_settings
from wsicl_jax.errors import ConfigError
from wsicl_jax.storage.checkpoints import STEPS, step_directories
from wsicl_jax.storage.documents import parse_json, read_file
from wsicl_jax.tools.ablate.cells import Cell
from wsicl_jax.tools.ablate.jobs import (
    STOPPED,
    Attempt,
    CellFiles,
    failure_reason,
    is_in_training,
    read_attempts,
)
from wsicl_jax.tools.ablate.slurm_queue import jobs_in_queue
from wsicl_jax.train.run_directory import CONFIG, changed_settings, saved_settings

State = Literal["new", "unfinished", "failed", "queued", "running", "finished", "changed"]
"""`failed`: the last attempt failed; the next one goes on like `unfinished`. `changed`: the run has
other settings than the cell, so that it can neither go on nor count."""

TO_START: tuple[State, ...] = ("new", "unfinished", "failed")

_EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Progress:
    """How far a cell is."""

    state: State
    step: int = 0
    """Step of the newest checkpoint."""
    seconds: float = 0.0
    """Wall time of all attempts that ended."""
    dice: Mapping[str, float] = field(default_factory=dict)
    """Of a finished run, mean Dice by `data set/structure/kind`."""
    note: str = ""
    """A remark for the user."""


def find_progress(cells: Sequence[Cell], output: Path) -> list[Progress]:
    """How far these cells are.

    A run is finished if its last step has a checkpoint and its evaluation ended with today's
    settings. It is in training as long as a lock of it is held, or its job is in Slurm's queue.

    Raises:
        ConfigError: a job was submitted to Slurm, and squeue does not work here.
    """
    files = [CellFiles(output, cell.name) for cell in cells]
    progress = [_progress(cell, own) for cell, own in zip(cells, files, strict=True)]
    numbers = {
        index: number
        for index, own in enumerate(files)
        if progress[index].state != "finished" and (number := _slurm_job(own))
    }
    if not numbers:
        return progress
    try:
        queue = jobs_in_queue()
    except ConfigError as error:
        own = files[next(iter(numbers))]
        raise ConfigError(
            f"{own.name} was submitted to Slurm, but its queue cannot be read: {error}; go on "
            f"where Slurm is, or remove {own.slurm_job} if that job is gone"
        ) from None
    for index, number in numbers.items():
        # While Slurm cleans up after a job, the lock shows whether it still trains.
        if queue.get(number, "COMPLETING") != "COMPLETING":
            state = "queued" if queue[number] == "PENDING" else "running"
            note = f"Slurm job {number}"
            progress[index] = _progress(cells[index], files[index], state, note)
    return progress


def is_finished(cell: Cell, files: CellFiles) -> bool:
    """Whether nothing is left to do for a cell; does not read Slurm's queue."""
    return _progress(cell, files).state == "finished"


def _progress(
    cell: Cell, files: CellFiles, active: State | None = None, note: str = ""
) -> Progress:
    run, attempts = Path(cell.config.run), read_attempts(files)
    steps = step_directories(run / STEPS)
    step = int(steps[0].name) if steps else 0
    seconds = sum((attempt.seconds for attempt in attempts), start=0.0)
    if active is None and is_in_training(files):
        active, note = "running", f"on {attempts[-1].host}" if attempts else ""
    try:
        before = saved_settings(run) if steps else _submitted(files) if active else None
    except ConfigError as error:
        return Progress("changed", step, seconds, note=str(error))
    if before and (changed := changed_settings(before, cell.config)):
        note = f"{active or f'at step {step}'} with another {', '.join(changed)}"
        return Progress("changed", step, seconds, note=note)
    if before and step == cell.config.train.steps and _is_evaluated(cell, before, attempts):
        return Progress("finished", step, seconds, _dice(run) or {})
    if active:
        return Progress(active, step, seconds, note=note)
    if attempts and attempts[-1].code not in (0, *STOPPED):
        return Progress("failed", step, seconds, note=_failure(attempts[-1]))
    return Progress("unfinished" if steps else "new", step, seconds)


def _is_evaluated(cell: Cell, before: Mapping[str, Any], attempts: Sequence[Attempt]) -> bool:
    run = Path(cell.config.run)
    if before.get("evaluation") != config_to_dict(cell.config)["evaluation"]:
        return False
    if attempts and attempts[-1].code == 0:
        return True  # even if there was nothing to evaluate
    # Training writes its configuration when it starts, and the scores at its end.
    return _dice(run) is not None and (
        (run / _EVALUATION).stat().st_mtime >= (run / CONFIG).stat().st_mtime
    )


def _dice(run: Path) -> dict[str, float] | None:
    try:
        content = parse_json(read_file(run / _EVALUATION), nan=True)
        return {str(key): float(value) for key, value in content["mean_dice"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _submitted(files: CellFiles) -> dict[str, Any] | None:
    """The settings with which the cell was last started."""
    try:
        return read_settings(files.config)
    except ConfigError:
        return None


def _slurm_job(files: CellFiles) -> str:
    try:
        return files.slurm_job.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _failure(attempt: Attempt) -> str:
    where = f" on {attempt.host}" if attempt.code is None else ""
    return failure_reason(attempt.code, attempt.last_line) + where
