"""The benchmark of the service, with a network and images that take no time."""

import json

import pytest
from flax import nnx

from wsicl_jax.cli import main
from wsicl_jax.config import ModelConfig, VolumeConfig
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.serve.engine import KeepingSegmenter
from wsicl_jax.tools.bench import service_time


def test_a_correction_is_measured_through_the_service(tmp_path, capsys, monkeypatch):
    model = DualBranch(ModelConfig(channels=(2, 4)), rngs=nnx.Rngs(0))
    network = KeepingSegmenter(model, VolumeConfig(grid=(8, 8, 8)))
    monkeypatch.setattr(KeepingSegmenter, "load", lambda path: network)
    monkeypatch.setattr(service_time, "_COARSE", 24)
    file = tmp_path / "found.json"
    words = ["--shape", "20,24,16", "--contexts", "2", "--repeats", "2", "--json", str(file)]
    assert main(["bench", "serve", *words]) == 0
    printed = capsys.readouterr().out
    assert "saving the prompt" in printed
    found = json.loads(file.read_text())
    assert found["contexts"] == 2
    for run in found["seconds"]:
        parts = [seconds for stage, seconds in run.items() if stage != "total"]
        assert all(seconds > 0 for seconds in parts)
        assert run["total"] == pytest.approx(sum(parts))
