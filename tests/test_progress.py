import os
import pty
import subprocess
import sys

from wsicl_jax import progress

WORK = """
from wsicl_jax.progress import track
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


def test_a_line_tells_count_time_left_and_status(capsys):
    clock = Clock()
    lines = progress._Lines(100, "training", clock=clock)
    lines.status("loss 0.25")
    clock.now += 40
    lines.advance(20)
    assert capsys.readouterr().err == "training: 20/100, 0:02:40 left, loss 0.25\n"


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
    code = "from wsicl_jax.progress import console; print(console().width)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "120\n"
