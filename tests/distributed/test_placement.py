"""Many devices: the same numbers as one, and no more exchanged than must be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import eight_devices
import jax
import numpy as np
import pytest

from wsicl_jax.config import config_from_dict
from wsicl_jax.data.episodes.sampling import Episode
from wsicl_jax.distributed import placement as parallel
from wsicl_jax.errors import ConfigError
from wsicl_jax.model.ops import compilation


def on_eight_devices(path: Path, *arguments: str) -> dict:
    """What `eight_devices` finds, in a process that has 8 simulated devices."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, str(Path(eight_devices.__file__)), str(path), *arguments],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    return on_eight_devices(tmp_path_factory.mktemp("eight") / "results.json")


@pytest.fixture(scope="module")
def every_mesh(tmp_path_factory):
    return on_eight_devices(tmp_path_factory.mktemp("eight") / "results.json", "every-mesh")


@pytest.mark.parametrize("mesh", eight_devices.FEW_MESHES)
def test_a_mesh_gives_the_output_of_one_device(eight, mesh):
    assert eight[mesh]["output"] <= 1e-5


@pytest.mark.parametrize("mesh", eight_devices.FEW_MESHES)
def test_a_mesh_gives_every_gradient_of_one_device(eight, mesh):
    assert eight[mesh]["gradients"] <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("mesh", eight_devices.MESHES)
def test_every_mesh_gives_output_and_gradients_of_one_device(every_mesh, mesh):
    assert every_mesh[mesh]["output"] <= 1e-5
    assert every_mesh[mesh]["gradients"] <= 1e-4


def test_a_mesh_changes_intensities_as_one_device_and_leaves_them_in_place(eight):
    found = eight["augmentation"]
    assert found["smallest change"] > 0.01
    assert found["deviation"] <= 1e-5
    assert found["in place"]


def test_intensities_are_changed_without_any_exchange_but_for_gin(eight):
    assert eight["augmentation"]["exchanged without gin"] == {}


def test_a_batch_is_split_into_parts_without_any_exchange(eight):
    found = eight["parts"]
    # Of the 8 rows, 0 to 3 lie on the first devices along data, 4 to 7 on the others.
    assert found["rows"] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert found["in order"] == list(range(8))
    contexts, (x, *others) = eight_devices.CONTEXTS, eight_devices.GRID
    assert found["shape on a device"] == [2, 2, contexts // 2, x // 2, *others, 1]
    assert found["exchanged"] == {}


def test_evaluation_on_eight_devices_gives_the_outputs_of_one(eight):
    found = eight["evaluation"]
    assert found["at once"] == 8
    assert found["deviation"] <= 1e-5
    assert found["between sizes"] > 0.1


def test_parameters_are_cut_where_that_is_asked(eight):
    assert eight["4 1 2, parameters cut"]["cut"] > 0.9
    assert eight["2 2 2, parts of 3 by stages"]["cut"] == 0


def test_forward_the_context_axis_exchanges_only_the_mean_feature_maps(eight):
    stages = range(len(eight_devices.CHANNELS))
    maps = sum(
        eight_devices.CHANNELS[i] * np.prod([side // 2**i for side in eight_devices.GRID])
        for i in stages
    )
    in_bytes = {"all-reduce": eight_devices.BATCH * maps * 4}
    found = eight["forward, contexts over devices"]
    assert found["1"]["exchanged"] == {}
    assert found["2"]["exchanged"] == found["8"]["exchanged"] == in_bytes


def test_the_context_branch_takes_an_nth_of_the_flops_on_n_devices(eight):
    found = eight["forward, contexts over devices"]
    flops = {int(count): forward["flops"] for count, forward in found.items()}
    branch = 2 * (flops[1] - flops[2])  # the rest, the target's part, is the same on each
    assert branch > 0.8 * flops[1]
    assert flops[1] - flops[8] == pytest.approx(branch * (1 - 1 / 8), rel=0.01)


def experiment(batch: int = 4, grid=(16, 8, 8), accumulate: int = 1, **sizes):
    return config_from_dict(
        {
            "volume": {"grid": grid},
            "model": {"channels": [2, 4]},
            "train": {"batch": batch, "accumulate": accumulate},
            "parallel": sizes,
        }
    )


@pytest.mark.parametrize(
    ("sizes", "devices", "expected"),
    [
        ({}, 4, (4, 1, 1)),
        ({"context": 2}, 8, (4, 2, 1)),
        ({"data": 2, "space": -1}, 8, (2, 1, 4)),
        ({"data": 1, "context": -1, "space": 2}, 6, (1, 3, 2)),
        ({"data": 1, "context": 1, "space": 1}, 1, (1, 1, 1)),
    ],
)
def test_minus_1_takes_the_devices_that_the_others_leave(sizes, devices, expected):
    assert parallel.mesh_sizes(experiment(**sizes), devices) == expected


@pytest.mark.parametrize(
    ("sizes", "devices", "message"),
    [
        ({"context": 3}, 8, "context x space must be 1, 2, 4 or 8"),
        ({"data": 2, "context": 2, "space": 1}, 8, "data x context x space must be 8"),
        ({}, 3, "train.batch = 4 cannot be shared by parallel.data = 3.*1 or 2 as data"),
        (
            {"accumulate": 2},
            4,
            "train.batch = 4 / train.accumulate = 2 cannot .* multiple of 8 as batch, or 1 or 2",
        ),
        ({"data": 1, "space": -1}, 3, "parallel.space = 3: .* multiple of 2, so use 1 or 2"),
    ],
)
def test_sizes_that_do_not_fit_are_told_with_those_that_do(sizes, devices, message):
    with pytest.raises(ConfigError, match=message):
        parallel.mesh_sizes(experiment(**sizes), devices)


def test_an_array_without_a_dimension_to_cut_is_held_whole():
    shapes = [(3, 3, 3, 2, 8), (3, 3, 3, 8, 2), (6,), ()]
    cuts = [parallel._cut_over_data(shape, 4) for shape in shapes]
    names = [tuple(cut) for cut in cuts]
    assert names == [(None, None, None, None, "data"), (None, None, None, "data"), (), ()]


def test_a_process_alone_holds_every_row_of_a_batch_in_order():
    mesh = parallel.make_mesh(experiment(), jax.devices()[:1])
    assert parallel.local_rows(4, mesh) == [0, 1, 2, 3]
    rng = np.random.default_rng(0)
    volumes = [rng.random((4, *count, 16, 8, 8, 1), np.float32) for count in ((), (), (2,), (2,))]
    batch = Episode(*volumes, rng.random((4, 2), np.float32), np.zeros((4, 1), np.int32))
    for placed, given in zip(parallel.to_devices(batch, mesh, 4), batch, strict=True):
        np.testing.assert_array_equal(placed, given)


def test_the_users_own_cache_directory_is_left_alone(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.setattr(parallel.jax.config, "update", lambda *_: pytest.fail("changed"))
    compilation.keep_compiled_programs()


@pytest.mark.parametrize(
    ("platform", "sizes", "overlap", "has_options"),
    [
        ("gpu", (8, 1, 1), None, True),
        ("gpu", (4, 2, 1), None, False),
        ("gpu", (1, 1, 8), None, False),
        ("gpu", (8, 1, 1), True, False),
        ("gpu", (1, 1, 8), False, True),
        ("cpu", (8, 1, 1), None, False),
        ("tpu", (8, 1, 1), False, False),
    ],
)
def test_gpus_overlap_exchange_where_it_is_frequent_or_requested(
    platform, sizes, overlap, has_options
):
    config = config_from_dict({"run": "run", "data": "synthetic", "parallel": {"overlap": overlap}})
    mesh = dict(zip(parallel.AXES, sizes, strict=True))
    assert bool(parallel.compiler_options(platform, mesh, config.parallel)) == has_options


def test_tpus_compile_with_the_least_effort_where_requested():
    settings = {"run": "run", "data": "synthetic", "parallel": {"fast_compile": True}}
    config, mesh = config_from_dict(settings), dict(zip(parallel.AXES, (1, 1, 1), strict=True))
    effort = parallel.compiler_options("tpu", mesh, config.parallel)
    assert effort == {"exec_time_optimization_effort": -1.0}
    assert parallel.compiler_options("cpu", mesh, config.parallel) == {}


def test_gpus_convolve_with_channels_last_where_requested():
    settings = {"run": "run", "data": "synthetic", "parallel": {"channels_last": True}}
    config, mesh = config_from_dict(settings), dict(zip(parallel.AXES, (1, 1, 1), strict=True))
    assert parallel.compiler_options("gpu", mesh, config.parallel)["xla_gpu_force_conv_nhwc"]
    assert parallel.compiler_options("cpu", mesh, config.parallel) == {}
