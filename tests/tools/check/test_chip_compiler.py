"""`wsicl check --chip`: the chip's own compiler, where its extra is installed."""

import importlib.util
import json
import subprocess
import sys

import jax
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

LAYOUTS = r"""
import re
import jax
import numpy as np
from wsicl_jax.config import ParallelConfig
from wsicl_jax.distributed.hardware import CHIPS
from wsicl_jax.distributed.placement import compiler_options
from wsicl_jax.model import ops
from wsicl_jax.tools.check.chip_compiler import chip_devices

mesh = jax.sharding.Mesh(np.array(chip_devices(CHIPS["h200"], 1)), ("data",))
here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
x, kernel = (
    jax.ShapeDtypeStruct(shape, "bfloat16", sharding=here)
    for shape in ((1, 8, 8, 8, 16), (3, 3, 3, 16, 16))
)
sizes = {"data": 1, "context": 1, "space": 1}
for last in (False, True):
    options = compiler_options("gpu", sizes, ParallelConfig(channels_last=last))
    convolved = jax.jit(ops.conv3d, compiler_options=options).lower(x, kernel).compile()
    print(*set(re.findall(r"dim_labels=(\w+)", convolved.as_text())))
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


@installed("jax_cuda13_plugin", "cuda")
def test_gpus_convolve_with_channels_first_or_last():
    command = [sys.executable, "-c", LAYOUTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bf012_oi012", "b012f_o012i"]


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


@pytest.fixture
def planned(monkeypatch):
    """A compiler for any chip that plans 20 GB of temporary memory."""

    def compiled(_, contexts: int, advice: str) -> Compiled:
        sizes = {"arguments": 10**9, "results": 10**8, "reused": 10**8}
        return Compiled(contexts, **sizes, temporary=20 * 10**9, code=0, accessed=9, seconds=1.0)

    monkeypatch.setattr(check_run, "chip_devices", lambda *_: jax.devices("cpu")[:1])
    monkeypatch.setattr(check_run, "compile_step", compiled)


def test_a_step_that_the_compiler_finds_too_large_comes_with_what_would_help(tiny, planned, capsys):
    assert main(["check", str(tiny), "--chip", "v5e"]) == 2
    printed, error = capsys.readouterr()
    assert "does not fit" in printed
    assert "the 21 GB that the compiler plans do not fit a device's 16 GB; try model." in error


def test_a_gpu_that_jax_must_fill_further_than_it_does_by_default(tiny, planned, capsys):
    assert main(["check", str(tiny), "--chip", "l4"]) == 0
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in capsys.readouterr().out


def test_every_size_of_context_set_can_be_compiled(tiny, planned, tmp_path, capsys):
    numbers = tmp_path / "numbers.json"
    assert main(["check", str(tiny), "--chip", "h200", "--every-size", "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    assert [one["contexts"] for one in found["compiled"]] == [1, 2]
    assert found["least_seconds"]["computing"] > 0
    assert found["exchanged_bytes"] == {}  # on one device
    assert "least time of a step on NVIDIA H200" in capsys.readouterr().out


def test_steps_are_predicted_for_several_numbers_of_devices(tiny, tmp_path):
    numbers = tmp_path / "numbers.json"
    # Neither two context images nor 16 planes can be split in three.
    arguments = ["--chip", "v5p", "--devices", "1,3", "--table", "--json", str(numbers)]
    assert main(["check", str(tiny), *arguments]) == 0
    one, three = json.loads(numbers.read_text())["steps"]
    assert three["mesh"] == {"data": 3, "context": 1, "space": 1}
    assert (one["episodes"], three["episodes"]) == (2, 6)
    assert one["time"]["exchange"] == 0 < three["time"]["exchange"]
    assert one["time"]["computing"] == three["time"]["computing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "1,2"], "add it"),
        (["--devices", "1,2", "--table"], "add --chip"),
        (["--devices", "2,3", "--table", "--chip", "h200"], "multiples of the smallest"),
    ],
)
def test_several_numbers_of_devices_that_make_no_sense(tiny, capsys, arguments, message):
    assert main(["check", str(tiny), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_chip_is_named_with_the_nearest(tiny, capsys):
    assert main(["check", str(tiny), "--chip", "h20"]) == 2
    assert "--chip is 'h20'; nearest is 'h200'" in capsys.readouterr().err


def test_the_help_names_every_chip(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")  # no line is broken within a name
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    assert ", ".join(sorted(CHIPS)) in " ".join(capsys.readouterr().out.split())


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
        accessed=9,
        seconds=1.0,
    )
    parameters, optimizer, batch = array("p", 100), array("o", 200), array("b", 300)
    needed = memory_on_chip(parameters, optimizer, batch, compiled)
    # The next batch is on its way while the program runs.
    assert sum(needed.values()) == compiled.total + 300
    assert needed["padding and counters"] == 400
