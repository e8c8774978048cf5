"""The benchmark against PyTorch, on a network small enough to take no time."""

import json

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from wsicl_jax.cli import main
from wsicl_jax.config import ModelConfig, TrainConfig
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.tools.bench import network_speed as bench
from wsicl_jax.tools.bench.pytorch_runner import FORMATS
from wsicl_jax.tools.bench.timed_episode import random_episode

SETTINGS = ["model.channels=[2, 4]", "volume.grid=[4, 6, 8]"]


@pytest.mark.slow
def test_both_networks_are_timed_in_turns(tmp_path, capsys):
    file = tmp_path / "found.json"
    words = ["bench", "model", *SETTINGS, "--contexts", "2", "--repeats", "3"]
    assert main([*words, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "ratio" in printed and "2 to 4" in printed and "4 x 6 x 8" in printed
    found = json.loads(file.read_text())
    assert [case["operation"] for case in found["cases"]] == ["training step", "forward"]
    for case in found["cases"]:
        assert len(case["jax_seconds"]) == len(case["pytorch_seconds"]) == 3
        assert min(case["jax_seconds"]) > 0 and case["pytorch_format"] in FORMATS
        assert len(case["jax_processor_seconds"]) == 3 and min(case["jax_processor_seconds"]) > 0
        assert case["grid"] == [4, 6, 8] and case["contexts"] == 2
        medians = (np.median(case[f"{name}_seconds"]) for name in ("jax", "pytorch"))
        assert case["ratio"] == pytest.approx(np.divide(*medians))


def test_without_a_case_the_three_of_the_goals_are_compared(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(bench, "bench_model", lambda config, cases, **_: seen.append(cases) or {})
    assert main(["bench", "model"]) == 0
    assert seen == [bench.CASES]


@pytest.mark.parametrize("format", FORMATS)
def test_a_training_step_of_both_changes_the_parameters_alike(format, monkeypatch):
    """What is timed is the same work: loss, exact gradient and an update by Adam."""
    from wsicl_jax.tools.bench import pytorch_runner as module

    config = ModelConfig(channels=(2, 4))
    model = DualBranch(config, rngs=nnx.Rngs(0))
    before = jax.tree.map(np.array, nnx.state(model, nnx.Param))
    episode = random_episode((4, 6, 8), 2)
    kept = []
    torch_network_of = module.torch_network_of
    monkeypatch.setattr(
        module, "torch_network_of", lambda m: kept.append(torch_network_of(m)) or kept[0]
    )
    module.pytorch_runner("training step", model, TrainConfig(), episode, format)()
    bench._jax_runner("training step", model, TrainConfig(), episode)()
    # Adam's first update moves every parameter by the learning rate, against its gradient.
    moved = [p.detach().numpy() for p in kept[0].parameters()]
    expected = [p.detach().numpy() for p in torch_network_of(model).parameters()]
    steps = np.concatenate([(a - b).ravel() for a, b in zip(moved, expected, strict=True)])
    assert np.abs(steps).max() == pytest.approx(1e-5, rel=0.02)
    # And ours is not changed by being timed.
    after = jax.tree.map(np.array, nnx.state(model, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_pytorch_keeps_the_outputs_in_either_format():
    from wsicl_jax.weights.export.torch_network import torch_network_of

    model = DualBranch(ModelConfig(channels=(2, 4)), rngs=nnx.Rngs(0))
    target, images, prompts, _ = (
        torch.from_numpy(np.moveaxis(x, -1, -4).copy()) for x in random_episode((4, 6, 8), 2)
    )
    plain = torch_network_of(model)(target, images, prompts)
    last = torch_network_of(model).to(memory_format=torch.channels_last_3d)
    np.testing.assert_allclose(last(target, images, prompts).detach(), plain.detach(), atol=1e-6)
