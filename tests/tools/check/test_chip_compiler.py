"""`wsicl check --chip`: the chip's own compiler, where its extra is installed."""

import importlib.util
import json
import subprocess
import sys

import pytest
import yaml

from wsicl_jax.cli import main
from wsicl_jax.config import INTENSITY_AUGMENTATIONS
from wsicl_jax.distributed.hardware import CHIPS
from wsicl_jax.tools.check import check as check_run
from wsicl_jax.tools.check.chip_compiler import Compiled
from wsicl_jax.tools.check.device_memory import Placed, memory_on_chip

TINY = {
    "data": "synthetic",
    "volume": {"grid": [16, 16, 16]},
    "episode": {"contexts": [1, 2]},
    "augment": dict.fromkeys(INTENSITY_AUGMENTATIONS, 0),
    "model": {"channels": [4, 8], "precision": "bfloat16"},
    "train": {"steps": 1, "batch": 2},
}

BY_HAND = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
from jax.experimental import topologies
import numpy as np
from wsicl_jax.config import load_config
from wsicl_jax.distributed.hardware import CHIPS
from wsicl_jax.train.lowering import lower_step

def plan(devices):
    described = topologies.get_topology_desc(
        "any", "cuda", target_config=text, topology=f"1x1x{devices}"
    ).devices
    mesh = jax.sharding.Mesh(np.array(described).reshape(-1, 1, 1), ("data", "context", "space"))
    config = load_config(sys.argv[1], [f"train.batch={devices}"])
    memory = lower_step(config, mesh, 2).compile().memory_analysis()
    return [memory.temp_size_in_bytes, memory.argument_size_in_bytes]

text = CHIPS["h200"].target.description(CHIPS["h200"])
print(json.dumps([plan(1), plan(2)]))
"""


def installed(package: str, extra: str):
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(
        not found, reason=f"needs the compiler of the extra {extra}: make test-chips"
    )


@pytest.fixture
def tiny(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, "run": str(tmp_path / "run")}))
    return file


def wsicl(*arguments: object) -> subprocess.CompletedProcess:
    """In a process of its own, because JAX may have started in this one."""
    command = [sys.executable, "-m", "wsicl_jax", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@installed("jax_cuda13_plugin", "cuda")
def test_the_memory_on_gpus_is_that_of_a_step_compiled_by_hand(tiny, tmp_path):
    numbers = tmp_path / "numbers.json"
    done = wsicl("check", tiny, "--chip", "h200", "--devices", "2", "--json", numbers)
    assert done.returncode == 0, done.stderr
    assert "as the compiler of NVIDIA H200 plans it" in done.stdout
    [compiled] = json.loads(numbers.read_text())["compiled"]
    by_hand = subprocess.run(
        [sys.executable, "-c", BY_HAND, str(tiny)], capture_output=True, text=True, check=True
    )
    on_one, on_two = json.loads(by_hand.stdout)
    assert [compiled["temporary"], compiled["arguments"]] == on_two
    # More devices along data need no more memory on each.
    assert on_two[0] <= 1.15 * on_one[0]


@installed("libtpu", "tpu")
def test_a_step_is_compiled_for_tpus(tiny):
    done = wsicl("check", tiny, "--chip", "v5e", "--devices", "2")
    assert done.returncode == 0, done.stderr
    assert "as the compiler of TPU v5 lite plans it" in done.stdout


@pytest.mark.parametrize(("chip", "extra"), [("h200", "cuda"), ("v5p", "tpu")])
def test_without_the_compiler_the_cpus_estimate_follows_with_advice(
    tiny, monkeypatch, capsys, chip, extra
):
    def absent(*_, **__):
        raise NotImplementedError("topology not implemented")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", absent)
    monkeypatch.setattr(check_run, "temporary_bytes", lambda *_: (5 * 10**9, 1))
    assert main(["check", str(tiny), "--chip", chip]) == 0
    printed = capsys.readouterr().out
    assert f"pip install 'wsicl_jax[{extra}]'" in printed
    assert "estimated memory per device, compiled for CPU" in printed
    assert f"of {CHIPS[chip].memory:g} GB" in printed
    assert "an estimate" in printed.splitlines()[-1]


def test_an_unknown_chip_is_named_with_the_nearest(tiny, capsys):
    assert main(["check", str(tiny), "--chip", "h20"]) == 2
    assert "--chip is 'h20'; nearest is 'h200'" in capsys.readouterr().err


def test_a_number_of_tpus_that_no_slice_has(tiny, capsys):
    assert main(["check", str(tiny), "--chip", "v5e", "--devices", "6"]) == 2
    assert "4 and 8 are possible" in capsys.readouterr().err


def test_every_size_needs_a_chip(tiny, capsys):
    assert main(["check", str(tiny), "--devices", "1", "--every-size"]) == 2
    assert "add --chip" in capsys.readouterr().err


def test_all_that_the_compiler_plans_is_counted_once():
    def array(name: str, size: int) -> list[Placed]:
        return [Placed(name, (size,), (size,), 1, "whole")]

    compiled = Compiled(
        contexts=2,
        arguments=1000,
        results=600,
        reused=550,
        temporary=5000,
        code=7,
        seconds=1.0,
    )
    parameters, optimizer, batch = array("p", 100), array("o", 200), array("b", 300)
    needed = memory_on_chip(parameters, optimizer, batch, compiled)
    # The next batch is on its way while the program runs.
    assert sum(needed.values()) == compiled.total + 300
    assert needed["padding and counters"] == 400
