"""The launch scripts: several processes train as one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "launch"


def environment() -> dict[str, str]:
    beside_python = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{beside_python}:{os.environ['PATH']}", "JAX_PLATFORMS": "cpu"}


def log(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name != "steps_per_second"} for line in lines]


def test_two_processes_give_the_losses_and_scores_of_one(tmp_path):
    settings = {
        "data": "synthetic",
        "volume": {"grid": [16, 16, 16]},
        "episode": {"contexts": [1, 1]},
        "model": {"channels": [2, 4]},
        "train": {"steps": 4, "batch": 2, "log_every": 1, "warmup_steps": 1},
        "evaluation": {"contexts": 1, "synthetic_structures": 2, "synthetic_targets": 1},
    }
    config = tmp_path / "experiment.yaml"
    config.write_text(yaml.safe_dump(settings))
    commands = {
        "one": ["wsicl", "train", str(config)],
        "two": ["bash", str(LAUNCH / "local.sh"), "2", str(config)],
    }
    for name, command in commands.items():
        subprocess.run([*command, f"run={tmp_path / name}"], env=environment(), check=True)
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert [line["step"] for line in two] == [1, 2, 3, 4, 4]
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-5)


def test_the_local_script_says_how_it_is_used():
    done = subprocess.run(
        ["bash", str(LAUNCH / "local.sh")], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
