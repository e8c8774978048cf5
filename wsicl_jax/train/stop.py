"""Reasons to stop, shared by all processes, so that they stop after the same step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Stop(IntEnum):
    """Reasons to stop; the highest of several counts."""

    NO = 0
    REQUESTED = 1
    """SIGTERM, which a scheduler sends before it ends a job."""
    NO_DATA = 2
    """A process has no data. From this reason on, steps change nothing."""
    WORKER_KILLED = 3
    """A process has no data because one of its loader processes was killed."""


class StopRequest:
    """This process's reason to stop."""

    def __init__(self) -> None:
        self.reason = Stop.NO


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Record SIGTERM instead of ending at once; a second SIGTERM ends the process.

    Only Python's main thread receives signals: in other threads nothing is recorded.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(*_: object) -> None:
        request.reason = max(request.reason, Stop.REQUESTED)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        # None: the handler was not set from Python and cannot be restored.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class StopFlags:
    """Shares the reasons of all processes with every step, through an array over the devices.

    `flags(request)` is an array over all devices of the mesh; its maximum is the reason to stop.
    """

    def __init__(self, mesh: Mesh):
        sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        mine = np.zeros(len(mesh.local_devices), np.int32)
        self._flags = [
            jax.make_array_from_process_local_data(sharding, mine + int(reason), (mesh.size,))
            for reason in Stop
        ]

    def __call__(self, request: StopRequest) -> jax.Array:
        return self._flags[request.reason]
