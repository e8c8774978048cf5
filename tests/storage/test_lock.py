"""Who may work on a directory, when several processes want to."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wsicl_jax.errors import LockedError, WsiclError
from wsicl_jax.storage import lock
from wsicl_jax.storage.lock import is_held, locked, part_locked

_HOLDS = """
import sys, time
from pathlib import Path
from wsicl_jax.storage.lock import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / ".lock"


@pytest.fixture
def holder(path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDS, path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def as_of(path: Path, **changes) -> None:
    """Change what a lock says of its holder."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def elsewhere(holder, path, monkeypatch):
    """A lock of a process on another machine, which counts as dead after 2 s."""
    holder.kill()
    holder.wait()
    as_of(path, host="node7", machine="node7")
    monkeypatch.setattr(lock, "SILENT_SECONDS", 2.0)
    return path


def test_a_lock_is_refused_while_its_holder_lives_and_names_it(holder, path):
    assert is_held(path)
    with pytest.raises(LockedError, match=f"number {holder.pid} on {os.uname().nodename}"):
        locked(path, "it").__enter__()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_is_taken_over_at_once_when_its_holder_is_dead(holder, path, number):
    holder.send_signal(number)
    holder.wait()
    start = time.monotonic()
    assert path.exists() and not is_held(path)
    with locked(path, "it"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert time.monotonic() - start < 5 and not path.exists()


def test_another_process_of_the_same_number_is_not_the_holder(holder, path):
    as_of(path, started=json.loads(path.read_text())["started"] - 1000)
    with locked(path, "it"):
        pass


def test_a_holder_that_was_stopped_still_lives(holder, path):
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(LockedError):
        locked(path, "it").__enter__()


def test_a_holder_elsewhere_that_shows_itself_lives(elsewhere):
    beating = threading.Timer(1.0, os.utime, [elsewhere])
    beating.start()
    with pytest.raises(LockedError, match="on node7"):
        locked(elsewhere, "it").__enter__()
    beating.join()


def test_a_holder_elsewhere_that_is_silent_is_dead(elsewhere):
    assert is_held(elsewhere)
    start = time.monotonic()
    with locked(elsewhere, "it"):
        assert time.monotonic() - start > 1


def test_a_holder_elsewhere_that_has_long_been_silent_is_dead_at_once(elsewhere):
    os.utime(elsewhere, (time.time() - 100,) * 2)
    assert not is_held(elsewhere)
    start = time.monotonic()
    with locked(elsewhere, "it"):
        assert time.monotonic() - start < 1


def test_a_holder_shows_itself(path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    with locked(path, "it"):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_of_many_that_take_over_a_dead_lock_one_gets_it(holder, path):
    holder.kill()
    holder.wait()
    all_there, got, refused = threading.Barrier(8), [], []

    def take():
        all_there.wait()
        try:
            with locked(path, "it"):
                got.append(1)
                while len(refused) < 7:
                    time.sleep(0.01)
        except LockedError:
            refused.append(1)

    threads = [threading.Thread(target=take, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(got), len(refused)) == (1, 7)
    assert list(path.parent.parent.rglob("*.takeover")) == []


def test_who_lost_a_lock_is_told_and_does_not_remove_that_of_the_other(path):
    with locked(path, "the run"):
        with locked(path.with_name("other"), "it"):
            (path.with_name("other")).replace(path)
        # As after a takeover.
        path.write_text(json.dumps({"token": "x", "pid": 7, "host": "node7"}))
    assert path.exists()
    with locked(path.with_name("mine"), "the run") as mine:
        mine.check()
        path.replace(path.with_name("mine"))
        with pytest.raises(LockedError, match="taken over by another process, number 7 on node7"):
            mine.check()


def test_a_lock_file_that_somebody_removed_is_made_again(path):
    with locked(path, "it") as held:
        path.unlink()
        held.check()
        assert is_held(path)


def test_directories_that_were_made_for_a_lock_alone_are_removed(tmp_path):
    with locked(tmp_path / "a/b/.lock", "it"):
        assert (tmp_path / "a/b").is_dir()
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a/b/.lock", "it"):
        (tmp_path / "a/kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_where_no_file_can_be_made_the_directory_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WsiclError, match=f"cannot write to {tmp_path}/file/run"):
        locked(tmp_path / "file/run/.lock", "it").__enter__()


def test_parts_of_one_number_go_together_and_no_others(tmp_path):
    store = tmp_path / "store"
    with part_locked(store, (1, 2), "the store"), part_locked(store, (2, 2), "the store"):
        for part in ((1, 2), (1, 1), (3, 3)):
            with pytest.raises(LockedError):
                part_locked(store, part, "the store").__enter__()
        with part_locked(tmp_path / "store2", (1, 1), "another"):
            pass
    with part_locked(store, (1, 1), "the store"):
        pass
    assert list(tmp_path.iterdir()) == []
