"""Killed or asked to stop at any moment, a run goes on to what it would have become."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import (
    STEPS,
    TRAIN_SLOWLY,
    assert_equal_networks,
    learning,
    saved_steps,
    start,
    tiny,
)

from wsicl_jax.cli import main
from wsicl_jax.errors import CheckpointError, PreemptedError, TrainingError
from wsicl_jax.storage.checkpoints import damage
from wsicl_jax.train import loop
from wsicl_jax.train.evaluation import Evaluation
from wsicl_jax.train.loop import train
from wsicl_jax.train.run_checkpoints import RunCheckpoints, newest_valid_step
from wsicl_jax.weights.network_checkpoint import load_checkpoint


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def is_saved(run: Path, step: int):
    return lambda: (run / "checkpoints" / str(step)).is_dir()


def at_step(monkeypatch, number: int, action) -> None:
    """Call `action` in the main thread just before a step is sent to the devices."""
    make_step = loop.make_step

    def make(*arguments):
        step, made = make_step(*arguments), iter(range(1, 10**6))

        def one(*inputs):
            if next(made) == number:
                action()
            return step(*inputs)

        return one

    monkeypatch.setattr(loop, "make_step", make)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_killed_run_goes_on_to_the_same_network_bit_for_bit(whole_run, tmp_path):
    run = tmp_path / "killed"
    process = start(tiny(run), TRAIN_SLOWLY, "0.5", stderr=subprocess.DEVNULL)
    wait_for(is_saved(run, 3), process)
    process.kill()
    process.wait()
    assert saved_steps(run)[-1] < STEPS
    assert_equal_networks(train(tiny(run), resume=True), whole_run[1])
    assert learning(run) == learning(whole_run[0])


@pytest.mark.slow
def test_a_run_killed_ten_times_logs_the_same_losses_and_ends_in_the_same_network(tmp_path):
    settings = {"steps": 60, "log_every": 1, "checkpoint_every": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = train(tiny(whole, **settings))
    rng = np.random.default_rng(0)
    for number in range(10):
        process = start(tiny(killed, **settings), TRAIN_SLOWLY, "0.1", stderr=subprocess.DEVNULL)
        if number % 3 == 2:
            time.sleep(rng.uniform(0, 4))  # while it starts, reads and verifies
        else:
            lines = length(killed)
            wait_for(lambda lines=lines: length(killed) != lines, process)
            time.sleep(rng.uniform(0, 1))  # while it trains and saves
        assert process.poll() is None
        process.kill()
        process.wait()
    assert start(tiny(killed, **settings), TRAIN_SLOWLY, "0").wait() == 0
    assert_equal_networks(load_checkpoint(killed), expected)
    # The command evaluates at the end; the function did not.
    assert [line for line in learning(killed) if "loss" in line] == learning(whole)


def length(run: Path) -> int:
    log = run / "log.jsonl"
    return log.stat().st_size if log.is_file() else 0


def test_sigterm_ends_the_command_with_code_75_and_the_run_goes_on(whole_run, tmp_path):
    run = tmp_path / "stopped"
    process = start(tiny(run), TRAIN_SLOWLY, "1.0", stderr=subprocess.PIPE)
    wait_for(is_saved(run, 3), process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75
    (line,) = [line for line in told.splitlines() if line.startswith("wsicl train:")]
    stopped = saved_steps(run)[-1]
    assert 3 < stopped < STEPS
    assert f"stopped by SIGTERM at step {stopped} of {STEPS}" in line and "--resume" in line
    assert_equal_networks(train(tiny(run), resume=True), whole_run[1])
    assert learning(run) == learning(whole_run[0])


@pytest.mark.parametrize("when", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_all_stop_one_step_after_the_one_that_told_them(tmp_path, monkeypatch, when):
    # At step 1 the signal comes before the step is compiled.
    at_step(monkeypatch, when, terminate)
    with pytest.raises(PreemptedError, match=f"stopped by SIGTERM at step {when + 2}"):
        train(tiny(tmp_path / "run", checkpoint_every=100))
    assert newest_valid_step(tmp_path / "run") == when + 2


def test_a_run_whose_last_save_fails_is_not_said_to_be_saved(tmp_path, monkeypatch):
    def fail(self):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(RunCheckpoints, "wait", fail)
    at_step(monkeypatch, 2, terminate)
    with pytest.raises(CheckpointError, match="full"):
        train(tiny(tmp_path / "run"))


def test_sigterm_during_an_evaluation_stops_at_a_step_after_it(whole_run, tmp_path):
    run = tmp_path / "run"

    def evaluate(model):
        terminate()
        return Evaluation({"dice": 0.5})

    with pytest.raises(PreemptedError, match="step 5"):
        train(tiny(run, evaluate_every=3), evaluate=evaluate)
    assert newest_valid_step(run) == 5
    assert_equal_networks(train(tiny(run), resume=True), whole_run[1])


def test_a_second_sigterm_ends_the_process_at_once(tmp_path):
    run = tmp_path / "run"
    process = start(tiny(run), TRAIN_SLOWLY, "3", stderr=subprocess.DEVNULL)
    wait_for(lambda: (run / "log.jsonl").is_file(), process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM


def test_handlers_of_signals_are_as_before_after_training(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    at_step(monkeypatch, 1, terminate)
    with pytest.raises(PreemptedError):
        train(tiny(tmp_path / "run"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_training_outside_of_the_main_thread_leaves_signals_alone(whole_run, tmp_path):
    trained = []
    thread = threading.Thread(target=lambda: trained.append(train(tiny(tmp_path / "run"))))
    thread.start()
    thread.join()
    assert_equal_networks(trained[0], whole_run[1])


@pytest.mark.slow
def test_too_many_skipped_updates_in_a_row_end_the_command_with_code_2(tmp_path, capsys):
    run = tmp_path / "run"
    config = tiny(run, learning_rate=1e18, checkpoint_every=1, clip_norm=0.0, max_skipped=2)
    start(config, "").wait()
    assert main(["train", str(run.with_suffix(".yaml"))]) == 2
    told = capsys.readouterr().err
    assert "3 steps in a row" in told
    assert "set train.clip_norm=1" in told  # there is none to be lowered
    assert max(line["skipped"] for line in learning(run)) >= 2
    assert newest_valid_step(run) > 0


@pytest.mark.slow
def test_as_many_skipped_updates_as_allowed_do_not_end_the_run(tmp_path):
    settings = {"learning_rate": 1e18, "clip_norm": 0.0}
    with pytest.raises(TrainingError):
        train(tiny(tmp_path / "a", max_skipped=5, **settings))
    train(tiny(tmp_path / "b", max_skipped=6, **settings))
    assert learning(tmp_path / "b")[-1]["skipped"] == 6


_TWO = """
import os, signal, sys, time
import jax
from pathlib import Path
from wsicl_jax import cli
from wsicl_jax.train import loop
index, port, when, folder = int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
make_step = loop.make_step
def make(*arguments):
    step, made = make_step(*arguments), iter(range(1, 1000))
    def one(*inputs):
        if next(made) == when and index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*inputs)
    return one
loop.make_step = make
from wsicl_jax.config import load_config
from wsicl_jax.errors import PreemptedError
try:
    loop.train(load_config(sys.argv[1]), resume=True)
except PreemptedError as error:
    Path(folder, str(index)).write_text(str(error))
    sys.exit(75)
"""


def two_processes(config, when: int, folder: Path) -> list[int]:
    """Train by two processes, of which the second gets SIGTERM before a step; exit codes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    processes = [
        start(config, _TWO, str(index), str(port), str(when), str(folder)) for index in (0, 1)
    ]
    try:
        return [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def whole_run_of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert two_processes(tiny(folder / "run", log_every=1), 0, folder) == [0, 0]
    return folder / "run"


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step_and_go_on_bit_for_bit(whole_run_of_two, tmp_path):
    run = tmp_path / "run"
    config = tiny(run, log_every=1)
    assert two_processes(config, 3, tmp_path) == [75, 75]
    told = [(tmp_path / str(index)).read_text() for index in (0, 1)]
    assert told[0] == told[1] and "stopped by SIGTERM at step 5" in told[0]
    assert saved_steps(run)[-1] == 5
    assert two_processes(config, 0, tmp_path) == [0, 0]
    assert learning(run) == learning(whole_run_of_two)


@pytest.mark.slow
def test_two_processes_pass_by_a_damaged_checkpoint_together(whole_run_of_two, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run_of_two, run)
    for file in (run / "checkpoints" / str(STEPS) / "optimizer" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:-40])
    assert two_processes(tiny(run, log_every=1), 0, tmp_path) == [0, 0]
    assert learning(run) == learning(whole_run_of_two)
    assert damage(run / "checkpoints" / str(STEPS)) is None


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(whole_run_of_two, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run_of_two, run)
    shutil.rmtree(run / "checkpoints" / str(STEPS))
    train(tiny(run, log_every=1), resume=True)
    for one, two in zip(learning(run), learning(whole_run_of_two), strict=True):
        assert one == pytest.approx(two, rel=1e-5)
