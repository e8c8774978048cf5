"""Training when its data fail, a process that makes its episodes is killed, or the directory or
the settings are not its own."""

import itertools
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from test_interruptions import is_saved, wait_for
from tiny_runs import STEPS, assert_equal_networks, learning, saved_steps, start, tiny

from wsicl_jax.cli import main
from wsicl_jax.data.episodes.sampling import EpisodeSource
from wsicl_jax.distributed import broadcast as agreement
from wsicl_jax.errors import ConfigError, DataError, LockedError
from wsicl_jax.train.loop import train
from wsicl_jax.train.run_directory import shared_settings


def fail_from(monkeypatch, index: int, error: Exception) -> None:
    """Let an episode and all after it fail."""
    make = EpisodeSource.__getitem__

    def fail(self, asked):
        if asked >= index:
            raise error
        return make(self, asked)

    monkeypatch.setattr(EpisodeSource, "__getitem__", fail)


@pytest.mark.parametrize(
    "error",
    [
        DataError("the store is gone"),
        pytest.param(ValueError("a defect"), marks=pytest.mark.slow),
    ],
)
def test_a_failure_of_the_data_saves_the_steps_made_first(whole_run, tmp_path, monkeypatch, error):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        fail_from(patch, 2 * 5, error)
        with pytest.raises(type(error), match=str(error)) as told:
            train(tiny(run))
    said = "".join([str(told.value), *getattr(told.value, "__notes__", [])])
    assert f"step 5 of {STEPS} is saved" in said
    assert saved_steps(run)[-1] == 5
    assert_equal_networks(train(tiny(run), resume=True), whole_run[1])
    assert learning(run) == learning(whole_run[0])


def test_a_failure_right_after_a_checkpoint_or_at_the_start_saves_nothing_twice(
    tmp_path, monkeypatch
):
    for failing, saved in ((2 * 3, [3]), (0, [])):
        run = tmp_path / str(failing)
        with monkeypatch.context() as patch:
            fail_from(patch, failing, DataError("gone"))
            with pytest.raises(DataError, match="gone") as told:
                train(tiny(run))
        assert ("is saved" in str(told.value)) == bool(saved)
        assert saved == (saved_steps(run) if (run / "checkpoints").exists() else [])


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


_TRAIN = """
import sys
from wsicl_jax.cli import main
sys.argv[:] = ["wsicl", "train", sys.argv[1]]
sys.exit(main())
"""


@pytest.mark.slow
def test_a_killed_loader_worker_is_told_in_a_line_and_the_run_is_saved(tmp_path):
    run = tmp_path / "run"
    config = tiny(run, steps=10**6, checkpoint_every=20, workers=1)
    process = start(config, _TRAIN, stderr=subprocess.PIPE)
    wait_for(lambda: list(run.glob("checkpoints/[0-9]*")), process, seconds=240)
    (worker,) = workers_of(process)
    worker.kill()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 75, told
    (line,) = (line for line in told.splitlines() if not line.startswith("training:"))
    assert re.search(f"process {worker.pid}, .* killed by SIGKILL, most likely for want", line)
    assert f"up to step {saved_steps(run)[-1]} of" in line and "--resume" in line


@pytest.mark.slow
def test_two_trainings_in_one_directory_are_refused_while_the_first_lives(whole_run, tmp_path):
    run = tmp_path / "run"
    process = start(tiny(run), TRAIN_SLOWLY, "1", stderr=subprocess.DEVNULL)
    wait_for(is_saved(run, 3), process)
    process.send_signal(signal.SIGSTOP)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    for resume in (False, True):
        with pytest.raises(LockedError, match=f"in use by another process, number {process.pid} "):
            train(tiny(run, steps=4), resume=resume)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    process.kill()
    process.wait()
    assert_equal_networks(train(tiny(run), resume=True), whole_run[1])


@pytest.mark.parametrize("run", ["''", ".", "./"])
def test_a_run_in_the_working_directory_itself_is_refused(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["train", str(Path(__file__).parents[2] / "configs/synthetic.yaml"), f"run={run}"])
        == 2
    )
    assert (
        "is the working directory; give the run a directory of its own" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


# What the processes of a run compare.


def test_processes_with_different_settings_are_told_which(monkeypatch):
    a, b, c = (
        shared_settings(tiny(Path("run"), learning_rate=rate, workers=workers))
        for rate, workers in ((1e-3, 0), (5e-2, 0), (1e-3, 2))
    )
    told = {agreement.digest_of(s): s for s in (a, b)}
    for processes in ([a, b, c], [a, c], [a]):
        answers = itertools.cycle([[agreement.digest_of(s) for s in processes], processes])
        monkeypatch.setattr(agreement, "_from_all", lambda _, answers=answers: next(answers))
        if b not in processes:
            agreement.agree(a)  # workers may differ
            continue
        expected = r"train.learning_rate is 0.001 in processes 0, 2, 0.05 in process 1; start all"
        with pytest.raises(ConfigError, match=expected):
            agreement.agree(a)
    assert len(told) == 2


def test_every_setting_but_those_of_place_and_speed_is_compared():
    names = set(shared_settings(tiny(Path("run"))))
    assert {"seed", "run", "train.learning_rate", "augment.gin", "volume.grid"} <= names
    assert {"the version of wsicl_jax", "data.0.weight"} <= names
    assert not names & {"data.0.store", "train.initial_weights", "train.workers", "volume.cache_gb"}
