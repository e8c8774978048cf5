"""A full disk: one message, nothing half written, and the command goes on when there is room."""

from pathlib import Path

import pytest
from faults.conftest import VERBS

LEFT = {
    "convert": 120_000,
    "train": 100_000,
    "sweep": 12_000,
    "predict": 16_000,
    "export": 8_000,
    "import": 60_000,
}
"""Room in bytes that lets each verb begin, but not end."""

AGAIN = {"train": ["--resume"], "predict": ["--resume"]}


def debris(output: Path) -> list[Path]:
    """Files that are no whole result."""
    found = (path for path in output.rglob("*") if "orbax-checkpoint-tmp" in path.name)
    names = ("*.partial", "*.lock", ".lock", "*__lock")
    return [*found, *(path for name in names for path in output.rglob(name))]


@pytest.mark.parametrize("verb", LEFT)
@pytest.mark.parametrize("process", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_full_disk_is_one_message_and_the_command_goes_on_when_there_is_room(
    full, place, wsicl, verb, process
):
    filler = full(LEFT[verb])
    words = VERBS[verb](place)
    told = wsicl(verb, *words, process=process)
    assert told.code == 2, told.err
    assert "Traceback" not in told.err and "Exception" not in told.err
    (line,) = (line for line in told.err.splitlines() if "No space left on device" in line)
    assert line == told.err.splitlines()[-1] and line.startswith(f"wsicl {verb}: ")
    assert "make room" in line
    assert debris(place.output) == []
    filler.unlink()
    told = wsicl(verb, *words, *AGAIN.get(verb, []), process=process)
    assert told.code == 0, told.err
    assert debris(place.output) == []
