"""The log of a run: values by step, as JSON lines and for TensorBoard."""

import json
import struct
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, StrictFloat, StrictInt, TypeAdapter

from wsicl_jax.errors import CheckpointError, TrainingError, UnreachableError, reason
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.documents import DocumentError, checked, parse_json, read_file
from wsicl_jax.storage.object_path import Place
from wsicl_jax.train.trackers import Trackers

_FILE = "log.jsonl"
_SET_ASIDE = "log.damaged.jsonl"
_LARGEST = 2**28
"""Bytes of a log; a million entries take fewer."""
_LONGEST_LINE = 2**20
"""Bytes of an entry, such as of 5,000 structures; a longer line is damaged."""


def _of_a_step(entry: dict[str, int | float]) -> dict[str, int | float]:
    if type(entry.get("step")) is not int or entry["step"] < 0:
        raise ValueError("step is missing")
    return entry


_ENTRIES = TypeAdapter(Annotated[dict[str, StrictInt | StrictFloat], AfterValidator(_of_a_step)])


class _Lines(NamedTuple):
    entries: list[dict[str, int | float]]
    damaged: dict[int, bytes]
    """By their number, from 1."""


def read_log(run: Place) -> list[dict[str, int | float]]:
    """The entries of a run's log in order.

    An incomplete last line is skipped; other damaged lines are skipped with a warning.

    Raises:
        TrainingError: the log cannot be read.
    """
    lines = _read(run)
    if lines.damaged:
        warnings.warn(_warning(run, lines.damaged, "skipped"), stacklevel=2)
    return lines.entries


def _read(run: Place) -> _Lines:
    path = run / _FILE
    try:
        content = read_file(path, _LARGEST) if path.is_file() else b""
    except UnreachableError:
        raise
    except (OSError, DocumentError) as error:
        raise TrainingError(f"{path} cannot be read: {reason(error)}") from None
    parsed = _Lines([], {})
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            if len(line) > _LONGEST_LINE:
                raise DocumentError(f"it has {len(line)} bytes")
            if line.strip():
                parsed.entries.append(checked(_ENTRIES, parse_json(line, nan=True)))
        except DocumentError:
            if number < len(lines):
                parsed.damaged[number] = line
    return parsed


def _warning(run: Place, damaged: Mapping[int, bytes], what: str) -> str:
    numbers = ", ".join(map(str, list(damaged)[:10])) + (", ..." if len(damaged) > 10 else "")
    return f"{run / _FILE} has {len(damaged)} damaged lines ({numbers}), which are {what}"


@contextmanager
def _without_torch() -> Iterator[None]:
    """While tensorboardX is imported: it would import PyTorch, which takes seconds, for no use."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None
    try:
        yield
    finally:
        del sys.modules["torch"]


class RunLog:
    """Writes the log of a run that continues from step `done`; removes later entries.

    Damaged lines move to `log.damaged.jsonl`, with a warning. An entry that exists, of a repeated
    evaluation, is not written twice. New entries also go to `trackers`. Only the leading process
    writes; in others, calls do nothing. TensorBoard's file is written synchronously: a writer
    thread would die on a full disk, and closing it would wait forever.

    Raises:
        CheckpointError: the log cannot be written.
    """

    def __init__(self, run: Path, done: int, *, leader: bool, trackers: Trackers | None = None):
        self._leader, self._trackers = leader, trackers
        if not leader:
            return
        with _without_torch():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import SessionLog

        self._path = run / _FILE
        lines = _read(run)
        self._kept = [json.dumps(e) + "\n" for e in lines.entries if e["step"] <= done]
        board = run / "tensorboard"
        with self._writing():
            if lines.damaged:
                with (run / _SET_ASIDE).open("ab") as file:
                    file.writelines(line + b"\n" for line in lines.damaged.values())
                message = _warning(run, lines.damaged, f"moved to {_SET_ASIDE}")
                warnings.warn(message, stacklevel=2)
            write_whole(self._path, "".join(self._kept).encode())
            self._lines = self._path.open("a")
            board.mkdir(exist_ok=True)
            self._board = EventsWriter(str(board / "events"))
            # TensorBoard then discards its earlier entries of later steps.
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
            # On a full disk, the earlier error is more informative.
            if kind is None:
                raise

    def write(
        self,
        step: int,
        values: Mapping[str, int | float],
        pictures: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Add values of a step, and PNG files by name, which only TensorBoard and trackers get.

        Raises:
            CheckpointError: they cannot be written.
        """
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
            for name, png in pictures.items():
                self._to_board(step, summary=_picture(name, png))
            self._board.flush()
        if self._trackers:
            self._trackers.write(step, values, pictures)

    def _to_board(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._board.write_event(Event(wall_time=time.time(), step=step, **content))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self._path} cannot be written: {error.strerror}; saved checkpoints are "
                "kept: make room there, then continue with --resume"
            ) from error


def _picture(name: str, png: bytes) -> Any:
    """TensorBoard's entry of a PNG file."""
    from tensorboardX.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", png[16:24])  # where the header of every PNG has them
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=name, image=image)])
