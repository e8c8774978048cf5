"""Checkpoints that Orbax writes to this machine, and that are copied to an object store.

Orbax writes neither to S3 nor, without further packages, to Google Cloud Storage. The metadata of
a checkpoint are copied last: one without them is incomplete, as are those of killed processes.
"""

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from wsicl_jax.storage.checkpoints import METADATA, step_directories
from wsicl_jax.storage.object_path import ObjectPath
from wsicl_jax.storage.transfer import temporary_folder, upload

_LAST = f"{METADATA}/{METADATA}"
"""The file that is copied last, and removed first."""


class UploadedCheckpoints:
    """The methods of Orbax' `CheckpointManager` that a run needs, for an object store.

    `kept` chooses those to be kept, of all steps that are saved. Incomplete ones are removed at
    the start.

    Raises:
        OSError: the object store cannot be read or written.
    """

    def __init__(self, directory: ObjectPath, kept: Callable[[Sequence[int]], set[int]]):
        self._directory, self._kept = directory, kept
        self._steps = {int(checkpoint.name) for checkpoint in step_directories(directory)}
        for folder in {key.split("/")[0] for key in directory.keys_below()}:
            if not (folder.isdigit() and int(folder) in self._steps):
                (directory / folder).remove()
        self._opened = ExitStack()
        self._folder = self._opened.enter_context(temporary_folder())
        self._checkpointer = self._opened.enter_context(
            ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        )
        self._background = self._opened.enter_context(ThreadPoolExecutor(1))
        self._copied: Future[None] | None = None

    def save(self, step: int, args: Any, *, force: bool = True) -> None:
        """Save a step in the background; the arrays may change once this returns."""
        folder = self._folder / str(step)
        self._checkpointer.save(folder, args=args, force=force)
        steps = self._steps | {step}
        self._copied = self._background.submit(
            self._copy, folder, steps - self._kept(sorted(steps))
        )

    def delete(self, step: int) -> None:
        """Remove a step."""
        self._steps.discard(step)
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

    def _copy(self, folder: Path, superfluous: set[int]) -> None:
        self._checkpointer.wait_until_finished()
        files = [file for file in folder.rglob("*") if file.is_file()]
        last = folder / _LAST
        place = self._directory / folder.name
        upload(folder, (file for file in files if file != last), place)
        upload(folder, [last], place)
        shutil.rmtree(folder)
        self._steps.add(int(folder.name))
        for step in sorted(superfluous):
            self.delete(step)
