"""`wsicl ablate` on this machine, with a stand-in for `wsicl train` and with the real one."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from wsicl_jax.cli import main
from wsicl_jax.config import AUGMENTATIONS, config_to_dict, load_ablation
from wsicl_jax.errors import LockedError
from wsicl_jax.storage.lock import locked
from wsicl_jax.tools.ablate import jobs
from wsicl_jax.tools.ablate.cells import cells_of
from wsicl_jax.tools.ablate.jobs import CellFiles, Training, read_attempts
from wsicl_jax.tools.ablate.local import _places

STAND_IN = """
import json, os, re, shutil, signal, sys, time
from pathlib import Path
assert sys.argv[1] == "train" and sys.argv[3:] == ["--resume"], sys.argv
text = Path(sys.argv[2]).read_text()  # without PyYAML, which takes longer than all the rest
run = Path(re.search("^run: (.*)$", text, re.M)[1])
batch, steps, seed, targets = (
    int(re.search(f"^ *{key}: (.*)$", text, re.M)[1])
    for key in ("batch", "steps", "seed", "targets")
)
run.mkdir(parents=True, exist_ok=True)
shutil.copy(sys.argv[2], run / "config.yaml")
with (run / "starts").open("a") as starts:
    starts.write(os.environ.get("CUDA_VISIBLE_DEVICES", "-") + "\\n")
def save(step):
    (run / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(0.3)
    save(1)
    print("wsicl train: stopped and saved", flush=True)
    sys.exit(75)
if batch == 2:
    print("wsicl train: no store at nowhere", file=sys.stderr)
    sys.exit(2)
if batch == 9 and not (run / "checkpoints").exists():
    signal.signal(signal.SIGTERM, stop)
    (run / "waits").touch()
    time.sleep(60)
save(steps)
dice = {"toy/whole/box": 0.5 + batch / 100 + seed / 10, "toy/whole/point": 0.25}
if targets != 99:
    (run / "evaluation.json").write_text(json.dumps({"mean_dice": dice}))
"""
"""Trains in no time; with a batch of 2 it fails, with 9 it waits for SIGTERM the first time."""

BASE = {"data": "synthetic", "volume": {"grid": [8, 8, 8]}, "model": {"channels": [2, 4]}}
WAITS = {"train.batch": [9]}


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Path:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(jobs, "WSICL", (sys.executable, "-I", "-S", str(script)))
    return script


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Write an ablation; returns its file's name. The working directory is its own."""
    monkeypatch.chdir(tmp_path)

    def write(base: dict | None = None, **settings) -> str:
        Path("base.yaml").write_text(yaml.safe_dump({**BASE, **(base or {})}))
        content = {"base": "base.yaml", "output": "out", **settings}
        Path("sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return "sweep.yaml"

    return write


def starts(name: str) -> int:
    file = Path("out", name, "starts")
    return len(file.read_text().splitlines()) if file.exists() else 0


def rows() -> dict[str, dict[str, str]]:
    with Path("out/ablation.csv").open() as file:
        return {row["cell"]: row for row in csv.DictReader(file)}


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_repeated_call_trains_only_what_is_missing(stand_in, sweep, capsys):
    file = sweep(grid={"train.batch": [1, 3]}, seeds=[0, 1])
    assert main(["ablate", file, "seeds=[0]"]) == 0
    assert main(["ablate", file, "--jobs", "2"]) == 0
    told = capsys.readouterr()
    assert {name: starts(name) for name in rows()} == {
        "batch=1,seed=0": 1,
        "batch=1,seed=1": 1,
        "batch=3,seed=0": 1,
        "batch=3,seed=1": 1,
    }
    assert "[2/2] batch=3,seed=1: finished in 0:00:0" in told.err
    # Mean and standard deviation over the seeds, 0.51 and 0.61.
    assert "0.560" in told.out and "(0.071)" in told.out
    assert rows()["batch=3,seed=1"] | {"seconds": ""} == {
        "cell": "batch=3,seed=1",
        "state": "finished",
        "step": "2000",
        "seconds": "",
        "train.batch": "3",
        "seed": "1",
        "mean_dice": "0.44",
        "toy/whole/box": "0.63",
        "toy/whole/point": "0.25",
    }


def test_a_cell_that_fails_is_told_with_its_last_line_and_does_not_end_the_others(
    stand_in, sweep, capsys
):
    file = sweep(grid={"train.batch": [1, 2, 3]})
    assert main(["ablate", file]) == 1
    told = capsys.readouterr()
    assert "code 2: wsicl train: no store at nowhere" in told.err
    assert "out/jobs/batch=2.log" in told.err
    assert [row["state"] for row in rows().values()] == ["finished", "failed", "finished"]
    assert "code 2: wsicl train: no store at nowhere" in " ".join(told.out.split())
    assert main(["ablate", file]) == 1
    assert [starts(f"batch={batch}") for batch in (1, 2, 3)] == [1, 2, 1]


def test_a_dry_run_tells_the_cells_and_writes_nothing(stand_in, sweep, capsys):
    file = sweep(grid={"train.batch": [1, 3]})
    assert main(["ablate", file, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "batch=3" in told and "train.batch=3" in told and "new" in told
    assert not Path("out").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_lets_the_trainings_save_and_a_repeated_call_goes_on(
    stand_in, sweep, capfd, sent, code
):
    def interrupt():
        for seed in (0, 1):
            wait_for(Path("out", f"batch=9,seed={seed}", "waits"))
        os.kill(os.getpid(), sent)

    file = sweep(grid={"train.batch": [9, 3]}, seeds=[0, 1])
    threading.Thread(target=interrupt).start()
    # Workers of parallel tests ignore Ctrl-C, and so would this one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["ablate", file, "--jobs", "2"]) == code
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err.count("stopped on request") == 2
    assert starts("batch=3,seed=0") == 0
    assert [a.code for a in read_attempts(CellFiles(Path("out"), "batch=9,seed=0"))] == [75]
    assert main(["ablate", file]) == 0
    assert starts("batch=9,seed=0") == 2 and starts("batch=3,seed=0") == 1


def test_a_cell_in_training_is_not_started_twice(stand_in, sweep, capsys):
    file = sweep(grid=WAITS)
    launch = (
        "import sys; from wsicl_jax.tools.ablate import jobs; from wsicl_jax.cli import main\n"
        f"jobs.WSICL = {jobs.WSICL!r}\nsys.exit(main(['ablate', {file!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", launch], stderr=subprocess.DEVNULL)
    wait_for(Path("out/batch=9/waits"))
    assert main(["ablate", file]) == 1
    assert "running" in capsys.readouterr().out
    with pytest.raises(LockedError, match="cell batch=9 is in use by another process"):
        Training(CellFiles(Path("out"), "batch=9"))
    process.kill()
    process.wait()
    # Now only the training goes on, which holds its run; the stand-in does not.
    with locked(Path("out/batch=9/.lock"), "the run"):
        assert main(["ablate", file]) == 1
        assert "running" in capsys.readouterr().out
        with pytest.raises(LockedError, match="cell batch=9 is in training"):
            Training(CellFiles(Path("out"), "batch=9"))
    assert starts("batch=9") == 1
    os.kill(read_attempts(CellFiles(Path("out"), "batch=9"))[-1].pid, signal.SIGTERM)


def test_a_training_that_was_lost_is_told_and_goes_on(stand_in, sweep, capsys):
    file = sweep(grid=WAITS)
    assert main(["ablate", file, "--dry-run"]) == 0
    Path("out/jobs").mkdir(parents=True)
    attempt = {"started": "2026-01-01T00:00:00", "host": "node7", "code": None}
    Path("out/jobs/batch=9.json").write_text(json.dumps([attempt]))
    Path("out/batch=9/checkpoints/5").mkdir(parents=True)
    Path("out/batch=9/config.yaml").write_text(_resolved(file))
    capsys.readouterr()
    main(["ablate", file, "--dry-run"])
    told = " ".join(capsys.readouterr().out.split())
    assert "failed, 5 of 2000 steps: was lost on node7" in told
    assert main(["ablate", file]) == 0


def _resolved(file: str) -> str:
    [cell] = cells_of(load_ablation(file))
    return yaml.safe_dump(config_to_dict(cell.config))


def test_a_cell_whose_settings_have_changed_is_refused_by_name(stand_in, sweep, capsys):
    grid = {"train.batch": [1, 3]}
    assert main(["ablate", sweep(grid=grid)]) == 0
    assert main(["ablate", sweep(grid=grid), "train.loss=l1", "train.log_every=7"]) == 2
    told = capsys.readouterr().err
    assert "out/batch=1: at step 2000 with another train.loss\n" in told
    assert "out/batch=3: at step 2000 with another train.loss\n" in told
    assert [starts("batch=1"), starts("batch=3")] == [1, 1]
    # What may change does not.
    assert main(["ablate", sweep(grid=grid), "train.log_every=7"]) == 0
    assert [starts("batch=1"), starts("batch=3")] == [1, 1]


def test_another_evaluation_is_made_up_for(stand_in, sweep):
    file = sweep(grid={"train.batch": [1, 3]})
    assert main(["ablate", file]) == 0
    assert main(["ablate", file, "evaluation.targets=5"]) == 0
    assert main(["ablate", file, "evaluation.targets=5"]) == 0
    assert [starts("batch=1"), starts("batch=3")] == [2, 2]


def test_an_evaluation_that_was_cut_off_does_not_count(stand_in, sweep):
    file = sweep(grid={"train.batch": [1]})
    assert main(["ablate", file]) == 0
    files = CellFiles(Path("out"), "batch=1")
    attempts = json.loads(files.attempts.read_text())
    files.attempts.write_text(json.dumps([*attempts, attempts[0] | {"code": None}]))
    assert main(["ablate", file]) == 0
    assert starts("batch=1") == 1  # scores are newer than the last start: it came to its end
    os.utime("out/batch=1/evaluation.json", (1, 1))
    files.attempts.write_text(json.dumps([*attempts, attempts[0] | {"code": None}]))
    assert main(["ablate", file]) == 0
    assert starts("batch=1") == 2


def test_a_cell_without_anything_to_evaluate_is_finished_all_the_same(stand_in, sweep):
    file = sweep(grid={"train.batch": [1]}, overrides={"evaluation.targets": 99})
    assert main(["ablate", file]) == 0
    assert main(["ablate", file]) == 0
    assert starts("batch=1") == 1
    assert rows()["batch=1"]["mean_dice"] == ""


def test_cells_at_a_time_get_gpus_of_their_own(stand_in, sweep, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert main(["ablate", sweep(grid={"train.batch": [1, 3]}), "--jobs", "2"]) == 0
    seen = [Path("out", f"batch={batch}", "starts").read_text().strip() for batch in (1, 3)]
    assert sorted(seen) == ["3", "5"]


def test_gpus_are_shared_out_and_their_memory_only_if_they_must_be():
    def devices(jobs, visible, **more):
        return _places(jobs, {"CUDA_VISIBLE_DEVICES": visible, **more})

    assert devices(1, "0,1") == [{}]
    assert devices(2, "") == [{}, {}]
    assert devices(2, "0,1,2,3") == [
        {"CUDA_VISIBLE_DEVICES": "0,2"},
        {"CUDA_VISIBLE_DEVICES": "1,3"},
    ]
    assert devices(3, "0,1") == [
        {"CUDA_VISIBLE_DEVICES": gpu, "XLA_CLIENT_MEM_FRACTION": "0.450"} for gpu in "010"
    ]
    kept = devices(2, "0", XLA_PYTHON_CLIENT_MEM_FRACTION="0.3")
    assert kept == [{"CUDA_VISIBLE_DEVICES": "0"}] * 2


def test_what_a_hurried_user_gets_wrong_is_told_in_a_line_or_two(sweep, capsys, monkeypatch):
    def told(*arguments: str, **settings) -> str:
        assert main(["ablate", sweep(**settings), *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("wsicl ablate: ") and len(said.splitlines()) <= 2
        return said

    grid = {"train.batch": [1, 3]}
    assert "nearest is 'train.batch'" in told(grid={"train.bach": [1, 3]})
    assert "nothing to vary" in told(grid={})
    assert "grid.train.batch = []" in told(grid={"train.batch": []})
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "pip install 'wsicl_jax[sweep]'" in told("--launcher", "slurm", grid=grid)
    assert "--jobs is for" in told("--launcher", "slurm", "--jobs", "2", grid=grid)
    Path("out").write_text("")
    assert "output out is a file" in told(grid=grid)
    sweep(grid=grid)
    Path("base.yaml").unlink()
    assert main(["ablate", "sweep.yaml", "output=other"]) == 2
    assert "no configuration at base.yaml" in capsys.readouterr().err
    assert main(["ablate", "missing.yaml"]) == 2
    assert "no configuration at missing.yaml" in capsys.readouterr().err


def test_a_store_that_is_not_there_is_told_before_anything_starts(stand_in, sweep, capsys):
    file = sweep(grid={"train.batch": [1, 3]}, overrides={"data": "stores/nowhere"})
    assert main(["ablate", file]) == 2
    assert "stores/nowhere" in capsys.readouterr().err
    assert not Path("out").exists()


TINY = {
    "model": {"channels": [2, 2]},
    "episode": {"contexts": [1, 1]},
    "augment": dict.fromkeys(AUGMENTATIONS, 0.0),
    "train": {"steps": 2, "batch": 1, "log_every": 1},
    "evaluation": {"contexts": 1, "synthetic_structures": 1, "synthetic_targets": 1},
}


def steps(name: str) -> list[int]:
    lines = Path("out", name, "log.jsonl").read_text().splitlines()
    return [entry["step"] for entry in map(json.loads, lines) if "loss" in entry]


def test_real_cells_are_trained_once(sweep, monkeypatch):
    # Saves a third of the compilation.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    file = sweep(TINY, seeds=[0, 1])
    for _ in range(2):
        assert main(["ablate", file]) == 0
    for name, row in rows().items():
        assert row["state"] == "finished"
        assert len(read_attempts(CellFiles(Path("out"), name))) == 1
        assert steps(name) == [1, 2]
        scores = json.loads(Path("out", name, "evaluation.json").read_text())["mean_dice"]
        assert {key: float(row[key]) for key in scores} == scores
    assert list(rows()) == ["seed=0", "seed=1"]


@pytest.mark.slow
def test_a_real_cell_that_was_killed_goes_on_from_where_it_was(sweep):
    settings = {"train.steps": 60, "train.checkpoint_every": 5}
    file = sweep(TINY, seeds=[0, 1], overrides=settings)

    def kill():
        wait_for(Path("out/seed=0/checkpoints/5"))
        os.kill(read_attempts(CellFiles(Path("out"), "seed=0"))[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert main(["ablate", file]) == 1
    killer.join()
    assert [row["state"] for row in rows().values()] == ["failed", "finished"]
    assert main(["ablate", file]) == 0
    for name, codes in {"seed=0": [-9, 0], "seed=1": [0]}.items():
        assert [a.code for a in read_attempts(CellFiles(Path("out"), name))] == codes
        assert steps(name) == list(range(1, 61))
