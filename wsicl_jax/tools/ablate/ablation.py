"""Runs an ablation: lists its cells, starts the missing ones, and writes the results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from rich.console import RenderableType

from wsicl_jax.config import AblationConfig
from wsicl_jax.data.datasets import open_datasets
from wsicl_jax.errors import ConfigError, WsiclError
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.tools.ablate.ablation_tables import as_csv, dice_table, seeds_table, state_table
from wsicl_jax.tools.ablate.cells import Cell, cells_of
from wsicl_jax.tools.ablate.local import run_here
from wsicl_jax.tools.ablate.slurm import executor_of, submit
from wsicl_jax.tools.ablate.states import TO_START, Progress, find_progress

RESULTS = "ablation.csv"


def ablate(
    ablation: AblationConfig,
    *,
    show: Callable[[RenderableType], None],
    launcher: Literal["local", "slurm"] = "local",
    jobs: int = 1,
    dry_run: bool = False,
) -> bool:
    """Train every cell that is not finished, and `show` tables of all results.

    With `local` they are trained here, `jobs` at a time. With `slurm` they are submitted to Slurm,
    and a later call shows the results. A dry run only shows the cells and how far they are.
    Returns whether nothing failed.

    Raises:
        WsiclError: something is wrong with the ablation, found before anything starts; one line
            for each problem.
        PreemptedError, KeyboardInterrupt: as `local.run_here`.
    """
    output = Path(ablation.output)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output {output} is a file; give another output=DIRECTORY")
    cells = cells_of(ablation)
    executor = executor_of(ablation) if launcher == "slurm" else None
    progress = find_progress(cells, output)
    if dry_run:
        _show(cells, progress, show, settings=True)
    _refuse_changed(cells, progress)
    missing = [cell for cell, own in zip(cells, progress, strict=True) if own.state in TO_START]
    _check_data(missing)
    if dry_run:
        return True
    if missing and executor:
        submit(executor, missing, output)
    elif missing:
        run_here(missing, output, jobs)
    progress = find_progress(cells, output)
    _show(cells, progress, show)
    write_whole(output / RESULTS, as_csv(cells, progress).encode())
    show(f"written to {output / RESULTS}")
    good = ("finished", "queued", "running") if executor else ("finished",)
    return all(own.state in good for own in progress)


def _refuse_changed(cells: Sequence[Cell], progress: Sequence[Progress]) -> None:
    changed = [
        f"{cell.config.run}: {own.note}"
        for cell, own in zip(cells, progress, strict=True)
        if own.state == "changed"
    ]
    if changed:
        lines = "\n".join(changed)
        raise ConfigError(
            f"the settings of {len(changed)} cells have changed since they were started; give "
            f"another output=DIRECTORY, or remove these runs\n{lines}"
        )


def _check_data(cells: Sequence[Cell]) -> None:
    """Open the data of these cells once, so that no job waits in a queue only to fail."""
    problems: dict[str, None] = {}
    distinct = {repr((c.config.data, c.config.volume, c.config.episode)): c.config for c in cells}
    for config in distinct.values():
        try:
            open_datasets(config)
        except WsiclError as error:
            problems[str(error)] = None
    if problems:
        raise ConfigError("\n".join(problems))


def _show(
    cells: Sequence[Cell],
    progress: Sequence[Progress],
    show: Callable[[RenderableType], None],
    *,
    settings: bool = False,
) -> None:
    show(state_table(cells, progress, settings=settings))
    if any(own.dice for own in progress):
        show(dice_table(cells, progress))
        if len({cell.config.seed for cell in cells}) > 1:
            show(seeds_table(cells, progress))
