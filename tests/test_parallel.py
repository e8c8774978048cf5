"""Many devices: the same numbers as one."""

import os
import subprocess
import sys

import jax
import pytest

from wsicl_jax import parallel
from wsicl_jax.errors import ConfigError

_ONE_AND_EIGHT = """
import jax
import numpy as np
from flax import nnx
from wsicl_jax.config import ModelConfig, TrainConfig
from wsicl_jax.data.episodes import Episode
from wsicl_jax.losses import make_loss
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.parallel import make_mesh, replicated, to_devices
from wsicl_jax.train.state import init_state, learning_rate, make_optimizer
from wsicl_jax.train.step import make_step
from wsicl_jax.train.stop import StopFlags, StopRequest

config = TrainConfig(warmup_steps=0, schedule="constant")
optimizer = make_optimizer(config)
rng = np.random.default_rng(0)
volumes = [rng.random((8, *count, 4, 6, 8, 1), np.float32) for count in ((), (), (2,), (2,))]

def one_step(devices):
    graph, parameters = nnx.split(
        DualBranch(ModelConfig(channels=(2, 4)), rngs=nnx.Rngs(0)), nnx.Param
    )
    mesh = make_mesh(8, devices)
    state = jax.device_put(init_state(parameters, optimizer), replicated(mesh))
    batch = to_devices(Episode(*volumes), mesh)
    assert len(batch.target.sharding.device_set) == len(devices)
    step = make_step(graph, optimizer, make_loss(config), learning_rate(config))
    state, metrics = step(state, batch, StopFlags(mesh)(StopRequest()))
    metrics.pop("stop")
    return jax.device_get((state.parameters, metrics))

assert jax.device_count() == 8
one, eight = one_step(jax.devices()[:1]), one_step(jax.devices())
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
"""


def test_a_step_on_eight_devices_equals_a_step_on_one():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", _ONE_AND_EIGHT],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_batch_that_the_devices_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="multiple of 3"):
        parallel.make_mesh(4, jax.devices() * 3)


def test_the_users_own_cache_directory_is_left_alone(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.setattr(parallel.jax.config, "update", lambda *_: pytest.fail("changed"))
    parallel.keep_compiled_programs()
