"""The story of an ablation: which cells there are, how far they are, starting what is missing."""

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
    """Train every cell that is not finished, and tell by `show` what all have found.

    With `local` they are trained here, `jobs` at a time; with `slurm` they are handed to Slurm,
    and a later call has the results. A dry run only tells which cells there are and how far.
    Returns whether nothing failed.

    Raises:
        WsiclError: something is wrong with the ablation, told before anything starts; each
            problem has its line.
        PreemptedError, KeyboardInterrupt: as `local.run_here`.
    """
    output = Path(ablation.output)
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output {output} is a file; give another output=DIRECTORY")
    cells = cells_of(ablation)
    executor = executor_of(ablation) if launcher == "slurm" else None
    found = find_progress(cells, output)
    if dry_run:
        _show(cells, found, show, settings=True)
    _refuse_changed(cells, found)
    missing = [cell for cell, own in zip(cells, found, strict=True) if own.state in TO_START]
    _check_data(missing)
    if dry_run:
        return True
    if missing and executor:
        submit(executor, missing, output)
    elif missing:
        run_here(missing, output, jobs)
    found = find_progress(cells, output)
    _show(cells, found, show)
    write_whole(output / RESULTS, as_csv(cells, found).encode())
    show(f"written to {output / RESULTS}")
    fine = ("finished", "queued", "running") if executor else ("finished",)
    return all(progress.state in fine for progress in found)


def _refuse_changed(cells: Sequence[Cell], found: Sequence[Progress]) -> None:
    changed = [
        f"{cell.config.run}: {progress.note}"
        for cell, progress in zip(cells, found, strict=True)
        if progress.state == "changed"
    ]
    if changed:
        told = "\n".join(changed)
        raise ConfigError(
            f"the settings of {len(changed)} cells have changed since they were started; give "
            f"another output=DIRECTORY, or remove what no longer counts\n{told}"
        )


def _check_data(cells: Sequence[Cell]) -> None:
    """Open the data of these cells, each only once, so that nothing waits in a queue in vain."""
    problems: dict[str, None] = {}
    seen = set()
    for cell in cells:
        config = cell.config
        if (about := repr((config.data, config.volume, config.episode))) in seen:
            continue
        seen.add(about)
        try:
            open_datasets(config)
        except WsiclError as error:
            problems[str(error)] = None
    if problems:
        raise ConfigError("\n".join(problems))


def _show(
    cells: Sequence[Cell],
    found: Sequence[Progress],
    show: Callable[[RenderableType], None],
    *,
    settings: bool = False,
) -> None:
    show(state_table(cells, found, settings=settings))
    if any(progress.dice for progress in found):
        show(dice_table(cells, found))
        if len({cell.config.seed for cell in cells}) > 1:
            show(seeds_table(cells, found))
