"""The job in Slurm that trains a cell and queues itself again when it was stopped.

Slurm sends signals to all processes of a job:

* Before the time limit it sends submitit's signal: USR2, or `SUBMITIT_PREEMPT_SIGNAL`. The
  training does not receive it. submitit calls `checkpoint`, which sends the training SIGTERM;
  the training saves and ends, and submitit queues the job again.
* Before a preemption, or by `scancel --signal=TERM`, SIGTERM reaches the training itself. After
  the training has saved, the job is queued again in the same way, unless Slurm is ending it: then
  it was cancelled, or Slurm itself has queued it again.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wsicl_jax.config import load_config
from wsicl_jax.errors import ConfigError, LockedError, TrainingError
from wsicl_jax.tools.ablate.cells import Cell
from wsicl_jax.tools.ablate.jobs import SAVED, STOPPED, CellFiles, Training, failure_reason
from wsicl_jax.tools.ablate.slurm_queue import job_state
from wsicl_jax.tools.ablate.states import is_finished

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_PAUSE = 0.5


class CellJob:
    """submitit calls it in every task of a job, with the ablation's directory and a cell's name."""

    def __init__(self) -> None:
        self._training: Training | None = None
        self._signals = -1

    def __call__(self, output: str, name: str) -> None:
        """Train the cell until it is finished.

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
        except LockedError as error:
            print(error)
            return
        self._has_received(signal.SIGTERM)  # an earlier one could not reach the training
        try:
            while (code := self._training.poll()) is None:
                time.sleep(_PAUSE)
            if code in STOPPED and task == 0:
                _queue_again()
        finally:
            self._training.close()
        if code not in (0, *STOPPED):
            raise TrainingError(
                f"the training of {name} {failure_reason(code, self._training.last_line())}; "
                f"its log is {files.log}"
            )

    def checkpoint(self, output: str, name: str) -> "DelayedSubmission | None":
        """submitit calls it before the time limit: save, and return the call to submit again.

        None: the training failed.
        """
        from submitit.helpers import DelayedSubmission

        if self._training:
            if not self._has_received(signal.SIGTERM):  # a second one would end it at once
                self._training.stop()
            if self._training.wait_in_handler() not in (None, *STOPPED):
                return None
        return DelayedSubmission(CellJob(), output, name)

    def _has_received(self, number: signal.Signals) -> bool:
        """Whether a signal has come since the last call, handled or not."""
        try:
            return number in os.read(self._signals, 4096)
        except BlockingIOError:
            return False


def _signals_by_arrival() -> int:
    """A file descriptor that receives the number of every signal in order of arrival.

    Python calls handlers in the order of numbers: that of USR2 before that of an earlier SIGTERM.
    """
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _submitits_signal() -> signal.Signals:
    return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]


def _number() -> str:
    """This job's number; `12_3` in an array, whose own number means all elements."""
    array, element = (os.environ.get(f"SLURM_ARRAY_{of}_ID") for of in ("JOB", "TASK"))
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID", "")


def _queue_again() -> None:
    """Let submitit queue this job again, unless Slurm is ending it.

    Raises:
        SystemExit: in either case.
    """
    try:
        state = job_state(_number())
    except ConfigError as error:
        state = str(error)
    if state == "RUNNING":
        signal.raise_signal(_submitits_signal())  # calls `checkpoint`, then leaves
    print(f"stopped and saved; the job ends: its state in Slurm is {state or 'unknown'}")
    sys.exit(SAVED)
