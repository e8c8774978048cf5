"""The queue in front of the network: one worker takes a target of each job in turn.

So a request for one target waits for at most one target of every other job.
"""

import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wsicl_jax.errors import WsiclError
from wsicl_jax.serve.engine import CancelledError, Engine
from wsicl_jax.serve.folder import TooManyError
from wsicl_jax.serve.session import MissingError, Session

MOST_WAITING = 100
"""Jobs that wait for the network."""

_KEPT_JOBS = 200
"""Jobs that have ended and can still be asked for."""


@dataclass
class Job:
    """A request to segment targets of a session."""

    session: Session
    waiting: deque[str]
    doubt: bool
    total: int
    id: str = field(default_factory=lambda: os.urandom(8).hex())
    state: Literal["waiting", "running", "done", "cancelled"] = "waiting"
    current: str | None = None
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def described(self) -> dict[str, Any]:
        """The job for clients, with the seconds that are left by the mean of finished targets."""
        left = self.total - len(self.finished) - len(self.failed)
        mean = sum(self.seconds) / len(self.seconds) if self.seconds else None
        return {
            "id": self.id,
            "state": self.state,
            "total": self.total,
            "finished": list(self.finished),
            "failed": dict(self.failed),
            "current": self.current,
            "seconds_left": None if mean is None else round(mean * left, 1),
        }

    def interrupt(self) -> None:
        """Raises `CancelledError` if the job was cancelled."""
        if self.cancelled.is_set():
            raise CancelledError("cancelled")


class Queue:
    """Jobs, and the thread that does them."""

    def __init__(self, engine: Engine, write: Callable[..., None]):
        """`write(session, image, segmentation, path)` writes a label map."""
        self._engine, self._write = engine, write
        self._waiting: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._ready = threading.Event()
        self._worker = threading.Thread(target=self._work, daemon=True, name="network")
        self._worker.start()

    def add(self, session: Session, images: Sequence[str], *, doubt: bool) -> Job:
        """A new job; raises `TooManyError` if too many wait."""
        job = Job(session, deque(images), doubt, len(images))
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise TooManyError(f"{MOST_WAITING} requests wait for the network; try again later")
            ended = [id for id, one in self._jobs.items() if one.ended.is_set()]
            for id in ended[: max(len(self._jobs) - _KEPT_JOBS, 0)]:
                del self._jobs[id]
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify()
        return job

    def of(self, session: Session, id: str) -> Job:
        """A job of a session; raises `MissingError` if there is none."""
        job = self._jobs.get(id)
        if job is None or job.session is not session:
            raise MissingError(f"there is no job {id[:40]!r} in this session")
        return job

    def active(self, session: Session) -> list[Job]:
        """The jobs of a session that have not ended."""
        with self._changed:
            jobs = list(self._jobs.values())
        return [job for job in jobs if job.session is session and not job.ended.is_set()]

    def cancel(self, job: Job) -> None:
        """Cancel a job; a target that is being segmented stops at the network's next use."""
        with self._changed:
            job.cancelled.set()
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, "cancelled")

    def cancel_all(self, session: Session) -> None:
        """Cancel all jobs of a session."""
        for job in [job for job in self._jobs.values() if job.session is session]:
            self.cancel(job)

    def wait_until_ready(self) -> None:
        """Wait until the network is compiled."""
        self._ready.wait()

    def stop(self) -> None:
        """End the worker after the network's next use."""
        with self._changed:
            self._stopped = True
            for job in self._jobs.values():
                job.cancelled.set()
            self._changed.notify()
        self._worker.join(timeout=60)

    def _end(self, job: Job, state: Literal["done", "cancelled"]) -> None:
        job.state, job.current = state, None
        job.ended.set()

    def _work(self) -> None:
        try:
            self._engine.network.warm_up()
        except Exception:
            traceback.print_exc()
        self._ready.set()
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                job = self._waiting.popleft()
                job.state, job.current = "running", job.waiting.popleft()
            self._segment(job, job.current)
            with self._changed:
                if job.cancelled.is_set():
                    self._end(job, "cancelled")
                elif job.waiting:
                    job.current = None
                    self._waiting.append(job)
                else:
                    self._end(job, "done")

    def _segment(self, job: Job, image: str) -> None:
        begin = time.monotonic()
        try:
            found, result = self._engine.segment(
                job.session, image, doubt=job.doubt, interrupt=job.interrupt
            )
            job.session.set_result(image, result, lambda path: self._write(image, found, path))
        except CancelledError:
            return
        except (WsiclError, OSError) as error:
            job.failed[image] = str(error)
        # The worker outlives a defect, which is reported where the service was started.
        except Exception as error:
            traceback.print_exc()
            job.failed[image] = f"internal error: {type(error).__name__}"
        else:
            job.finished.append(image)
            job.seconds.append(time.monotonic() - begin)
