"""launch/slurm.sbatch under a real Slurm, which the tests start on this machine for themselves."""

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo")
SYSTEM = "/usr/sbin:/usr/local/sbin"

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=20
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES State=UP OverSubscribe=FORCE:4
"""


class Slurm:
    """A controller and a node of its own, with two CPUs, on the loopback interface."""

    def __init__(self, home: Path):
        self.home = home
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:{SYSTEM}"
        self.environment = {
            **os.environ,
            "PATH": path,
            "SLURM_CONF": str(home / "slurm.conf"),
            "JAX_PLATFORMS": "cpu",
        }
        self._daemons: list[subprocess.Popen] = []

    def start(self) -> None:
        (self.home / "munge.key").write_bytes(os.urandom(1024))
        (self.home / "munge.key").chmod(0o400)
        config = CONFIG.format(
            host=socket.gethostname().partition(".")[0],
            home=self.home,
            user=getpass.getuser(),
            controller_port=free_port(),
            node_port=free_port(),
        )
        (self.home / "slurm.conf").write_text(config)
        (self.home / "state").mkdir()
        (self.home / "spool").mkdir()
        of_munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        of_munge["seed-file"] = "seed"
        munge = [f"--{name}={self.home}/munge.{end}" for name, end in of_munge.items()]
        self._daemon("munged", "--foreground", *munge)
        self._daemon("slurmctld", "-D", "-c")
        self._daemon("slurmd", "-D", "-N", "localhost")
        self.wait_until(self._is_up, 15)

    def _is_up(self) -> bool:
        if any(daemon.poll() is not None for daemon in self._daemons):
            raise ChildProcessError("a daemon has ended")
        return self.run("sinfo", "--noheader", "-o", "%T") == "idle"

    def _daemon(self, *command: str) -> None:
        log = (self.home / f"{command[0]}.out").open("wb")
        self._daemons.append(
            subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
        )

    def stop(self) -> None:
        if len(self._daemons) == 3:
            self.run("scancel", "--quiet", "--user", getpass.getuser())
            time.sleep(1)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def run(self, *command: str, **changed: str) -> str:
        done = subprocess.run(
            command,
            env={**self.environment, **changed},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return (done.stdout + done.stderr).strip()

    def submit(self, *arguments: str, output: Path, **changed: str) -> str:
        options = ("--parsable", "--ntasks=2", f"--output={output}")
        return self.run("sbatch", *options, str(SCRIPT), *arguments, **changed)

    def job(self, number: str) -> dict[str, str]:
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def ended(self, number: str, within: float, output: Path) -> dict[str, str]:
        """What Slurm knows of the job when it has ended for good."""
        final = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")
        try:
            self.wait_until(lambda: self.job(number).get("JobState") in final, within)
        except TimeoutError:
            text = output.read_text() if output.exists() else "no output"
            pytest.fail(f"{self.job(number)}\n{text}")
        return self.job(number)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    path = f"{os.environ['PATH']}:{SYSTEM}"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)}")
    # Not pytest's directory: the path of a socket may have 107 characters.
    home = Path(tempfile.mkdtemp(prefix="slurm-"))
    home.chmod(0o755)  # munged asks for it
    cluster = Slurm(home)
    try:
        cluster.start()
        yield cluster
    except (OSError, subprocess.SubprocessError) as error:  # a TimeoutError is an OSError
        logs = [file.read_text(errors="replace")[-300:] for file in home.glob("*.out")]
        pytest.skip(f"Slurm's daemons do not start here ({error!r}): {logs}")
    finally:
        cluster.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = {
        "data": "synthetic",
        "volume": {"grid": [16, 16, 16]},
        "episode": {"contexts": [1, 1]},
        "model": {"channels": [2, 4]},
        "train": {"steps": 4, "batch": 2, "log_every": 1, "warmup_steps": 1},
        "evaluation": {"contexts": 1, "synthetic_structures": 2, "synthetic_targets": 1},
    }
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A directory with a `wsicl` that stops on SIGTERM with code 75 and is done when resumed."""
    program = tmp_path / "bin" / "wsicl"
    program.parent.mkdir()
    program.write_text(
        f"""#!/usr/bin/env bash
        echo "$SLURM_PROCID $*" >> {tmp_path}/started
        [ -n "${{SLURM_RESTART_COUNT:-}}" ] && exit 0
        trap 'echo saved >> {tmp_path}/saved; exit 75' TERM
        for _ in $(seq 600); do sleep 0.1; done
        """
    )
    program.chmod(0o755)
    return program.parent


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.slow
def test_two_tasks_train_as_one_process(slurm, config, tmp_path):
    output = tmp_path / "slurm.out"
    job = slurm.submit(str(config), f"run={tmp_path / 'two'}", output=output)
    alone = ["wsicl", "train", str(config), f"run={tmp_path / 'one'}"]
    assert slurm.ended(job, 120, output)["ExitCode"] == "0:0", output.read_text()
    subprocess.run(alone, env=slurm.environment, check=True)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(two) == [1, 2, 3, 4]
    assert two == pytest.approx(one, rel=1e-5)
    assert "Rank 1 is connected to 1 peer" in output.read_text()


def test_a_job_that_was_stopped_on_request_is_queued_again_and_resumed(slurm, stub, tmp_path):
    output = tmp_path / "slurm.out"
    path = f"{stub}:{slurm.environment['PATH']}"
    job = slurm.submit("experiment.yaml", output=output, PATH=path)
    slurm.wait_until(lambda: len(lines(tmp_path / "started")) == 2, 20)
    time.sleep(0.3)  # until the stub has its trap
    slurm.run("scancel", "--signal=TERM", job)
    ended = slurm.ended(job, 60, output)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), output.read_text()
    assert lines(tmp_path / "saved") == ["saved", "saved"]
    assert sorted(lines(tmp_path / "started")) == 2 * ["0 train experiment.yaml --resume"] + 2 * [
        "1 train experiment.yaml --resume"
    ]


def test_a_cancelled_job_saves_and_is_not_queued_again(slurm, stub, tmp_path):
    output = tmp_path / "slurm.out"
    path = f"{stub}:{slurm.environment['PATH']}"
    job = slurm.submit("experiment.yaml", output=output, PATH=path)
    slurm.wait_until(lambda: len(lines(tmp_path / "started")) == 2, 20)
    time.sleep(0.3)
    slurm.run("scancel", job)
    slurm.wait_until(lambda: len(lines(tmp_path / "saved")) == 2, 15)
    time.sleep(2)
    assert slurm.job(job)["JobState"] == "CANCELLED"
    assert len(lines(tmp_path / "started")) == 2


@pytest.mark.slow
def test_training_that_was_stopped_on_request_goes_on_to_its_end(slurm, config, tmp_path):
    run, output = tmp_path / "run", tmp_path / "slurm.out"
    job = slurm.submit(str(config), f"run={run}", "train.steps=300", output=output)
    slurm.wait_until(lambda: len(lines(run / "log.jsonl")) > 5, 60)
    slurm.run("scancel", "--signal=TERM", job)
    ended = slurm.ended(job, 180, output)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), output.read_text()
    assert "go on with the same command" in output.read_text()
    assert list(losses(run)) == list(range(1, 301))
