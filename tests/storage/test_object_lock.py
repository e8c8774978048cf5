"""Who may write to a prefix of an object store, when several processes want to."""

import json
import subprocess
import sys
import threading
import time

import pytest

from wsicl_jax.errors import LockedError, UnreachableError, WsiclError
from wsicl_jax.storage import object_lock
from wsicl_jax.storage.lock import locked
from wsicl_jax.storage.object_path import ObjectPath, place_of

_HOLDS = """
import sys, time
from wsicl_jax.storage.lock import locked
from wsicl_jax.storage.object_path import place_of
with locked(place_of(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(s3):
    return place_of(s3) / "run" / ".lock"


@pytest.fixture
def holder(path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDS, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def elsewhere(path, monkeypatch):
    """A lock of a process on another machine, which counts as dead after 2 s."""
    record = {"pid": 7, "host": "node7", "machine": "node7", "token": "other", "beat": 0}
    path.write_bytes(json.dumps(record).encode())
    monkeypatch.setattr(object_lock, "SILENT_SECONDS", 2.0)
    monkeypatch.setattr(object_lock, "_PAUSE", 0.1)
    return path


def test_an_objects_lock_is_refused_while_its_holder_lives_and_names_it(holder, path):
    with pytest.raises(LockedError, match=rf"number {holder.pid} on .*s3://.*/run/\.lock"):
        locked(path, "it").__enter__()


def test_an_objects_lock_is_taken_over_at_once_when_its_holder_was_killed(holder, path):
    holder.kill()
    holder.wait()
    start = time.monotonic()
    with locked(path, "it") as lock:
        lock.check()
    assert time.monotonic() - start < 5 and not path.is_file()


def test_a_holder_elsewhere_that_writes_its_record_anew_lives(elsewhere):
    record = json.loads(elsewhere.read_bytes()) | {"beat": 1}
    beating = threading.Timer(0.5, elsewhere.write_bytes, [json.dumps(record).encode()])
    beating.start()
    with pytest.raises(LockedError, match="on node7"):
        locked(elsewhere, "it").__enter__()
    beating.join()


def test_a_silent_holder_elsewhere_is_dead_and_does_not_get_its_lock_back(elsewhere):
    start = time.monotonic()
    with locked(elsewhere, "it"):
        assert time.monotonic() - start > 1.5
        assert json.loads(elsewhere.read_bytes())["token"] != "other"


def test_a_holder_writes_its_record_anew(path, monkeypatch):
    monkeypatch.setattr(object_lock, "BEAT_SECONDS", 0.1)
    with locked(path, "it") as lock:
        deadline = time.monotonic() + 20
        while json.loads(path.read_bytes())["beat"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        lock.check()
    assert not path.is_file()


def test_whoever_lost_its_lock_is_told_and_leaves_the_new_one(path):
    with locked(path, "it") as lock:
        lock.check()
        record = json.loads(path.read_bytes()) | {"token": "other", "host": "node7"}
        path.write_bytes(json.dumps(record).encode())
        with pytest.raises(LockedError, match=r"taken over by another process, .* on node7"):
            lock.check()
    assert path.is_file()


def test_of_many_that_want_an_objects_lock_one_gets_it(path):
    got, refused, all_tried = [], [], threading.Barrier(6)

    def take():
        lock = object_lock.ObjectLock(path, "it")
        try:
            lock.take()
            got.append(lock)
        except LockedError as error:
            refused.append(error)
        all_tried.wait(30)
        lock.leave()

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)


def test_a_server_that_ignores_conditions_is_refused(path, monkeypatch):
    class Careless:
        """Every write succeeds."""

        def __init__(self, store):
            self._store = store

        def read(self, key):
            return self._store.read(key)

        def write(self, key, content, if_equal=None):
            return self._store.write(key, content)

    honest = object_lock._store_of
    monkeypatch.setattr(object_lock, "_store_of", lambda path: Careless(honest(path)))
    with pytest.raises(WsiclError, match="ignores conditions of writes"):
        locked(path, "it").__enter__()


def test_a_bucket_that_does_not_exist_cannot_be_locked(s3):
    nowhere = ObjectPath("s3://no-such-bucket-here/run/.lock")
    with pytest.raises(WsiclError, match=r"cannot write to s3://no-such-bucket-here/run: .*Bucket"):
        locked(nowhere, "it").__enter__()
    with pytest.raises(UnreachableError):
        object_lock.ObjectLock(nowhere, "it").take()
