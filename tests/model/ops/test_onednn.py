"""Convolutions in oneDNN, against XLA's own, derived by plain automatic differentiation."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax

from wsicl_jax.config import ContextConfig, ModelConfig
from wsicl_jax.model import ops
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.model.ops import compilation, convolution, onednn, onednn_support

SLOW = pytest.mark.slow
pytestmark = [
    pytest.mark.usefixtures("no_programs_kept"),
    pytest.mark.skipif(
        not onednn_support.available(), reason="jaxlib contains no oneDNN for this machine"
    ),
]


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_equal_to_rounding(given, expected, tolerance=1e-5):
    for a, b in zip(given, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


CASES = [
    # shape of x, channels out, size of the kernel, stride, padding of the first and other axes
    ((2, 5, 4, 7, 3), 4, 3, 1, (1, 1)),
    ((2, 5, 4, 7, 3), 4, 5, 1, (2, 2)),
    ((1, 1, 2, 3, 1), 2, 3, 1, (1, 1)),
    ((1, 6, 4, 12, 8), 8, 3, 1, (0, 1)),
    ((1, 3, 4, 12, 2), 40, 3, 1, (1, 1)),
    ((2, 4, 6, 10, 3), 5, 4, 2, (1, 1)),
    ((1, 8, 2, 4, 2), 5, 4, 2, (0, 1)),
    ((1, 2, 2, 2, 1), 1, 4, 2, (1, 1)),
]


@pytest.mark.parametrize(("shape", "c_out", "size", "stride", "padding"), CASES)
def test_a_convolution_and_both_its_gradients_are_the_native_ones(
    shape, c_out, size, stride, padding
):
    x, kernel = normal(0, *shape), normal(1, size, size, size, shape[-1], c_out)
    pads = [(p, p) for p in (padding[0], padding[1], padding[1])]

    @jax.jit
    def native(x, kernel):
        value, pull_back = jax.vjp(lambda *a: convolution._native(*a, stride, padding), x, kernel)
        return value, *pull_back(normal(7, *value.shape))

    @jax.jit
    def ours(x, kernel):
        value = onednn.convolve(x, kernel, pads, stride=stride)
        g = normal(7, *value.shape)
        by_input = onednn.by_input(kernel, g, pads, stride)
        return value, by_input, onednn.by_kernel(x, g, size, pads, stride)

    assert_equal_to_rounding(ours(x, kernel), native(x, kernel))


@pytest.mark.parametrize(
    "lines", [n if n in (1, 2, 5, 12) else pytest.param(n, marks=SLOW) for n in range(1, 13)]
)
def test_neighbours_along_z_become_channels_for_any_number_of_voxels(lines):
    x, g = normal(0, 1, 3, 2, lines, 2), normal(1, 1, 3, 2, lines, 4)
    native = jax.vjp(lambda k: convolution._native(x, k, 1, (1, 1)), jnp.zeros((3, 3, 3, 2, 4)))[1](
        g
    )
    ours = jax.jit(onednn.by_kernel, static_argnums=(2, 3, 4))
    assert_equal_to_rounding([ours(x, g, 3, ((1, 1),) * 3, 1)], native)


def program(function, *shapes) -> str:
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*inputs).as_text()


SHAPES = [(1, 4, 6, 8, 2), (3, 3, 3, 2, 4)]


def test_convolutions_on_cpu_are_made_in_onednn():
    assert ops.cpu_convolution() == "oneDNN"
    assert "__onednn$convolution" in program(lambda *a: ops.conv3d(*a), *SHAPES)
    gradient = jax.grad(lambda *a: (ops.conv3d(*a) ** 2).sum(), (0, 1))
    assert program(gradient, *SHAPES).count("__onednn$convolution") >= 3


def test_programs_that_are_kept_on_disk_hold_no_onednn(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert ops.cpu_convolution() == "stacked planes"
    assert "__onednn" not in program(lambda *a: ops.conv3d(*a), *SHAPES)


def test_a_jaxlib_that_fails_the_trial_does_without_onednn(monkeypatch):
    monkeypatch.setattr(onednn_support, "available", lambda: False)
    assert ops.cpu_convolution() == "stacked planes"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_other_number_formats_do_without_onednn(dtype):
    assert onednn_support.usable(jnp.zeros(1).dtype)
    assert not onednn_support.usable(jnp.zeros(1, dtype).dtype)


def test_what_is_exported_holds_no_onednn_and_needs_no_trial(monkeypatch):
    monkeypatch.setattr(onednn_support, "available", lambda: pytest.fail("a trial"))
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in SHAPES]
    with ops.portable_lowering():
        function = jax.jit(lambda *a: ops.conv3d(*a))
        text = export.export(function, platforms=["cpu", "tpu"])(*inputs).mlir_module()
    assert "__onednn" not in text and "stablehlo.convolution" in text


def test_the_cache_of_programs_stays_off_where_onednn_is_used(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    compilation.keep_compiled_programs()
    assert not jax.config.jax_compilation_cache_dir


def test_the_cache_of_programs_is_on_where_onednn_is_not(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.keep_compiled_programs(simulated=True)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "wsicl_jax")
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(onednn_support, "available", lambda: False)
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "wsicl_jax")


def test_a_convolution_in_a_loop_and_under_vmap_is_that_outside():
    xs, kernel = normal(0, 3, 1, 4, 6, 8, 2), normal(1, 3, 3, 3, 2, 2)
    expected = jnp.stack([ops.conv3d(x, kernel) for x in xs])
    looped = jax.jit(lambda xs: lax.scan(lambda _, x: (0, ops.conv3d(x, kernel)), 0, xs)[1])(xs)
    mapped = jax.jit(jax.vmap(lambda x: ops.conv3d(x, kernel)))(xs)
    assert_equal_to_rounding([looped, mapped], [expected, expected])


def gradients(model: ModelConfig, *, planes: bool) -> list[jax.Array]:
    network = DualBranch(model, rngs=nnx.Rngs(0))
    graph, parameters = nnx.split(network, nnx.Param)
    given = [normal(i, 1, *count, 16, 8, 8, 1) for i, count in enumerate([(), (3,), (3,)])]

    def loss(parameters):
        return (nnx.merge(graph, parameters)(*given) ** 2).mean()

    with pytest.MonkeyPatch.context() as patch:
        if planes:
            patch.setattr(onednn_support, "available", lambda: False)
        value, found = jax.jit(jax.value_and_grad(loss))(parameters)
    return [value, *jax.tree.leaves(found)]


@pytest.mark.parametrize("remat", [pytest.param("none", marks=SLOW), "context"])
def test_the_gradients_of_the_network_are_those_by_stacked_planes(remat):
    one_by_one = ContextConfig(mini_context=1, remat=remat)
    model = ModelConfig(channels=(2, 4), context=one_by_one)
    ours = gradients(model, planes=False)
    assert_equal_to_rounding(ours, gradients(model, planes=True), 1e-4)


_ON_EIGHT_DEVICES = """
import jax, numpy as np
from eight_devices import OnMesh, experiment
from wsicl_jax.model import ops
assert ops.cpu_convolution() == "oneDNN"
found = []
for mesh, devices in (("1 1 1", 1), ("2 2 2", 8)):
    on_mesh = OnMesh(experiment(mesh, {}), jax.devices()[:devices])
    output, gradients = on_mesh.output_and_gradients(on_mesh.gradient().compile())
    found.append([output, *gradients])
print(max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(*found)))
"""


def test_a_mesh_of_eight_devices_gives_the_gradients_of_one():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", _ON_EIGHT_DEVICES],
        env={
            **os.environ,
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": "",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) <= 1e-4
