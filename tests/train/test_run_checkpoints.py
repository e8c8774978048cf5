"""A run's checkpoints: damage is noticed and passed by, the best are kept, disks run full."""

import shutil
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import STEPS, assert_equal_networks, learning, saved_steps, tiny

from wsicl_jax.errors import CheckpointError, WsiclError
from wsicl_jax.storage.checkpoints import damage, find_checkpoint
from wsicl_jax.train.evaluation import Evaluation
from wsicl_jax.train.loop import train
from wsicl_jax.train.run_checkpoints import (
    Quality,
    RunCheckpoints,
    newest_valid_step,
    read_quality,
)
from wsicl_jax.weights.network_checkpoint import load_checkpoint

NEWEST, BEFORE = 8, 6


@pytest.fixture
def run(whole_run, tmp_path):
    """A copy of the whole run, to be damaged."""
    shutil.copytree(whole_run[0], tmp_path / "run")
    return tmp_path / "run"


def files_of(run: Path, step: int, item: str = "") -> list[Path]:
    return sorted(
        file for file in (run / "checkpoints" / str(step) / item).rglob("*") if file.is_file()
    )


def largest(run: Path, step: int, item: str) -> Path:
    # Below `d` lies what is read; Orbax leaves what it was made of beside it.
    folder = item if item == "metadata" else f"{item}/d"
    return max(files_of(run, step, folder), key=lambda file: file.stat().st_size)


def flip_a_bit(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 16
    file.write_bytes(bytes(content))


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def take_parameters_of(run: Path, step: int) -> None:
    here = run / "checkpoints" / str(NEWEST) / "parameters"
    shutil.rmtree(here)
    shutil.copytree(run / "checkpoints" / str(step) / "parameters", here)


DAMAGES = {
    "whole files of other values": lambda run: take_parameters_of(run, BEFORE),
    "a bit of the parameters": lambda run: flip_a_bit(largest(run, NEWEST, "parameters"), 600),
    "a bit of the metadata": lambda run: flip_a_bit(largest(run, NEWEST, "metadata"), 40),
    "parameters cut off": lambda run: cut_in_half(largest(run, NEWEST, "parameters")),
    "metadata cut off": lambda run: cut_in_half(largest(run, NEWEST, "metadata")),
    "a file removed": lambda run: largest(run, NEWEST, "parameters").unlink(),
    "no parameters": lambda run: shutil.rmtree(run / f"checkpoints/{NEWEST}/parameters"),
    "no metadata": lambda run: shutil.rmtree(run / f"checkpoints/{NEWEST}/metadata"),
    "no files": lambda run: [file.unlink() for file in files_of(run, NEWEST)],
}


SLOW = ("a bit of the metadata", "parameters cut off", "a file removed", "no metadata")


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(harm, marks=[pytest.mark.slow] * (name in SLOW), id=name)
        for name, harm in DAMAGES.items()
    ],
)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run, harm):
    expected = load_checkpoint(run / "checkpoints" / str(BEFORE))
    harm(run)
    with pytest.warns(UserWarning, match=f"checkpoints/{NEWEST} is skipped"):
        assert_equal_networks(load_checkpoint(run), expected)
    with pytest.warns(UserWarning, match=f"checkpoints/{NEWEST} is skipped"):
        assert newest_valid_step(run) == BEFORE


def test_a_run_whose_newest_checkpoint_is_damaged_comes_to_the_same_end(whole_run, run):
    flip_a_bit(largest(run, NEWEST, "parameters"), 600)
    with pytest.warns(UserWarning, match="skipped"):
        assert_equal_networks(train(tiny(run), resume=True), whole_run[1])
    assert learning(run) == learning(whole_run[0])
    assert saved_steps(run) == [BEFORE, NEWEST]
    assert damage(run / "checkpoints" / str(NEWEST)) is None


def test_a_damaged_checkpoint_stays_until_the_run_has_passed_it(run):
    flip_a_bit(largest(run, NEWEST, "parameters"), 600)
    with pytest.warns(UserWarning, match="skipped"):
        train(tiny(run, checkpoint_every=7), resume=True)
    assert saved_steps(run) == [7, NEWEST]


def test_a_damaged_optimiser_stops_going_on_but_not_the_network(run):
    expected = load_checkpoint(run)
    flip_a_bit(largest(run, NEWEST, "optimizer"), 600)
    with warnings.catch_warnings(action="error"):
        assert_equal_networks(load_checkpoint(run), expected)
    with pytest.warns(UserWarning, match=f"checkpoints/{NEWEST} is skipped"):
        assert newest_valid_step(run) == BEFORE


@pytest.mark.slow
def test_no_changed_byte_gives_other_values_or_stops_the_run(whole_run, run):
    rng = np.random.default_rng(0)
    expected = load_checkpoint(whole_run[0])
    for file in files_of(run, NEWEST):
        whole = file.read_bytes()
        flip_a_bit(file, int(rng.integers(len(whole))))
        with warnings.catch_warnings(action="ignore"):
            step = newest_valid_step(run)
            assert step in (BEFORE, NEWEST)
            # Orbax leaves files that it does not read; a change there does no harm.
            if step == NEWEST:
                assert_equal_networks(load_checkpoint(run / "checkpoints" / str(NEWEST)), expected)
            RunCheckpoints(run, done=step, keep=2, keep_best=0).__exit__(None, None, None)
        file.write_bytes(whole)


def test_a_step_named_by_itself_is_not_replaced_by_another(run):
    flip_a_bit(largest(run, NEWEST, "parameters"), 600)
    with pytest.raises(CheckpointError, match=f"checkpoints/{NEWEST}: damaged"):
        load_checkpoint(run / "checkpoints" / str(NEWEST))


def test_if_all_are_damaged_the_run_is_not_begun_anew(run):
    for step in (BEFORE, NEWEST):
        flip_a_bit(largest(run, step, "parameters"), 600)
    with warnings.catch_warnings(action="ignore"):
        for attempt in (lambda: train(tiny(run), resume=True), lambda: load_checkpoint(run)):
            with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used"):
                attempt()
    assert saved_steps(run) == [BEFORE, NEWEST]


def test_what_a_killed_process_left_half_written_is_cleared_away(run):
    half = run / "checkpoints" / "7.orbax-checkpoint-tmp"
    shutil.copytree(run / "checkpoints" / str(BEFORE), half)
    assert find_checkpoint(run).name == str(NEWEST)
    train(tiny(run), resume=True)
    assert not half.exists()


def test_the_best_checkpoints_are_kept_besides_the_newest(tmp_path):
    dice = iter([0.3, 0.9, 0.5, 0.4, 0.2])
    run = tmp_path / "run"
    config = tiny(run, checkpoint_every=100, evaluate_every=2, keep_checkpoints=1, keep_best=1)
    train(config, evaluate=lambda model: Evaluation({"a": next(dice)}))
    assert saved_steps(run) == [4, STEPS]
    assert read_quality(run / "checkpoints" / "4") == Quality(0.9)


def test_scores_are_known_again_after_a_restart(tmp_path):
    run = tmp_path / "run"
    settings = {"checkpoint_every": 100, "keep_checkpoints": 1, "keep_best": 1}

    def evaluate(model):
        if len(scores) == 2:
            raise KeyboardInterrupt
        scores.append({"a": 0.9 - 0.1 * len(scores), "b": 0.9})
        return Evaluation(scores[-1])

    scores = []
    with pytest.raises(KeyboardInterrupt):
        train(tiny(run, evaluate_every=2, **settings), evaluate=evaluate)
    low = Evaluation({"a": 0.1})
    train(tiny(run, evaluate_every=2, **settings), resume=True, evaluate=lambda model: low)
    assert saved_steps(run) == [2, STEPS]
    # The evaluation that was interrupted is made up for.
    assert [line["step"] for line in learning(run) if "a" in line] == [2, 4, 6, STEPS]


def test_a_write_that_fails_behind_the_runs_back_ends_it_with_an_error(tmp_path, monkeypatch):
    from wsicl_jax.train import run_checkpoints

    def fail(self, *arguments):
        raise OSError("no room")

    monkeypatch.setattr(run_checkpoints.ocp.CheckpointManager, "_finalize", fail)
    with pytest.raises(CheckpointError, match="checkpoint of step 3 could not be written"):
        train(tiny(tmp_path / "run"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_an_error_and_leaves_what_can_be_gone_on_from(whole_run, small_disk):
    run, filler = small_disk / "run", small_disk / "filler"

    def fill_up(model):
        while not (run / "checkpoints" / "4").is_dir():
            time.sleep(0.01)
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 32_000))
        return Evaluation({"a": 0.5})

    with pytest.raises(CheckpointError, match=r"step 6 could not be written .* make room"):
        train(tiny(run, evaluate_every=4), evaluate=fill_up)
    assert newest_valid_step(run) == 4
    filler.unlink()
    assert_equal_networks(train(tiny(run), resume=True), whole_run[1])


def test_a_read_only_directory_is_an_error_that_names_it(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(WsiclError, match=f"{small_disk}.*Read-only"):
        train(tiny(small_disk / "run"))
