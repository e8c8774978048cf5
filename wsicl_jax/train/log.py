"""The numbers of a run by step: JSON lines for programs, TensorBoard for people."""

import json
from collections.abc import Mapping
from pathlib import Path

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
    Only the leading process writes; in the others every call does nothing.
    """

    def __init__(self, run: Path, done: int, *, leader: bool):
        self._leader = leader
        if not leader:
            return
        from tensorboardX import SummaryWriter  # slow to import, and reading needs none of it

        self._kept = [json.dumps(e) + "\n" for e in read_log(run) if e["step"] <= done]
        write_whole(run / _FILE, "".join(self._kept).encode())
        self._lines = (run / _FILE).open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._leader:
            return
        try:
            self._lines.close()
            self._board.close()
        except OSError:
            # On a full disk the error that came first says more.
            if kind is None:
                raise

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Add values of a step."""
        if not self._leader:
            return
        line = json.dumps({"step": step, **values}) + "\n"
        if line in self._kept:
            return
        self._lines.write(line)
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
