"""Submits cells to Slurm with submitit, as one job array."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsicl_jax.config import AblationConfig
from wsicl_jax.errors import ConfigError, MissingExtraError, hint
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.tools.ablate.cells import JOBS, Cell
from wsicl_jax.tools.ablate.jobs import CellFiles, write_job
from wsicl_jax.tools.ablate.slurm_job import CellJob

if TYPE_CHECKING:
    from submitit import AutoExecutor

_DEFAULTS = {
    "signal_delay_s": 180,  # seconds before the time limit
    "max_num_timeout": 100,
    "srun_args": ["--kill-on-bad-exit=0"],  # the first task that has saved must not end the others
    "additional_parameters": {"requeue": True},
}
"""Parameters for submitit where the ablation sets none."""

_COMMON = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node")
_COMMON += ("tasks_per_node", "stderr_to_stdout")
"""Parameters that submitit has for every kind of cluster; others are named `slurm_...`."""


def executor_of(ablation: AblationConfig) -> "AutoExecutor":
    """The submitit executor with the ablation's settings; nothing is written or submitted yet.

    Raises:
        MissingExtraError: submitit is not installed.
        ConfigError: there is no Slurm here, or a setting of `slurm` does not fit.
    """
    try:
        import submitit
    except ImportError:
        raise MissingExtraError(
            "--launcher slurm needs submitit, which is not installed; pip install "
            "'wsicl_jax[sweep]', or take --launcher local"
        ) from None
    output = Path(ablation.output)
    parameters = {**_DEFAULTS, "name": output.name, **ablation.slurm}
    minutes = parameters.pop("time_min", None)
    if not isinstance(minutes, int) or minutes < 1:
        value = "missing" if minutes is None else minutes
        raise ConfigError(f"slurm.time_min is {value}; expected the minutes that a job may take")
    max_timeouts = parameters.pop("max_num_timeout")
    try:
        executor = submitit.AutoExecutor(
            output / JOBS / "slurm", cluster="slurm", slurm_max_num_timeout=max_timeouts
        )
    except RuntimeError:
        raise ConfigError(
            "there is no Slurm here (no srun); run this where jobs are submitted, or take "
            "--launcher local"
        ) from None
    for key, value in {"timeout_min": minutes, **parameters}.items():
        _set(executor, key, value)
    return executor


def submit(executor: "AutoExecutor", cells: Sequence[Cell], output: Path) -> None:
    """Submit these cells to Slurm and record the numbers of their jobs.

    Raises:
        ConfigError: Slurm accepts no job.
    """
    for cell in cells:
        write_job(cell, CellFiles(output, cell.name))
    names = [cell.name for cell in cells]
    try:
        jobs = executor.map_array(CellJob(), [str(output.absolute())] * len(names), names)
    except RuntimeError as error:  # submitit's
        for pickle in executor.folder.glob("*.pkl"):
            if "_" not in pickle.stem:  # pickles of jobs are named NUMBER_...
                pickle.unlink()
        raise ConfigError(f"Slurm took no job: {' '.join(str(error).split())}") from None
    for name, job in zip(names, jobs, strict=True):
        write_whole(CellFiles(output, name).slurm_job, job.job_id.encode())


def _set(executor: "AutoExecutor", key: str, value: Any) -> None:
    try:
        executor.update_parameters(**{key if key in _COMMON else f"slurm_{key}": value})
    except NameError as error:
        listed = re.search(r"Valid arguments: (.*)", str(error))
        known = [*_COMMON, *(listed[1].split(", ") if listed else ())]
        raise ConfigError(f"slurm.{key} is unknown to submitit; {hint(key, known)}") from None
    except (AssertionError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"slurm.{key} = {value!r} does not fit: {why}") from None
