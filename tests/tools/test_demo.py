"""The demo from end to end, but for its training: an untrained network must be found out."""

import json
from dataclasses import replace

import jax
import pytest
from flax import nnx
from jax import numpy as jnp

from wsicl_jax.config import ModelConfig, VolumeConfig
from wsicl_jax.errors import ConfigError
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.tools.demo import demo


def untrained(config) -> DualBranch:
    graph, shapes = nnx.split(DualBranch.abstract(config.model), nnx.Param)
    return nnx.merge(graph, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))


@pytest.fixture
def small(monkeypatch):
    """A network and cohorts of no size, and no training."""
    usual = demo.demo_config

    def config(output, seed):
        config = usual(output, seed)
        return replace(
            config,
            volume=VolumeConfig(grid=(12, 12, 12)),
            model=ModelConfig(channels=(2, 4)),
            evaluation=replace(
                config.evaluation, contexts=(1, 2), synthetic_structures=2, synthetic_targets=1
            ),
        )

    monkeypatch.setattr(demo, "demo_config", config)
    monkeypatch.setattr(demo, "CONTEXTS", 2)
    monkeypatch.setattr(demo, "CONTEXT_SIZES", (1, 2))
    monkeypatch.setattr(demo, "train", untrained)
    monkeypatch.setattr(demo, "keep_compiled_programs", lambda: None)


def test_an_untrained_network_is_found_out_by_the_demo(small, tmp_path, capsys):
    means = demo.run_demo(tmp_path, seed=0)
    assert set(means) == {"structure", "other structure", "nothing"}
    content = json.loads((tmp_path / "demo.json").read_text())
    assert content["mean_dice"] == means
    assert set(content["mean_dice_by_contexts"]) == {"1", "2"}
    for figure in ("segmentations.png", "context_size.png"):
        assert (tmp_path / figure).stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "does NOT use its context" in printed
    assert "boxes of another structure" in printed and "unseen 2" in printed


def test_a_demo_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match="already holds a demo"):
        demo.run_demo(tmp_path, seed=0)
