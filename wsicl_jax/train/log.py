"""The numbers of a run by step: JSON lines for programs, TensorBoard for people."""

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, StrictFloat, StrictInt, TypeAdapter

from wsicl_jax.errors import CheckpointError, TrainingError, reason
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.documents import DocumentError, checked, parse_json, read_file

_FILE = "log.jsonl"
_SET_ASIDE = "log.damaged.jsonl"
_LARGEST = 2**30
"""Bytes of a log."""


def _of_a_step(entry: dict[str, int | float]) -> dict[str, int | float]:
    if type(entry.get("step")) is not int or entry["step"] < 0:
        raise ValueError("there is no step")
    return entry


_ENTRIES = TypeAdapter(Annotated[dict[str, StrictInt | StrictFloat], AfterValidator(_of_a_step)])


class _Lines(NamedTuple):
    entries: list[dict[str, int | float]]
    damaged: dict[int, bytes]
    """By their number, from 1."""


def read_log(run: Path) -> list[dict[str, int | float]]:
    """The entries of a run's log in order.

    A last line that was cut off is passed over, and so, with a warning, are damaged ones.

    Raises:
        TrainingError: the log cannot be read.
    """
    found = _read(run)
    if found.damaged:
        warnings.warn(_warning(run, found.damaged, "passed over"), stacklevel=2)
    return found.entries


def _read(run: Path) -> _Lines:
    path = run / _FILE
    try:
        content = read_file(path, _LARGEST) if path.is_file() else b""
    except (OSError, DocumentError) as error:
        raise TrainingError(f"{path} cannot be read: {reason(error)}") from None
    found = _Lines([], {})
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                found.entries.append(checked(_ENTRIES, parse_json(line, nan=True)))
        except DocumentError:
            if number < len(lines):
                found.damaged[number] = line
    return found


def _warning(run: Path, damaged: Mapping[int, bytes], what: str) -> str:
    numbers = ", ".join(map(str, list(damaged)[:10])) + (", ..." if len(damaged) > 10 else "")
    return f"{run / _FILE} has {len(damaged)} damaged lines ({numbers}), which are {what}"


class RunLog:
    """Writes the log of a run from step `done` on; later entries, to be made again, are cut.

    Damaged lines go to `log.damaged.jsonl`, with a warning.
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
        found = _read(run)
        self._kept = [json.dumps(e) + "\n" for e in found.entries if e["step"] <= done]
        board = run / "tensorboard"
        with self._writing():
            if found.damaged:
                with (run / _SET_ASIDE).open("ab") as file:
                    file.writelines(line + b"\n" for line in found.damaged.values())
                said = _warning(run, found.damaged, f"set aside in {_SET_ASIDE}")
                warnings.warn(said, stacklevel=2)
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
