"""How processes find each other, and what becomes of the others when one is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
import yaml

from wsicl_jax.distributed import processes as cluster
from wsicl_jax.distributed.processes import (
    HEARTBEAT_SECONDS,
    PEER_LOST,
    find_cluster,
    join_processes,
)
from wsicl_jax.errors import CheckpointError, ConfigError

WSICL = str(Path(sys.executable).parent / "wsicl")

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
JOBSET = {
    "JOBSET_NAME": "wsicl",
    "JOBSET_REPLICATED_JOB": "host",
    "JOBSET_REPLICAS": "3",
    "JOBSET_JOB_INDEX": "2",
    "JOBSET_PODS_PER_JOB": "4",
    "JOB_COMPLETION_INDEX": "1",
}


@pytest.fixture
def joining(monkeypatch) -> Iterator[dict[str, Any]]:
    """What `jax.distributed.initialize` is called with, instead of calling it."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "JOBSET_", "JOB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    called: dict[str, Any] = {}
    monkeypatch.setattr(jax.distributed, "initialize", called.update)
    options = ("jax_enable_preemption_service", "jax_cuda_visible_devices")
    options += ("jax_rocm_visible_devices", "jax_platforms")
    before = {name: jax.config.values[name] for name in options}
    yield called
    for name, value in before.items():
        jax.config.update(name, value)


def set_all(monkeypatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_without_options_and_outside_a_cluster_a_process_stays_alone(joining):
    join_processes()
    assert joining == {}


def test_the_options_name_the_coordinator_and_this_process(joining):
    join_processes("node3:1234", 4, 3)
    assert joining["coordinator_address"] == "node3:1234"
    assert (joining["num_processes"], joining["process_id"]) == (4, 3)
    assert joining["heartbeat_timeout_seconds"] == HEARTBEAT_SECONDS


def test_the_options_come_before_what_the_environment_says(joining, monkeypatch):
    set_all(monkeypatch, SLURM | JOBSET)
    join_processes("node3:1234", 4, 3)
    assert joining["coordinator_address"] == "node3:1234"
    assert joining["cluster_detection_method"] == "deactivate"


def test_the_tasks_of_a_slurm_step_join_by_what_jax_reads_from_slurm(joining, monkeypatch):
    set_all(monkeypatch, SLURM)
    join_processes()
    assert joining["cluster_detection_method"] == "slurm"
    assert "coordinator_address" not in joining


@pytest.mark.parametrize(
    "environment", [{"SLURM_JOB_ID": "7"}, SLURM | {"SLURM_STEP_NUM_TASKS": "1"}]
)
def test_a_slurm_job_without_several_tasks_stays_alone(environment):
    assert find_cluster(environment=environment) is None


def test_under_slurm_a_task_takes_the_gpu_of_its_number_on_the_node(joining, monkeypatch):
    set_all(monkeypatch, SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"})
    jax.config.update("jax_cuda_visible_devices", "1")  # as JAX does when it joins
    join_processes()
    assert jax.config.values["jax_cuda_visible_devices"] == "1"


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"SLURM_STEP_NUM_TASKS": "2"}, id="one task per node"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "0"}, id="one GPU bound to the task"),
    ],
)
def test_under_slurm_a_task_takes_all_gpus_that_are_its_own(joining, monkeypatch, environment):
    set_all(monkeypatch, SLURM | environment)
    jax.config.update("jax_cuda_visible_devices", "1")
    join_processes()
    assert jax.config.values["jax_cuda_visible_devices"] == "all"


def test_the_pods_of_a_jobset_are_numbered_job_by_job_and_meet_at_the_first(joining, monkeypatch):
    set_all(monkeypatch, JOBSET)
    join_processes()
    assert joining["coordinator_address"] == "wsicl-host-0-0.wsicl:8476"
    assert (joining["num_processes"], joining["process_id"]) == (12, 9)


def test_a_tpu_pod_is_left_to_jax_even_in_a_jobset(joining, monkeypatch):
    jax.config.update("jax_platforms", "tpu,cpu")  # as JAX does on a TPU VM
    set_all(monkeypatch, JOBSET)
    join_processes()
    assert not {"coordinator_address", "cluster_detection_method"} & set(joining)


def test_a_tpu_vm_that_is_in_no_pod_stays_alone(joining, monkeypatch):
    def initialize(**_: object) -> None:
        raise ValueError("coordinator_address should be defined.")

    jax.config.update("jax_platforms", "tpu,cpu")
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    join_processes()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("node3:1234", None, None), "add --num-processes, --process-id"),
        ((None, 2, 0), "add --coordinator"),
        (("node3:1234", 2, 2), "no process 2 of 2; expected 0 to 1"),
        (("node3:1234", 2, -1), "no process -1 of 2"),
        (("node3:1234", 0, 0), "0 processes"),
        (("node3", 2, 0), "'node3'; expected HOST:PORT"),
        (("node3:port", 2, 0), "'node3:port'; expected HOST:PORT"),
        (("node3:70000", 2, 0), "expected HOST:PORT"),
    ],
)
def test_options_that_do_not_fit_are_told(options, word):
    with pytest.raises(ConfigError, match=word):
        find_cluster(*options, environment={})


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        (
            SLURM | {"SLURM_STEP_NUM_TASKS": "many"},
            "SLURM_STEP_NUM_TASKS is 'many'; expected an int",
        ),
        ({"JOBSET_NAME": "wsicl"}, "JOBSET_REPLICATED_JOB"),
        (JOBSET | {"JOBSET_JOB_INDEX": ""}, "JOBSET_JOB_INDEX is ''"),
        (JOBSET | {"JOB_COMPLETION_INDEX": "4"}, "JOBSET_PODS_PER_JOB is 4"),
        (JOBSET | {"JOBSET_JOB_INDEX": "3"}, "no process 13 of 12"),
    ],
)
def test_an_environment_that_does_not_fit_is_told(environment, word):
    with pytest.raises(ConfigError, match=word):
        find_cluster(environment=environment)


def test_what_jax_says_when_joining_fails_becomes_a_configuration_error(joining, monkeypatch):
    def initialize(**_: object) -> None:
        raise RuntimeError("UNKNOWN: Failed to start RPC server")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ConfigError, match="by the options: UNKNOWN: Failed to start RPC server"):
        join_processes("node3:1234", 2, 0)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(program: str, index: int, port: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, f"127.0.0.1:{port}", str(index)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


JOIN = """
import sys
from wsicl_jax.distributed.processes import join_processes, watch_peers
join_processes(sys.argv[1], 2, int(sys.argv[2]), timeout=int({timeout}))
import jax
with watch_peers():
    print("joined", jax.process_index(), jax.process_count(), flush=True)
    {then}
"""


def test_two_processes_find_each_other():
    port = free_port()
    processes = [start(JOIN.format(timeout=60, then="pass"), index, port) for index in range(2)]
    for index, process in enumerate(processes):
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 0, said
        assert f"joined {index} 2" in said


def test_a_process_whose_fellows_do_not_come_tells_so_and_exits_as_for_a_wrong_setting():
    process = start(JOIN.format(timeout=2, then="pass"), 1, free_port())
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the processes did not find each other within 2 s" in said.splitlines()[-1]


def test_an_error_in_one_process_ends_the_other_too():
    fails = "if jax.process_index() == 0: raise OSError('disk full')"
    waits = "from jax.experimental import multihost_utils as m; m.sync_global_devices('here')"
    port = free_port()
    program = JOIN.format(timeout=60, then=f"{fails}\n    {waits}")
    first, second = (start(program, index, port) for index in range(2))
    said, _ = first.communicate(timeout=90)
    assert first.returncode == 2
    assert "disk full" in said
    said, _ = second.communicate(timeout=10)
    assert second.returncode == PEER_LOST
    assert "another process of this run has ended" in said


class Pair:
    """Two processes that train together without end, and what they have said."""

    def __init__(self, directory: Path, checkpoint_every: int = 10**6):
        settings = {
            "data": "synthetic",
            "volume": {"grid": [16, 16, 16]},
            "episode": {"contexts": [1, 1]},
            "model": {"channels": [2, 4]},
            "train": {
                "steps": 10**6,
                "batch": 2,
                "log_every": 1,
                "checkpoint_every": checkpoint_every,
            },
            "evaluation": {"contexts": 1, "synthetic_structures": 1, "synthetic_targets": 1},
            "run": str(directory / "run"),
        }
        settings["train"]["workers"] = 0  # which a killed process would leave behind
        config = directory / "experiment.yaml"
        config.write_text(yaml.safe_dump(settings))
        self.run = directory / "run"
        self.command = [WSICL, "train", str(config)]
        self.environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        self._outputs = [directory / f"output{index}" for index in range(2)]
        joining = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
        self.processes = [
            subprocess.Popen(
                [*self.command, *joining, "--process-id", str(index)],
                stdout=output.open("wb"),
                stderr=subprocess.STDOUT,
                env=self.environment,
            )
            for index, output in enumerate(self._outputs)
        ]

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            ended = [process.poll() for process in self.processes]
            assert ended == [None, None], self.said(0) + self.said(1)
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def trains(self) -> bool:
        log = self.run / "log.jsonl"
        return log.exists() and log.read_text().count("\n") > 3

    def checkpoints(self) -> list[int]:
        """The steps whose checkpoints are whole."""
        saved = (self.run / "checkpoints").glob("[0-9]*")
        return sorted(int(step.name) for step in saved if step.name.isdecimal())

    def said(self, index: int) -> str:
        return self._outputs[index].read_text(errors="replace")

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.end()


@pytest.fixture
def saving_pair(tmp_path: Path) -> Iterator[Pair]:
    """A pair that is mostly busy with saving, where it waits for each other without Gloo."""
    pair = Pair(tmp_path, checkpoint_every=5)
    yield pair
    pair.end()


def assert_told(pair: Pair, index: int) -> None:
    said = pair.said(index)
    assert pair.processes[index].returncode == PEER_LOST, said
    assert "another process of this run has ended or stopped answering" in said.splitlines()[-1]
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("victim", [pytest.param(1, id="worker"), pytest.param(0, id="leader")])
def test_when_a_process_is_killed_the_other_ends_at_once_and_says_why(pair, victim):
    pair.wait_for(pair.trains)
    pair.processes[victim].kill()
    pair.processes[1 - victim].wait(10)
    assert_told(pair, 1 - victim)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0], ids=["worker", "leader"])
def test_when_a_process_hangs_the_other_ends_after_the_heartbeat_timeout(pair, victim):
    pair.wait_for(pair.trains)
    pair.processes[victim].send_signal(signal.SIGSTOP)
    pair.processes[1 - victim].wait(HEARTBEAT_SECONDS + 5)
    assert_told(pair, 1 - victim)


@pytest.mark.slow
def test_a_run_that_lost_a_process_while_saving_goes_on_from_its_checkpoint(saving_pair):
    pair = saving_pair
    pair.wait_for(pair.checkpoints)
    pair.processes[1].kill()
    pair.processes[0].wait(HEARTBEAT_SECONDS + 5)
    assert_told(pair, 0)
    newest = pair.checkpoints()[-1]
    resumed = subprocess.Popen(
        [*pair.command, "--resume"], env=pair.environment, stderr=subprocess.PIPE, text=True
    )
    pair.processes = [resumed]
    deadline = time.monotonic() + 60
    while pair.checkpoints()[-1] <= newest:
        assert resumed.poll() is None, resumed.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


_WITHOUT_DATA = """
import sys
from wsicl_jax.cli import main
from wsicl_jax.data.episodes.sampling import EpisodeSource
from wsicl_jax.errors import DataError
make = EpisodeSource.__getitem__
def fail(self, index):
    if index >= 2 * 4:
        raise DataError("the store of this host is gone")
    return make(self, index)
if sys.argv[-1] == "1":
    EpisodeSource.__getitem__ = fail
sys.exit(main())
"""


def trained_together(directory: Path, program: list[str], *second: str) -> tuple[Path, list]:
    """Train 8 steps by two processes, the second with further settings; their codes and words."""
    settings = {
        "data": "synthetic",
        "volume": {"grid": [16, 16, 16]},
        "episode": {"contexts": [1, 1]},
        "model": {"channels": [2, 4]},
        "train": {"steps": 8, "batch": 2, "checkpoint_every": 3},
        "evaluation": {"contexts": 1, "synthetic_structures": 1, "synthetic_targets": 1},
        "run": str(directory / "run"),
    }
    config = directory / "experiment.yaml"
    config.write_text(yaml.safe_dump(settings))
    joining = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
    processes = [
        subprocess.Popen(
            [*program, "train", str(config), *more, *joining, "--process-id", str(index)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for index, more in enumerate(((), second))
    ]
    said = [process.communicate(timeout=240)[1] for process in processes]
    codes = [process.returncode for process in processes]
    return directory / "run", list(zip(codes, said, strict=True))


@pytest.mark.slow
def test_processes_with_different_settings_do_not_train_together(tmp_path):
    run, ended = trained_together(tmp_path, [WSICL], "seed=3", "train.learning_rate=5e-2")
    for code, said in ended:
        assert code == 2, said
        line = said.splitlines()[-1]
        assert "seed is 0 in process 0, 3 in process 1" in line
        assert "train.learning_rate is 0.001 in process 0, 0.05 in process 1" in line
    assert not run.exists()


@pytest.mark.slow
def test_when_one_process_has_no_data_all_save_the_steps_made(tmp_path):
    run, ended = trained_together(tmp_path, [sys.executable, "-c", _WITHOUT_DATA])
    assert [code for code, _ in ended] == [PEER_LOST, 2]
    first, second = (said.splitlines()[-1] for _, said in ended)
    assert "another process has no data" in first
    assert "the store of this host is gone" in second
    for line in (first, second):
        assert "step 4 of 8 is saved" in line
    assert sorted(int(step.name) for step in (run / "checkpoints").iterdir()) == [3, 4]


@pytest.mark.parametrize(
    ("cause", "lost"),
    [
        (RuntimeError("Gloo all-reduce failed: Connection closed by peer"), True),
        (OSError(28), False),
    ],
)
def test_a_save_that_fails_because_a_process_is_lost_is_told_as_that(cause, lost):
    error = CheckpointError("the checkpoint could not be written")
    error.__cause__ = cause
    assert cluster._is_of_a_peer(error) == lost
