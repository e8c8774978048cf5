"""Benchmarks: that they measure what they say, on a network small enough to take no time."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from wsicl_jax.cli import main
from wsicl_jax.config import ContextConfig, config_from_dict
from wsicl_jax.tools.bench.context_cost import cost_table, measure, processings, remat_levels
from wsicl_jax.tools.bench.device_exchange import Exchange, compared_meshes, exchange_table

TINY = config_from_dict({"volume": {"grid": [16, 8, 8]}, "model": {"channels": [2, 4]}})


def printed(table) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.mark.slow
def test_every_size_is_measured_and_memory_does_not_grow_with_it():
    two, six = measure(TINY, {"exact": ContextConfig(mini_context=1)}, [2, 6], repeats=1)
    assert (two.contexts, six.contexts) == (2, 6)
    assert 0 < two.temporary_bytes <= six.temporary_bytes < 1.1 * two.temporary_bytes
    assert 0 < two.seconds < six.seconds


def test_the_configured_mini_context_is_the_one_compared():
    assert "exact, 3 at a time" in processings(ContextConfig(mini_context=3))
    assert {c.mini_context for c in remat_levels(ContextConfig(mini_context=3)).values()} == {3}


def test_without_repeats_nothing_is_run_and_the_table_says_so():
    (cost,) = measure(TINY, {"exact": ContextConfig(mini_context=1)}, [2], repeats=0)
    assert cost.seconds is None
    assert "-" in printed(cost_table("costs", [cost]))


def test_the_meshes_compared_use_all_devices():
    for mesh in compared_meshes(8):
        assert mesh.data * mesh.context * mesh.space == 8
    assert len(compared_meshes(2)) == 4


def test_the_table_of_exchanges_counts_megabytes():
    forward = {"all-reduce": 3_000_000, "collective-permute": 500_000}
    text = printed(exchange_table("x", [Exchange((1, 2, 4), False, forward, {}, 0.0)]))
    (line,) = (line for line in text.splitlines() if "1 x 2" in line)
    cells = [cell.strip() for cell in line.strip("│ ").split("│")]
    assert cells[:3] == ["1 x 2 x 4", "3.50", "0.50"]


@pytest.mark.slow
def test_the_command_writes_what_it_measured(tmp_path):
    file = tmp_path / "exchange.json"
    settings = ["model.channels=[2, 4]", "volume.grid=[8, 4, 4]"]
    command = [sys.executable, "-m", "wsicl_jax", "bench", "exchange", *settings]
    command += ["--devices", "2", "--contexts", "2", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["command"].startswith("wsicl ")
    by_mesh = {(*one["mesh"], one["shard_parameters"]): one for one in found["exchange"]}
    # Two episodes, 8 x 4 x 4 voxels of 2 channels and an eighth of them of 4, in float32.
    assert by_mesh[(1, 2, 1, False)]["forward"] == {"all-reduce": 2 * (128 * 2 + 16 * 4) * 4}
    assert by_mesh[(2, 1, 1, False)]["forward"] == {}
    assert set(by_mesh[(1, 1, 2, False)]["forward"]) == {"collective-permute"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["context", "episode.contexts=[1, 2]"], "only settings of model, volume, train"),
        (["exchange", "train.batch=4", "--devices", "3"], "fit no mesh of 3 devices"),
        (["exchange", "--contexts", "3", "train.batch=3"], "fit no mesh of 8 devices"),
        (["context", "--json", "/nowhere/x.json"], "cannot write"),
    ],
)
def test_what_cannot_be_measured_is_told(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(
        "wsicl_jax.tools.bench.device_exchange.simulate_devices", lambda count: None
    )
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err
