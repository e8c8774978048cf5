"""Why all processes of a run stop after the same step: what one of them tells the others."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Stop(IntEnum):
    """Why to stop; of several reasons the highest counts."""

    NO = 0
    ASKED = 1
    """The scheduler asked, by SIGTERM, which comes before a job is taken down."""
    NO_DATA = 2
    """A process could not get its data; from here on a step changes nothing."""
    WORKER_KILLED = 3
    """The same, since a process that makes its episodes was killed."""


class StopRequest:
    """Why this process wants to stop."""

    def __init__(self) -> None:
        self.reason = Stop.NO


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Take note of SIGTERM instead of ending at once; a second one ends the process.

    Only Python's main thread gets signals: in another thread the request is never made.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(*_: object) -> None:
        request.reason = max(request.reason, Stop.ASKED)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        # None: a handler that was not set from Python, which cannot be set again.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class StopFlags:
    """What each process tells the others with every step, at no cost: an entry per device.

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
