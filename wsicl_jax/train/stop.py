"""Stopping when the scheduler asks for it: SIGTERM, which comes before a job is taken down."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class StopRequest:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.made = False


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
        request.made = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        # None: a handler that was not set from Python, which cannot be set again.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class StopFlags:
    """What each process tells the others with every step, at no cost: an entry per device.

    `flags(request)` is an array over all devices of the mesh; its sum is above 0 if any
    process was asked to stop.
    """

    def __init__(self, mesh: Mesh):
        sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        mine = np.zeros(len(mesh.local_devices), np.int32)
        self._flags = [
            jax.make_array_from_process_local_data(sharding, mine + made, (mesh.size,))
            for made in (0, 1)
        ]

    def __call__(self, request: StopRequest) -> jax.Array:
        return self._flags[request.made]
