"""Traces of some training steps, for TensorBoard and Perfetto."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax

FOLDER = "profile"
"""Directory of the traces in a run; each start of a run adds one by its time."""


class Profiler(AbstractContextManager):
    """Records steps `first` to `last` of a run, in the process that writes its log.

    `steps` are the two, or empty: nothing is recorded. A run that continues after `first` records
    the rest. The trace has the parts of the network by name, and the steps by number.
    """

    def __init__(self, run: Path, steps: Sequence[int], *, leader: bool):
        self._path = run / FOLDER
        self._steps = range(steps[0], steps[1] + 1) if steps and leader else range(0)
        self._is_recording = False

    def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
        """A context manager around the dispatch of a step; starts the recording if it is due."""
        if number in self._steps and not self._is_recording:
            jax.profiler.start_trace(self._path, create_perfetto_trace=True)
            self._is_recording = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def after(self, number: int, result: object) -> None:
        """Stop the recording after its last step, when the devices have its result."""
        if self._is_recording and number >= self._steps[-1]:
            jax.block_until_ready(result)
            self._stop()

    def __exit__(self, *_: object) -> None:
        if self._is_recording:
            self._stop()

    def _stop(self) -> None:
        self._is_recording = False
        jax.profiler.stop_trace()
