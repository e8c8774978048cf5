"""The checkpoints of a run in training: written behind its back, whole or not at all.

All processes of a run save and restore together; Orbax has each write its share, and the
directory of a step gets its name when all of it is there.
"""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp

from wsicl_jax.distributed.broadcast import broadcast_from_leader
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.errors import CheckpointError
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.checkpoints import (
    METADATA,
    OPTIMIZER,
    PARAMETERS,
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

_SCORE = "score.json"


def has_steps(run: Path) -> bool:
    """Whether a run has checkpoints, be they sound or damaged."""
    return bool(step_directories(run / STEPS))


def newest_valid_step(run: Path) -> int:
    """The step of a run's newest checkpoint that is whole, read by this process; 0: it has none.

    A warning names each newer one that is damaged.

    Raises:
        CheckpointError: it has checkpoints and all of them are damaged.
    """
    steps = step_directories(run.absolute() / STEPS)
    return int(newest_valid(steps, [PARAMETERS, OPTIMIZER]).name) if steps else 0


def read_score(checkpoint: Path) -> float | None:
    """The mean validation Dice of a run's checkpoint; None if it was not evaluated."""
    try:
        content = parse_json(read_file(checkpoint / _SCORE), nan=True)
    except (OSError, ValueError):
        return None
    dice = content.get("dice") if has_valid_digest(content) else None
    return float(dice) if isinstance(dice, int | float) else None


class RunCheckpoints:
    """The newest and the best checkpoints of one run, which goes on from step `done`.

    Checkpoints of later steps are taken for damaged: they are passed by `has_steps`, and
    removed when the run has come as far again. As a context manager it waits for the last
    write at the end.
    """

    def __init__(self, run: Path, *, done: int, keep: int, keep_best: int):
        self._directory = run.absolute() / STEPS
        self._keep, self._keep_best = keep, keep_best
        found = broadcast_from_leader(
            lambda: [(int(d.name), read_score(d)) for d in step_directories(self._directory)]
        )
        self._damaged = {step for step, _ in found if step > done}
        self._scores = {s: dice for s, dice in found if dice is not None and s <= done}
        self._newest = done
        logging.getLogger("absl").addFilter(_told_by_us)
        try:
            self._manager = ocp.CheckpointManager(
                self._directory,
                item_names=(PARAMETERS, OPTIMIZER, METADATA),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=_Preservation(self.kept),
                    # What a killed process left half written.
                    cleanup_tmp_directories=True,
                    # It would fail on the metadata of damaged checkpoints.
                    lightweight_initialize=True,
                ),
            )
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
            # The error that ended the run is the one to be seen.
            if not isinstance(error, CheckpointError):
                warnings.warn(str(unwritten), stacklevel=2)
        finally:
            logging.getLogger("absl").removeFilter(_told_by_us)
            if is_leader():
                remove_unfinished(self._directory)

    @property
    def newest(self) -> int:
        """The step that was saved last, or that the run goes on from."""
        return self._newest

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Which of these checkpoints stay: the newest, the best, and damaged ones ahead."""
        sound = sorted(set(steps) - self._damaged)
        scored = sorted((self._scores[step], step) for step in sound if step in self._scores)
        best = scored[len(scored) - min(self._keep_best, len(scored)) :]
        ahead = {step for step in self._damaged if not sound or step > sound[-1]}
        return {*sound[-self._keep :], *(step for _, step in best), *ahead}

    def save(self, step: int, parameters: Any, optimizer: Any, metadata: Mapping[str, Any]) -> None:
        """Save in the background; the arrays may be changed as soon as this returns.

        Raises:
            CheckpointError: this one or the one before cannot be written, for example because
                the disk is full; those before stay.
        """
        self.wait()  # now, so that an error is told as that of the step it belongs to
        self._newest = step
        try:
            if step in self._damaged:
                self._manager.delete(step)
                self._damaged.remove(step)
            self._manager.save(
                step,
                args=composite({PARAMETERS: parameters, OPTIMIZER: optimizer}, metadata),
                # Orbax takes no step before its newest by itself, and that one may be damaged.
                force=True,
            )
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Come back when what was saved is written.

        Raises:
            CheckpointError: it could not be.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def is_scored(self, step: int) -> bool:
        """Whether a step's checkpoint has the score of its network."""
        return step in self._scores

    def score(self, step: int, dice: float) -> None:
        """Note the mean validation Dice of a step that was saved; it decides what is kept.

        Raises:
            CheckpointError: the checkpoint could not be written.
        """
        self.wait()
        # Processes on other machines may differ in the last bit, and would keep others.
        self._scores[step] = broadcast_from_leader(lambda: dice)
        if is_leader():
            content = json.dumps(with_digest({"dice": self._scores[step]}))
            write_whole(self._directory / str(step) / _SCORE, content.encode())

    def restore(
        self, step: int, parameters: Any, optimizer: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Parameters, optimiser state and metadata, placed like the trees given.

        Raises:
            CheckpointError: it does not fit those trees, or is damaged.
        """
        checkpoint = self._directory / str(step)
        metadata = read_metadata(checkpoint)
        return (
            restore_arrays(checkpoint, PARAMETERS, parameters, metadata),
            restore_arrays(checkpoint, OPTIMIZER, optimizer, metadata),
            metadata,
        )

    def _unwritten(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint of step {self._newest} could not be written to {self._directory}: "
            f"{reason_of(error)}; those before it are kept: make room there, then --resume"
        )


def _told_by_us(record: logging.LogRecord) -> bool:
    """Keep Orbax from printing tracebacks of errors that it raises as well."""
    return "orbax" not in Path(record.pathname).parts


class _Preservation:
    """`RunCheckpoints.kept` as Orbax asks for it."""

    def __init__(self, kept):
        self._kept = kept

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        kept = self._kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]
