import os
import pty
import subprocess
import sys

import pytest

from wsicl_jax.terminal import progress

WORK = """
from wsicl_jax.terminal.progress import track
with track(3, "counting") as tracker:
    for i in range(3):
        tracker.status(f"loss 0.{i}")
        tracker.advance()
"""


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_a_log_gets_a_line_at_most_every_30_seconds(capsys):
    clock = Clock()
    lines = progress._Lines(100, "training", clock=clock)
    for _ in range(10):
        clock.now += 10
        lines.advance()
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    ("done", "told"),
    [(20, "20/100, 2.0 s each, 0:02:40 left"), (60, "60/100, 1.5/s, 0:00:27 left")],
)
def test_a_line_tells_count_speed_time_left_and_status(capsys, done, told):
    clock = Clock()
    lines = progress._Lines(100, "training", clock=clock)
    lines.status("loss 0.25")
    clock.now += 40
    lines.advance(done)
    assert capsys.readouterr().err == f"training: {told}, loss 0.25\n"


def test_what_was_done_before_does_not_count_as_speed(capsys):
    clock = Clock()
    lines = progress._Lines(100, "training", done=40, clock=clock)
    clock.now += 40
    lines.advance(20)
    assert capsys.readouterr().err == "training: 60/100, 2.0 s each, 0:01:20 left\n"


def test_what_is_done_only_once_does_not_count_in_the_time_left(capsys):
    clock = Clock()
    lines = progress._Lines(100, "training", clock=clock)
    with lines.paused():
        clock.now += 300
    clock.now += 2
    lines.advance()
    assert capsys.readouterr().err == "training: 1/100, 2.0 s each, 0:03:18 left\n"


def test_work_that_had_a_line_ends_with_one(capsys):
    clock = Clock()
    lines = progress._Lines(4, "training", clock=clock)
    for seconds in (31, 1, 1, 1):
        clock.now += seconds
        lines.advance()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("training: 1/4")
    assert last == "training: 4/4, 8.5 s each, 0:00:00 left"


def test_short_work_leaves_no_line_in_a_log(capsys):
    with progress.track(2, "converting") as tracker:
        tracker.advance(2)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_on_stderr_only():
    terminal, stderr = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=stderr, env=environment
    )
    os.close(stderr)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert (done.returncode, done.stdout) == (0, b"")
    assert all(text in shown for text in ("counting", "3/3", "/s", "loss 0.2"))


def test_piped_tables_are_120_columns_wide():
    code = "from wsicl_jax.terminal.progress import console; print(console().width)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "120\n"
