"""The numbers of a run by step: JSON lines for programs, TensorBoard for people."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsicl_jax.errors import CheckpointError
from wsicl_jax.files import write_whole

_FILE = "log.jsonl"


def read_log(run: Path) -> list[dict[str, int | float]]:
    """The entries of a run's log in order; a last line that was cut off is passed over."""
    path = run / _FILE
    entries = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


class RunLog:
    """Writes the log of a run from step `done` on; later entries, to be made again, are cut.

    An entry that is there already, of an evaluation made again, is not written twice.
    Only the leading process writes; in the others every call does nothing. TensorBoard's file is
    written at once, as the lines are: a thread behind our back would die on a full disk, and
    whoever waits for it then waits for ever.

    Raises:
        CheckpointError: nothing can be written there.
    """

    def __init__(self, run: Path, done: int, *, leader: bool):
        self._leader = leader
        if not leader:
            return
        from tensorboardX.event_file_writer import EventsWriter  # slow to import, unlike reading
        from tensorboardX.proto.event_pb2 import SessionLog

        self._path = run / _FILE
        self._kept = [json.dumps(e) + "\n" for e in read_log(run) if e["step"] <= done]
        board = run / "tensorboard"
        with self._writing():
            write_whole(self._path, "".join(self._kept).encode())
            self._lines = self._path.open("a")
            board.mkdir(exist_ok=True)
            self._board = EventsWriter(str(board / "events"))
            # TensorBoard forgets what came from here on before.
            self._to_board(done + 1, session_log=SessionLog(status=SessionLog.START))
            self._board.flush()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._leader:
            return
        try:
            with self._writing():
                self._lines.close()
                self._board.close()
        except CheckpointError:
            # On a full disk the error that came first says more.
            if kind is None:
                raise

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Add values of a step; raises `CheckpointError` if they cannot be written."""
        if not self._leader:
            return
        line = json.dumps({"step": step, **values}) + "\n"
        if line in self._kept:
            return
        from tensorboardX.summary import scalar

        with self._writing():
            self._lines.write(line)
            self._lines.flush()
            for name, value in values.items():
                self._to_board(step, summary=scalar(name, value))
            self._board.flush()

    def _to_board(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._board.write_event(Event(wall_time=time.time(), step=step, **content))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self._path} cannot be written: {error.strerror}; what was saved is kept: make "
                "room there, then go on with --resume"
            ) from error
