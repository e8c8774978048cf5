"""The launch scripts: several processes train as one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"


def environment(*first: Path) -> dict[str, str]:
    path = [*map(str, first), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {**os.environ, "PATH": ":".join(path), "JAX_PLATFORMS": "cpu"}


def log(run: Path) -> list[dict[str, float]]:
    """What a run logged, without its times, which no two runs share."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        {name: line[name] for name in line if "second" not in name and name != "mfu"}
        for line in lines
    ]


def program(directory: Path, name: str, text: str) -> Path:
    """A stand-in for a program, in a directory for the PATH."""
    file = directory / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/usr/bin/env bash\n{text}\n")
    file.chmod(0o755)
    return file.parent


@pytest.mark.parametrize(
    ("contexts", "devices_each", "overrides"),
    [
        pytest.param(1, 1, [], id="each with its own episodes"),
        pytest.param(
            3,
            4,
            ["parallel.context=4", "parallel.space=2", "parallel.shard_parameters=true"],
            id="sharing context sets and volumes",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_give_the_losses_and_scores_of_one(
    tmp_path, contexts, devices_each, overrides
):
    settings = {
        "data": "synthetic",
        "volume": {"grid": [16, 8, 8]},
        "episode": {"contexts": [1, contexts]},
        "model": {"channels": [2, 4]},
        "train": {"steps": 4, "batch": 2, "log_every": 1, "warmup_steps": 1},
        "evaluation": {"contexts": 1, "synthetic_structures": 2, "synthetic_targets": 1},
    }
    config = tmp_path / "experiment.yaml"
    config.write_text(yaml.safe_dump(settings))
    commands = {
        "one": ["wsicl", "train", str(config)],
        "two": ["bash", str(LAUNCH / "local.sh"), "2", str(config), *overrides],
    }
    own = os.environ.get("XLA_FLAGS", "")
    flags = f"{own} --xla_force_host_platform_device_count={devices_each}"
    more = {"one": {}, "two": {"XLA_FLAGS": flags}}
    runs = [
        subprocess.Popen([*command, f"run={tmp_path / name}"], env=environment() | more[name])
        for name, command in commands.items()
    ]
    assert [run.wait() for run in runs] == [0, 0]
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert [line["step"] for line in two] == [1, 2, 3, 4, 4]
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-5)


@pytest.mark.parametrize("arguments", [[], ["2"], ["two", "experiment.yaml"]])
def test_the_local_script_says_how_it_is_used(arguments):
    done = subprocess.run(
        ["bash", str(LAUNCH / "local.sh"), *arguments],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_local_script_stops_the_processes_as_it_is_stopped_and_returns_their_code(
    tmp_path, number
):
    note = f'echo "$*" >> {tmp_path}/started; trap "exit 75" TERM; for _ in {{1..300}}; do'
    stub = program(tmp_path, "wsicl", f"{note} sleep 0.1; done")
    words = ["experiment.yaml", "--resume"]
    script = subprocess.Popen(
        # Tests that run in the background ignore Ctrl-C, and so would all that they start.
        ["env", "--default-signal=INT", "bash", str(LAUNCH / "local.sh"), "3", *words],
        env=environment(stub),
    )
    started, deadline = tmp_path / "started", time.monotonic() + 20
    while not started.exists() or started.read_text().count("\n") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # until they have their trap
    script.send_signal(number)
    assert script.wait(60) == 75
    calls = [line.split() for line in started.read_text().splitlines()]
    assert sorted(call[-1] for call in calls) == ["0", "1", "2"]
    assert all(call[:3] == ["train", *words] for call in calls)


def test_the_local_script_returns_the_code_of_the_first_that_failed(tmp_path):
    last = '[ "${@: -1}" = 1 ] && exit 2; sleep 1; exit 69'
    done = subprocess.run(
        ["bash", str(LAUNCH / "local.sh"), "2", "experiment.yaml"],
        env=environment(program(tmp_path, "wsicl", last)),
    )
    assert done.returncode == 2


def test_the_tpu_script_runs_the_same_command_on_all_hosts(tmp_path):
    stub = program(tmp_path, "gcloud", 'printf "%s\\n" "$@"; exit 75')
    kinds = "prompts.kinds={box: 1, point: 1}"
    done = subprocess.run(
        ["bash", str(LAUNCH / "tpu_pod.sh"), "pod", "europe-west4-b", "experiment.yaml", kinds],
        env=environment(stub),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 75, done.stderr
    *to, command = done.stdout.splitlines()
    assert to == [
        "compute",
        "tpus",
        "tpu-vm",
        "ssh",
        "pod",
        "--zone=europe-west4-b",
        "--worker=all",
    ]
    cd, _, run = command.removeprefix("--command=").partition(" && exec ")
    assert cd == "cd wsicl_jax"
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {run}"], capture_output=True, text=True, check=True
    )
    assert words.stdout.splitlines() == [
        ".venv/bin/wsicl",
        "train",
        "experiment.yaml",
        kinds,
        "--resume",
    ]


def test_the_tpu_script_says_what_it_needs(tmp_path):
    script = [shutil.which("bash"), str(LAUNCH / "tpu_pod.sh")]
    for arguments, word in [(["pod"], "usage"), (["pod", "zone", "c.yaml"], "no gcloud")]:
        done = subprocess.run(
            [*script, *arguments], capture_output=True, text=True, env={"PATH": str(tmp_path)}
        )
        assert done.returncode == 2
        assert word in done.stderr
