"""Measures the time that a run's checkpoint takes, in a directory or an object store."""

import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
from flax import nnx
from rich.console import RenderableType
from rich.table import Table

from wsicl_jax.config import ExperimentConfig, config_to_dict
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.storage.object_path import Place, names_below, remove_all
from wsicl_jax.tools.bench.machine import machine
from wsicl_jax.train.run_checkpoints import RunCheckpoints, newest_valid_step
from wsicl_jax.train.state import COUNTERS, init_state, make_optimizer


@dataclass(frozen=True)
class SaveTime:
    """Medians over the checkpoints of a run."""

    bytes: int
    """Of the parameters and the optimizer state."""
    files: int
    """Files or objects of a checkpoint."""
    waiting_seconds: float
    """Until the training goes on."""
    saving_seconds: float
    """Until the checkpoint is complete, in the background."""
    verifying_seconds: float
    """To read all arrays of the newest checkpoint and compare them with their fingerprints."""


def bench_save(
    config: ExperimentConfig,
    place: Place,
    *,
    repeats: int,
    show: Callable[[RenderableType], None],
) -> dict[str, Any]:
    """Show how long the checkpoints of a network take below a place; return the numbers.

    They are written to a new folder there, which is removed.

    Raises:
        WsiclError, OSError: nothing can be written there.
    """
    measured = measure(config, place, repeats=repeats)
    table = Table(f"checkpoints in {place}", "")
    for name, value in (
        ("parameters and optimizer", f"{measured.bytes / 1e6:.1f} MB"),
        ("files", str(measured.files)),
        ("training waits", f"{measured.waiting_seconds:.2f} s"),
        ("complete after", f"{measured.saving_seconds:.2f} s"),
        ("read and verified in", f"{measured.verifying_seconds:.2f} s"),
    ):
        table.add_row(name, value)
    show(machine())
    show(table)
    return {"machine": machine(), "place": str(place), **asdict(measured)}


def measure(config: ExperimentConfig, place: Place, *, repeats: int) -> SaveTime:
    """The medians over `repeats` checkpoints, after one that is not counted."""
    run = place / f"bench-{uuid.uuid4().hex[:8]}"
    parameters = nnx.state(DualBranch(config.model, rngs=nnx.Rngs(config.seed)), nnx.Param)
    state = init_state(parameters, make_optimizer(config.train), config.train)
    metadata = {name: 0 for name in COUNTERS} | {"config": config_to_dict(config)}
    waiting, saving = [], []
    try:
        with RunCheckpoints(run, done=0, keep=1, keep_best=0) as checkpoints:
            for step in range(1, repeats + 2):
                start = time.perf_counter()
                checkpoints.save(step, state.items, metadata)
                waiting.append(time.perf_counter() - start)
                checkpoints.wait()
                saving.append(time.perf_counter() - start)
        files = len(names_below(run))
        start = time.perf_counter()
        newest_valid_step(run)
        verifying = time.perf_counter() - start
    finally:
        remove_all(run)
    return SaveTime(
        sum(x.nbytes for x in jax.tree.leaves(state.items)),
        files,
        statistics.median(waiting[1:]),
        statistics.median(saving[1:]),
        verifying,
    )
