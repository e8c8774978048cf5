"""Traces of chosen steps, with the parts of the network by name."""

import gzip
import json

import jax
import pytest
from tiny_runs import assert_equal_networks, tiny

from wsicl_jax.config import config_from_dict
from wsicl_jax.distributed.placement import make_mesh
from wsicl_jax.errors import ConfigError
from wsicl_jax.train.loop import train
from wsicl_jax.train.lowering import lower_step
from wsicl_jax.train.profiling import FOLDER


def traces(run) -> list[str]:
    return sorted(path.suffix for path in (run / FOLDER).rglob("*") if path.is_file())


def test_chosen_steps_are_traced_and_the_network_stays_the_same(whole_run, tmp_path):
    run = tmp_path / "run"
    assert_equal_networks(train(tiny(run, profile=[3, 4])), whole_run[1])
    (trace,) = (run / FOLDER).rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [e["args"]["step_num"] for e in events if e.get("name") == "train" and "args" in e]
    assert sorted(map(int, steps)) == [3, 4]
    assert ".pb" in traces(run)  # what TensorBoard opens


def test_the_parts_of_a_step_have_names(tmp_path):
    config = tiny(tmp_path / "run")
    lowered = lower_step(config, make_mesh(config, jax.devices()[:1]), contexts=2)
    text = lowered.as_text(debug_info=True)
    for name in ("augmentation", "encoder", "context_branch", "aggregation", "decoder", "loss"):
        assert f"{name}/" in text or f"{name})/" in text
    assert "optimizer/" in text


@pytest.mark.parametrize("steps", [[3], [4, 3], [0, 2], [1, 2, 3]])
def test_steps_that_make_no_range_are_refused(steps):
    with pytest.raises(ConfigError, match=r"train\.profile"):
        config_from_dict({"train": {"profile": steps}})
