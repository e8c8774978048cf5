"""`wsicl ablate --launcher slurm` under a real Slurm, which the tests start for themselves."""

# ruff: noqa: F401, F811 (fixtures of the other files)
import sys
import time
from pathlib import Path

import pytest
from launch.test_launch_slurm import losses, slurm
from test_ablation import STAND_IN, rows, starts, sweep, wait_for

from wsicl_jax.cli import main
from wsicl_jax.tools.ablate import jobs
from wsicl_jax.tools.ablate.jobs import CellFiles, read_attempts

# Now: it sets up logging, at which absl would close what pytest captures in a test.
pytest.importorskip("submitit")
pytestmark = pytest.mark.slow

AS_STAND_IN = """
import os, sys
if os.environ.get("SUBMITIT_EXECUTOR"):
    from wsicl_jax.tools.ablate import jobs
    jobs.WSICL = (sys.executable, "-I", "-S", {script!r})
"""


@pytest.fixture
def cluster(slurm, monkeypatch):
    """This process asks the tests' own Slurm."""
    for name in ("PATH", "SLURM_CONF", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, slurm.environment[name])
    yield slurm
    slurm.run("scancel", "--quiet", "--name=out")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """`wsicl train` is the stand-in, in jobs too."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    (tmp_path / "sitecustomize.py").write_text(AS_STAND_IN.format(script=str(script)))
    monkeypatch.setattr(jobs, "WSICL", (sys.executable, "-I", "-S", str(script)))
    home = Path(jobs.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{home}")


def ablate(file: str, *more: str) -> int:
    return main(["ablate", file, "slurm.time_min=5", "--launcher", "slurm", *more])


def job_of(name: str) -> str:
    return CellFiles(Path("out"), name).slurm_job.read_text()


def codes(name: str) -> list[int | None]:
    return [attempt.code for attempt in read_attempts(CellFiles(Path("out"), name))]


def in_queue(cluster) -> bool:
    return bool(cluster.run("squeue", "--noheader"))


def wait_for_all(cluster, seconds: float = 60) -> None:
    try:
        cluster.wait_until(lambda: not in_queue(cluster), seconds)
    except TimeoutError:
        logs = [file.read_text() for file in Path("out/jobs").rglob("*log*")]
        pytest.fail(cluster.run("squeue") + "\n".join(logs))


def test_cells_are_an_array_and_only_what_is_missing_is_handed_over(
    cluster,
    stand_in,
    sweep,
    capsys,
):
    file = sweep(grid={"train.batch": [1, 2, 9]})
    assert ablate(file) == 0
    numbers = [job_of(f"batch={batch}") for batch in (1, 2, 9)]
    assert [number.partition("_")[2] for number in numbers] == ["0", "1", "2"]
    wait_for(Path("out/batch=9/waits"))
    cluster.wait_until(lambda: cluster.job(numbers[0]).get("JobState") == "COMPLETED", 30)
    cluster.wait_until(lambda: cluster.job(numbers[1]).get("JobState") == "FAILED", 30)
    assert [codes(f"batch={batch}") for batch in (1, 2, 9)] == [[0], [2], [None]]
    capsys.readouterr()
    assert main(["ablate", file]) == 1  # the local launcher knows of Slurm's jobs, too
    told = capsys.readouterr().out
    assert f"running: Slurm job {numbers[2]}" in told
    assert (starts("batch=1"), starts("batch=2"), starts("batch=9")) == (1, 2, 1)


def test_ahead_of_the_time_limit_a_cell_saves_is_queued_again_and_goes_on(
    cluster,
    stand_in,
    sweep,
):
    file = sweep(grid={"train.batch": [9]})
    assert ablate(file) == 0
    wait_for(Path("out/batch=9/waits"))
    cluster.run("scancel", "--signal=USR2", job_of("batch=9"))
    wait_for_all(cluster)
    assert codes("batch=9") == [75, 0]
    assert ablate(file) == 0
    assert rows()["batch=9"]["state"] == "finished" and starts("batch=9") == 2


@pytest.mark.parametrize("signals", [["TERM"], ["TERM", "USR2"]])
def test_a_preempted_cell_saves_is_queued_again_and_goes_on(
    cluster,
    stand_in,
    sweep,
    signals,
):
    file = sweep(grid={"train.batch": [3, 9]})
    assert ablate(file) == 0
    wait_for(Path("out/batch=9/waits"))
    for name in signals:
        cluster.run("scancel", f"--signal={name}", job_of("batch=9"))
    wait_for_all(cluster)
    assert codes("batch=9") == [75, 0]
    assert Path("out/batch=9/checkpoints/1").is_dir()


def test_a_cancelled_cell_saves_and_waits_for_the_next_call(cluster, stand_in, sweep):
    file = sweep(grid={"train.batch": [9]})
    assert ablate(file) == 0
    wait_for(Path("out/batch=9/waits"))
    cluster.run("scancel", job_of("batch=9"))
    wait_for_all(cluster)
    time.sleep(2)
    assert not in_queue(cluster)
    assert codes("batch=9") == [75] and starts("batch=9") == 1
    assert ablate(file) == 0
    wait_for_all(cluster)
    assert codes("batch=9") == [75, 0]


def test_the_tasks_of_a_job_train_one_cell_together(cluster, stand_in, sweep):
    file = sweep(grid={"train.batch": [9]}, slurm={"tasks_per_node": 2})
    assert ablate(file) == 0
    cluster.wait_until(lambda: starts("batch=9") == 2, 30)
    time.sleep(0.5)
    cluster.run("scancel", "--signal=USR2", job_of("batch=9"))
    wait_for_all(cluster)
    # The stand-ins do not wait for each other: the first may find all done by the second.
    assert codes("batch=9")[0] == 75 and starts("batch=9") > 2
    assert Path("out/jobs/batch=9@1.log").is_file()
    assert ablate(file) == 0
    assert rows()["batch=9"]["state"] == "finished"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"slurm.partition": "nowhere"}, "Slurm took no job: sbatch: error: "),
        ({"slurm.partitoin": "test"}, "slurm.partitoin is unknown to submitit; nearest is 'part"),
        ({"slurm.setup": "module load"}, "slurm.setup = 'module load' does not fit"),
        ({"slurm.time_min": "soon"}, "slurm.time_min is soon; expected the minutes"),
        ({"slurm.cpus_per_task": "many"}, "slurm.cpus_per_task = 'many' does not fit"),
    ],
)
def test_what_slurm_would_not_take_is_told(cluster, sweep, capfd, settings, told):
    file = sweep(grid={"train.batch": [1, 3]})
    assert ablate(file, *(f"{key}={value}" for key, value in settings.items())) == 2
    assert told in capfd.readouterr().err
    assert not in_queue(cluster)


def test_without_slurm_here_it_is_told(sweep, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert ablate(sweep(grid={"train.batch": [1]})) == 2
    assert "no Slurm here" in capsys.readouterr().err
    Path("out/jobs").mkdir(parents=True)
    Path("out/jobs/batch=1.job").write_text("12_3")
    assert main(["ablate", "sweep.yaml"]) == 2
    assert "batch=1 was submitted to Slurm, but its queue cannot be read" in capsys.readouterr().err


def test_training_goes_on_over_the_time_limit_to_its_end(cluster, sweep):
    base = {
        "volume": {"grid": [16, 16, 16]},
        "episode": {"contexts": [1, 1]},
        "train": {"steps": 300, "batch": 2, "log_every": 1, "warmup_steps": 1},
        "evaluation": {"contexts": 1, "synthetic_structures": 2, "synthetic_targets": 1},
    }
    file = sweep(base, seeds=[0])
    assert ablate(file) == 0
    log = Path("out/seed=0/log.jsonl")
    cluster.wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 5, 120)
    cluster.run("scancel", "--signal=USR2", job_of("seed=0"))
    wait_for_all(cluster, 240)
    assert codes("seed=0") == [75, 0]
    assert list(losses(Path("out/seed=0"))) == list(range(1, 301))
    assert ablate(file) == 0
    assert rows()["seed=0"]["state"] == "finished"
