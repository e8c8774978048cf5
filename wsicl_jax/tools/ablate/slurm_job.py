"""What a job of Slurm does for its cell: train, and be queued again when it was stopped.

Slurm signals all processes of a job. Ahead of the time limit it sends submitit's signal (USR2,
or what `SUBMITIT_PREEMPT_SIGNAL` says), which the training never gets: submitit asks for
`checkpoint`, the training gets SIGTERM, saves and ends, and submitit queues the job again.
SIGTERM, which comes before a preemption or by `scancel --signal=TERM`, reaches the training by
itself; when it has saved, the job is queued again in the same way, unless Slurm is taking it
down anyhow: then it was cancelled, or Slurm itself has queued it again.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wsicl_jax.config import load_config
from wsicl_jax.errors import ConfigError, TrainingError
from wsicl_jax.tools.ablate.cells import Cell
from wsicl_jax.tools.ablate.jobs import SAVED, STOPPED, CellFiles, CellTakenError, Training, reason
from wsicl_jax.tools.ablate.slurm_queue import job_state
from wsicl_jax.tools.ablate.states import is_finished

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_PAUSE = 0.5


class CellJob:
    """What submitit calls in every task of a job, with the ablation's directory and a cell."""

    def __init__(self) -> None:
        self._training: Training | None = None
        self._signals = -1

    def __call__(self, output: str, name: str) -> None:
        """Train the cell to its end.

        Raises:
            TrainingError: the training failed.
            SystemExit: it was stopped and saved.
        """
        task = int(os.environ.get("SLURM_PROCID", "0"))
        files = CellFiles(Path(output), name, task)
        if is_finished(Cell(name, {}, load_config(files.config), False), files):
            print(f"{name} is finished already")
            return
        self._signals = _signals_by_arrival()
        try:
            self._training = Training(
                files,
                blocked={_submitits_signal()},
                slurm_job=_number(),
            )
        except CellTakenError as error:
            print(error)
            return
        self._has_got(signal.SIGTERM)  # one that came before could not reach the training
        try:
            while (code := self._training.poll()) is None:
                time.sleep(_PAUSE)
            if code in STOPPED and task == 0:
                _queue_again()
        finally:
            self._training.close()
        if code not in (0, *STOPPED):
            raise TrainingError(
                f"the training of {name} {reason(code, self._training.said())} "
                f"(all of it in {files.log})"
            )

    def checkpoint(self, output: str, name: str) -> "DelayedSubmission | None":
        """Called by submitit ahead of the time limit: save, and be called again some day.

        None: there is nothing to go on with.
        """
        from submitit.helpers import DelayedSubmission

        if self._training:
            if not self._has_got(signal.SIGTERM):  # a second one would end it at once
                self._training.stop()
            if self._training.wait_in_handler() not in (None, *STOPPED):
                return None
        return DelayedSubmission(CellJob(), output, name)

    def _has_got(self, number: signal.Signals) -> bool:
        """Whether a signal has come since this was asked last, its handler called or not."""
        try:
            return number in os.read(self._signals, 4096)
        except BlockingIOError:
            return False


def _signals_by_arrival() -> int:
    """A file that gets the number of every signal as it comes.

    Python calls handlers in the order of numbers: that of USR2 before that of a SIGTERM which
    came earlier.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _submitits_signal() -> signal.Signals:
    return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]


def _number() -> str:
    """This job's number; `12_3` in an array, whose own number means all of it."""
    array, element = (os.environ.get(f"SLURM_ARRAY_{of}_ID") for of in ("JOB", "TASK"))
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID", "")


def _queue_again() -> None:
    """Have submitit queue this job again, unless it is being taken down by Slurm.

    Raises:
        SystemExit: in either case.
    """
    try:
        state = job_state(_number())
    except ConfigError as error:
        state = str(error)
    if state == "RUNNING":
        signal.raise_signal(_submitits_signal())  # calls `checkpoint`, then leaves
    print(f"stopped and saved; Slurm says {state or 'nothing'} of this job, so it ends here")
    sys.exit(SAVED)
