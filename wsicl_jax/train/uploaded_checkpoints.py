"""Checkpoints that Orbax writes to this machine, and that are copied to an object store.

Orbax writes neither to S3 nor, without further packages, to Google Cloud Storage. Each process
writes its shards to a temporary folder and copies them. The metadata of a checkpoint are copied
last: one without them is incomplete, as are those of killed processes.
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.storage.checkpoints import EMA, METADATA, OPTIMIZER, PARAMETERS, step_directories
from wsicl_jax.storage.object_path import ObjectPath
from wsicl_jax.storage.transfer import temporary_folder, upload

_LAST = f"{METADATA}/{METADATA}"
"""The file that is copied last, and removed first."""

_TIMEOUT_MS = 20 * 60 * 1000
"""How long a process waits for the files of the others; as Orbax."""


class UploadedCheckpoints:
    """The methods of Orbax' `CheckpointManager` that a run needs, for an object store.

    `kept` chooses those to be kept, of all steps that are saved. Incomplete ones are removed at
    the start. Collective: all processes of a run call the methods.

    Raises:
        OSError: the object store cannot be read or written.
    """

    def __init__(self, directory: ObjectPath, kept: Callable[[Sequence[int]], set[int]]):
        self._directory, self._kept = directory, kept
        self._steps = {int(checkpoint.name) for checkpoint in step_directories(directory)}
        if is_leader():
            for folder in {key.split("/")[0] for key in directory.keys_below()}:
                if not (folder.isdigit() and int(folder) in self._steps):
                    (directory / folder).remove()
        self._opened = ExitStack()
        self._folder = self._opened.enter_context(temporary_folder())
        self._background = self._opened.enter_context(ThreadPoolExecutor(1))
        self._copied: Future[None] | None = None

    def save(self, step: int, args: Any, *, force: bool = True) -> None:
        """Save a step in the background; the arrays may change once this returns."""
        folder = self._folder / str(step)
        # A new one each time: Orbax shares whether a process is alone between all its handlers, and
        # a restore may have changed that.
        checkpointer = _checkpointer()
        checkpointer.save(folder, args=args, force=force)
        steps = self._steps | {step}
        superfluous = sorted(steps - self._kept(sorted(steps)))
        self._copied = self._background.submit(self._copy, checkpointer, folder, superfluous)

    def delete(self, step: int) -> None:
        """Remove a step."""
        self._steps.discard(step)
        if is_leader():
            checkpoint = self._directory / str(step)
            (checkpoint / _LAST).unlink()
            checkpoint.remove()

    def wait_until_finished(self) -> None:
        """Wait for the last save; raises its error."""
        if self._copied is not None:
            copied, self._copied = self._copied, None
            copied.result()

    def close(self) -> None:
        """Wait for the last save; raises its error."""
        with self._opened:
            self.wait_until_finished()

    def _copy(
        self, checkpointer: ocp.AsyncCheckpointer, folder: Path, superfluous: Sequence[int]
    ) -> None:
        with checkpointer:
            checkpointer.wait_until_finished()
        last, place = folder / _LAST, self._directory / folder.name
        files = [file for file in folder.rglob("*") if file.is_file() and file != last]
        # All processes have some files in common; those of the leader remain.
        if not is_leader():
            upload(folder, files, place)
        ocp.multihost.get_barrier_sync_fn()(key=f"copied {folder.name}", timeout_ms=_TIMEOUT_MS)
        if is_leader():
            upload(folder, files, place)
            upload(folder, [last], place)
        shutil.rmtree(folder)
        self._steps.add(int(folder.name))
        for step in superfluous:
            self.delete(step)


def _checkpointer() -> ocp.AsyncCheckpointer:
    if jax.process_count() == 1:
        return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    # Each process writes what a process does that shares no disk with others. One file for each
    # shard: Orbax merges its other format on a shared disk alone.
    each = ocp.options.MultiprocessingOptions(primary_host=None)
    items = {
        item: ocp.StandardCheckpointHandler(use_ocdbt=False, multiprocessing_options=each)
        for item in (PARAMETERS, OPTIMIZER, EMA)
    }
    items[METADATA] = ocp.JsonCheckpointHandler(multiprocessing_options=each)
    handler = ocp.CompositeCheckpointHandler(
        **items, composite_options=ocp.CompositeOptions(multiprocessing_options=each)
    )
    return ocp.AsyncCheckpointer(handler, multiprocessing_options=each)
