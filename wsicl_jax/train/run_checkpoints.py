"""The checkpoints of a run in training, written in the background and atomically.

All processes of a run save and restore together. With Orbax each writes its shards, and the
directory of a step gets its name when it is complete.
"""

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from wsicl_jax.distributed.broadcast import broadcast_from_leader
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.errors import CheckpointError, UnreachableError
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.checkpoints import (
    ITEMS,
    STEPS,
    composite,
    newest_valid,
    read_metadata,
    reason_of,
    remove_unfinished,
    restore_arrays,
    step_directories,
)
from wsicl_jax.storage.digests import has_valid_digest, with_digest
from wsicl_jax.storage.documents import parse_json, read_file
from wsicl_jax.storage.object_path import Place
from wsicl_jax.train.uploaded_checkpoints import UploadedCheckpoints

_SCORE = "score.json"


class Quality(NamedTuple):
    """What an evaluation on validation cases says about a checkpoint."""

    dice: float
    loss: float | None = None
    """The training loss on validation cases; None if it was not measured."""


def has_steps(run: Place) -> bool:
    """Whether a run has checkpoints, valid or damaged."""
    return bool(step_directories(run / STEPS))


def newest_valid_step(run: Place, can_lead: Callable[[Place], bool] = lambda _: True) -> int:
    """The step of a run's newest valid checkpoint, read by this process alone; 0: none.

    Only checkpoints count for which `can_lead` is true.

    A warning names each newer, damaged checkpoint.

    Raises:
        CheckpointError: all its checkpoints are damaged.
    """
    steps = list(filter(can_lead, step_directories(run.absolute() / STEPS)))
    return int(newest_valid(steps).name) if steps else 0


def read_quality(checkpoint: Place) -> Quality | None:
    """The quality of a run's checkpoint; None if it was not evaluated."""
    try:
        content = parse_json(read_file(checkpoint / _SCORE), nan=True)
    except UnreachableError:
        raise
    except (OSError, ValueError):
        return None
    if not has_valid_digest(content):
        return None
    dice, loss = (
        float(value) if isinstance(value := content.get(name), int | float) else None
        for name in Quality._fields
    )
    return None if dice is None else Quality(dice, loss)


class RunCheckpoints:
    """The newest and the best checkpoints of one run that continues from step `done`.

    The checkpoint of `keep_step` is kept as well. Those of later steps than `done` count as
    damaged; they are removed when the run reaches their steps.
    As a context manager, it waits for the last write at the end.
    """

    def __init__(
        self, run: Place, *, done: int, keep: int, keep_best: int, keep_step: int | None = None
    ):
        self._directory = run.absolute() / STEPS
        self._keep, self._keep_best, self._keep_step = keep, keep_best, keep_step
        existing = broadcast_from_leader(
            lambda: [(int(d.name), read_quality(d)) for d in step_directories(self._directory)]
        )
        self._damaged = {step for step, _ in existing if step > done}
        self._scores = {s: Quality(*q) for s, q in existing if q is not None and s <= done}
        self._newest = done
        logging.getLogger("absl").addFilter(_not_from_orbax)
        try:
            self._manager = _manager(self._directory, self.kept)
        except OSError as error:
            raise CheckpointError(f"cannot write to {self._directory}: {error}") from error

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._manager.close()
        except Exception as failure:
            unwritten = self._unwritten(failure)
            if error is None:
                raise unwritten from failure
            # The error that ended the run matters more.
            if not isinstance(error, CheckpointError):
                warnings.warn(str(unwritten), stacklevel=2)
        finally:
            logging.getLogger("absl").removeFilter(_not_from_orbax)
            if is_leader() and isinstance(self._directory, Path):
                remove_unfinished(self._directory)

    @property
    def newest(self) -> int:
        """The step that was saved last, or that the run continued from."""
        return self._newest

    def kept(self, steps: Sequence[int]) -> set[int]:
        """The newest, the best, that of `keep_step`, and damaged ones of later steps."""
        valid = sorted(set(steps) - self._damaged)
        scored = sorted((self._scores[step].dice, step) for step in valid if step in self._scores)
        best = scored[len(scored) - min(self._keep_best, len(scored)) :]
        ahead = {step for step in self._damaged if not valid or step > valid[-1]}
        chosen = {self._keep_step} & set(valid)
        return {*valid[-self._keep :], *(step for _, step in best), *chosen, *ahead}

    def save(self, step: int, items: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Save trees by item in the background; their arrays may change once this returns.

        Raises:
            CheckpointError: this checkpoint or the one before cannot be written, for example on a
                full disk; earlier ones are kept.
        """
        self.wait()  # now, so that an error names its own step
        self._newest = step
        try:
            if step in self._damaged:
                self._manager.delete(step)
                self._damaged.remove(step)
            self._manager.save(
                step,
                args=composite(items, metadata),
                # By default Orbax refuses steps before its newest, which may be damaged.
                force=True,
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            CheckpointError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def is_scored(self, step: int) -> bool:
        """Whether a step's checkpoint has a score."""
        return step in self._scores

    def quality_of(self, step: int) -> Quality:
        """The quality of a step that `is_scored`; the same in all processes."""
        return self._scores[step]

    def score(self, step: int, quality: Quality) -> None:
        """Record the quality of a saved step; its Dice decides what is kept.

        Raises:
            CheckpointError: the checkpoint could not be written.
        """
        self.wait()
        # Machines may differ in the last bit, and would keep different checkpoints.
        self._scores[step] = Quality(*broadcast_from_leader(lambda: quality))
        if is_leader():
            content = json.dumps(with_digest(self._scores[step]._asdict()))
            write_whole(self._directory / str(step) / _SCORE, content.encode())

    def restore(self, step: int, like: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read items, placed like these trees, and the metadata.

        Raises:
            CheckpointError: the checkpoint does not fit those trees, or is damaged.
        """
        checkpoint = self._directory / str(step)
        metadata = read_metadata(checkpoint)
        items = {
            item: restore_arrays(checkpoint, item, tree, metadata) for item, tree in like.items()
        }
        return items, metadata

    def _unwritten(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint of step {self._newest} could not be written to {self._directory}: "
            f"{reason_of(error)}; earlier ones are kept: make room there, then continue with "
            "--resume"
        )


def _manager(
    directory: Place, kept: Callable[[Sequence[int]], set[int]]
) -> ocp.CheckpointManager | UploadedCheckpoints:
    if not isinstance(directory, Path):
        return UploadedCheckpoints(directory, kept)
    return ocp.CheckpointManager(
        directory,
        item_names=ITEMS,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=_Preservation(kept),
            # Incomplete checkpoints of killed processes.
            cleanup_tmp_directories=True,
            # It would fail on the metadata of damaged checkpoints.
            lightweight_initialize=True,
        ),
    )


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """A log filter: drops Orbax's tracebacks of errors that it also raises."""
    return "orbax" not in Path(record.pathname).parts


class _Preservation:
    """`RunCheckpoints.kept` as a preservation policy of Orbax."""

    def __init__(self, kept):
        self._kept = kept

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        kept = self._kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]
