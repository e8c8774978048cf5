"""Growing files of a run reach its place."""

import time

import pytest

from wsicl_jax.errors import LockedError, UnreachableError
from wsicl_jax.storage import working_folder
from wsicl_jax.storage.lock import locked
from wsicl_jax.storage.object_path import names_below, place_of
from wsicl_jax.storage.working_folder import WorkingFolder


@pytest.fixture
def run(s3):
    return place_of(s3) / "run"


def append(folder: WorkingFolder, name: str, content: bytes) -> None:
    file = folder.path / name
    file.parent.mkdir(exist_ok=True)
    with file.open("ab") as opened:
        opened.write(content)


def test_on_a_disk_the_folder_is_the_place_itself(tmp_path):
    with WorkingFolder(tmp_path) as folder:
        assert folder.path == tmp_path
        folder.copy()


def test_a_file_goes_on_where_its_object_ended(run):
    (run / "log").write_bytes(b"1")
    (run / "checkpoints" / "8" / "x").write_bytes(b"")
    with WorkingFolder(run) as folder:
        assert folder.path.name == "run" and names_below(folder.path) == ["log"]
        append(folder, "log", b"2")
        append(folder, "board/events", b"3")
        assert (run / "log").read_bytes() == b"1"
        folder.copy()
        assert (run / "log").read_bytes() == b"12"
        append(folder, "log", b"4")
    assert (run / "log").read_bytes() == b"124" and (run / "board/events").read_bytes() == b"3"
    assert not folder.path.exists()


def test_what_was_not_changed_is_not_written_again(run):
    (run / "config").write_bytes(b"old")
    with WorkingFolder(run) as folder:
        (run / "config").write_bytes(b"new")
        append(folder, "log", b"1")
    assert (run / "config").read_bytes() == b"new"


def test_changes_are_copied_without_being_asked(run, monkeypatch):
    monkeypatch.setattr(working_folder, "COPY_SECONDS", 0.1)
    with WorkingFolder(run) as folder:
        append(folder, "log", b"1")
        deadline = time.monotonic() + 20
        while not (run / "log").is_file():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_nothing_is_copied_after_another_process_has_taken_the_lock_over(run):
    with (
        locked(run / ".lock", "the run") as lock,
        pytest.raises(LockedError, match="taken over"),
        WorkingFolder(run, lock) as folder,
    ):
        (run / ".lock").write_bytes(b'{"token": "other"}')
        append(folder, "log", b"1")
    assert not (run / "log").exists()


def test_what_cannot_be_copied_at_the_end_is_told_unless_another_error_ended_the_block(
    run, monkeypatch
):
    def refuse(*_):
        raise UnreachableError(5, "no answer", "s3://x")

    monkeypatch.setattr(working_folder, "upload", refuse)
    with pytest.raises(UnreachableError, match="s3://x: no answer"), WorkingFolder(run) as folder:
        append(folder, "log", b"1")
    with pytest.raises(KeyError), WorkingFolder(run) as folder:
        append(folder, "log", b"1")
        raise KeyError


def test_only_the_leading_process_writes(run):
    (run / "log").write_bytes(b"1")
    with WorkingFolder(run, leader=False) as folder:
        folder.copy()
    assert not folder.path.exists() and names_below(run) == ["log"]
