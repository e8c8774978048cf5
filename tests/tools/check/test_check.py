"""`wsicl check`: what a run would need on many devices, and the first thing that would fail."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from flax import nnx
from jax import numpy as jnp

from wsicl_jax.cli import main
from wsicl_jax.config import ModelConfig, config_from_dict, config_to_dict
from wsicl_jax.data.datasets import open_datasets
from wsicl_jax.data.manifest import manifest_of, write_manifest
from wsicl_jax.data.store_writer import create_store, finish_store, write_case
from wsicl_jax.distributed.placement import AXES, make_mesh
from wsicl_jax.model import ops
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.tools.check import check as check_run
from wsicl_jax.tools.check import device_memory as memory
from wsicl_jax.train.binding import DATA
from wsicl_jax.train.lowering import abstract_state
from wsicl_jax.train.run_checkpoints import RunCheckpoints

MODEL = ModelConfig(channels=(2, 4))
MODEL_ARRAYS = nnx.state(DualBranch.abstract(MODEL), nnx.Param)
SETTINGS = {
    "data": "synthetic",
    "volume": {"grid": [16, 16, 16]},
    "episode": {"contexts": [2, 4]},
    "augment": {"gin": 0},  # which alone would double the time of compiling
    "model": {"channels": [2, 4]},
    "train": {"steps": 1, "batch": 8},
}

ON_EIGHT = """
import json, sys
import jax, numpy as np
from wsicl_jax.cli import main
from wsicl_jax.config import load_config
from wsicl_jax.distributed.placement import AXES, make_mesh
from wsicl_jax.train.lowering import abstract_state

def bytes_on(device, tree):
    shards = [s for x in jax.tree.leaves(tree) for s in x.addressable_shards]
    return sum(s.data.nbytes for s in shards if s.device == device)

for overrides in json.loads(sys.argv[2]):
    print("CHECK", flush=True)
    assert main(["check", sys.argv[1], *overrides, "--devices", "8", "--hosts", "4"]) == 0
    config = load_config(sys.argv[1], overrides)
    state, placement = abstract_state(config, make_mesh(config))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    state = jax.device_put(state, placement)
    there = [bytes_on(jax.devices()[3], x) for x in (state.parameters, state.optimizer)]
    print("REALLY", *there, flush=True)
"""

UNCUT: list[str] = []
THRESHOLD = [
    "parallel.context=2",
    "parallel.space=2",
    "parallel.shard_parameters=true",
    "train.optimizer=muon",
]


def write(folder: Path, **changes) -> Path:
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump({**SETTINGS, "run": str(folder / "run"), **changes}))
    return file


def save_a_run(config) -> None:
    """A run as it is after its first step."""
    state, _ = abstract_state(config, make_mesh(config, jax.devices()[:1]))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
    run, settings = Path(config.run), config_to_dict(config)
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    manifest = manifest_of(config, open_datasets(config))
    write_manifest(run, manifest)
    about = {"config": settings, DATA: manifest.digest}
    with RunCheckpoints(run, done=0, keep=1, keep_best=0) as checkpoints:
        checkpoints.save(1, state.items, about)


def number(row: str, text: str, column: int = -1) -> int:
    """The number in a column of the row of a printed table."""
    line = next(line for line in text.splitlines() if row in line)
    return int([cell for cell in re.split("[│┃]", line) if cell.strip()][column].replace(",", ""))


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """What is printed for 8 simulated devices, and the bytes that really lie on one of them."""
    file = write(tmp_path_factory.mktemp("eight"))
    done = subprocess.run(
        [sys.executable, "-c", ON_EIGHT, str(file), json.dumps([UNCUT, THRESHOLD])],
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = []
    for text in done.stdout.split("CHECK\n")[1:]:
        printed, really = text.split("REALLY")
        found.append((printed, *map(int, really.split())))
    return found


@pytest.mark.parametrize("case", [0, 1], ids=["uncut", "cut"])
def test_the_printed_bytes_are_those_that_lie_on_a_device(on_eight, case):
    printed, parameters, optimizer = on_eight[case]
    assert number("all parameters", printed) == parameters
    assert number("all optimiser state", printed) == optimizer


def test_the_state_of_an_optimiser_is_told_by_its_kinds(on_eight):
    adam, muon = (printed for printed, *_ in on_eight)
    arrays = {kind: number(f"│ {kind} ", adam, 1) for kind in ("mu", "nu")}
    assert arrays["mu"] == arrays["nu"] == len(jax.tree.leaves(MODEL_ARRAYS))
    kernels = sum(x.ndim == 5 for x in jax.tree.leaves(MODEL_ARRAYS))
    assert number("│ muon mu ", muon, 1) == kernels
    assert number("│ adam nu ", muon, 1) == arrays["nu"] - kernels


def test_every_parameter_is_told_whole_or_cut(on_eight):
    uncut, cut = (printed for printed, *_ in on_eight)
    row = "context_branch.downs.0.conv.kernel"
    lines = [next(x for x in printed.splitlines() if row in x) for printed in (uncut, cut)]
    assert "whole" in lines[0]
    assert "data 2 on axis 4" in lines[1]
    assert number(row, uncut) == 4**3 * 2 * 4 * 4
    assert number(row, cut) == 4**3 * 2 * 2 * 4
    arrays = jax.tree.leaves(MODEL_ARRAYS)
    rows = re.findall(r"(?:target|context)_\w+\.[\w.]+", uncut.split("optimiser state")[0])
    assert len(set(rows)) == len(arrays)


def test_inputs_are_told_with_their_part_on_each_device(on_eight):
    printed = on_eight[1][0]
    line = next(x for x in printed.splitlines() if "context_prompts" in x)
    assert "8x4x16x16x16x1" in line and "4x2x8x16x16x1" in line
    assert number("context_prompts", printed) == 4 * 2 * 8 * 16 * 16 * 4


def test_the_run_is_said_to_be_ready_with_its_mesh_and_programs(on_eight):
    printed = on_eight[1][0]
    assert "data 2 x context 2 x space 2" in printed
    assert "up to 2: " in printed  # 4 devices per episode, 2 per host
    assert "programs to compile: 2" in printed  # 2 and 4: 3 is filled up
    assert "ready: training from the start" in printed


def test_more_devices_than_are_compiled_for_change_nothing_on_each(tmp_path):
    settings = {**SETTINGS, "run": "run", "train": {"batch": 600}, "parallel": {"data": 300}}
    config = config_from_dict(settings)
    mesh = jax.sharding.Mesh(np.array(300 * jax.devices()).reshape(300, 1, 1), AXES)
    shorter, compiled_for = memory.shortened(config, mesh)
    assert compiled_for.shape == {"data": 256, "context": 1, "space": 1}
    assert shorter.train.batch == 2 * 256


@pytest.mark.parametrize(
    ("sizes", "hosts"), [((8, 1, 1), 4), ((2, 4, 1), 4), ((3, 2, 2), 4), ((2, 1, 8), 8)]
)
def test_a_host_reads_the_episodes_of_its_devices(sizes, hosts):
    batch = 2 * sizes[0]
    data_of_device = np.arange(np.prod(sizes)).reshape(sizes)
    found = memory.rows_of_hosts(batch, sizes, hosts)
    readers = np.zeros(batch, int)
    for devices, rows in zip(np.split(data_of_device.ravel(), hosts), found.rows, strict=True):
        positions = {int(np.argwhere(data_of_device == device)[0][0]) for device in devices}
        assert list(rows) == sorted(2 * p + i for p in positions for i in (0, 1))
        readers[list(rows)] += 1
    assert found.readers == readers.max()


def test_the_step_is_lowered_as_for_accelerators():
    x, kernel = jnp.ones((1, 4, 4, 4, 2)), jnp.ones((3, 3, 3, 2, 2))
    convolve = jax.jit(lambda x, kernel: ops.conv3d(x, kernel))

    def spatial_axes() -> int:
        text = convolve.lower(x, kernel).as_text()
        return max(map(int, re.findall(r"dim_numbers = \[b, [0-9, ]*(\d), f\]", text))) + 1

    assert spatial_axes() == 2
    with ops.native_lowering():
        assert spatial_axes() == 3
        native = convolve(x, kernel)
    assert spatial_axes() == 2
    np.testing.assert_allclose(convolve(x, kernel), native, rtol=1e-6)


# What would go wrong. The memory is another test's subject: compiling takes the time here.


@pytest.fixture
def told(tmp_path, monkeypatch, capfd):
    """`told(arguments..., settings)`: the exit code, and what is printed to stdout and stderr."""
    monkeypatch.setattr(check_run, "temporary_bytes", lambda *_: (5 * 10**9, 1))

    def run(*arguments: str, **changes) -> tuple[int, str, str]:
        file = write(tmp_path, **changes)
        code = main(["check", str(file), "--devices", "1", *arguments])
        return code, *capfd.readouterr()

    return run


def fails(result, *messages: str) -> str:
    """The check failed with these messages; returns what it had printed before."""
    code, printed, error = result
    assert code == 2
    assert error.startswith("wsicl check: ") and "Traceback" not in error
    assert "ready" not in printed
    for message in messages:
        assert message in error
    return printed


def test_an_unknown_setting(told):
    fails(told("train.stepz=3"), "unknown setting 'train.stepz'; nearest is 'train.steps'")


def test_a_mesh_that_does_not_fit(told):
    printed = fails(told("parallel.context=3"), "does not fit 1 devices")
    assert "3,973" in printed  # the network's parameters are known all the same


def test_hosts_and_memory_that_make_no_sense(told):
    fails(told("--hosts", "2"), "--hosts is 2")
    fails(told("--memory", "-1"), "--memory is -1")


def test_a_missing_store(told, tmp_path):
    printed = fails(told(data=str(tmp_path / "nowhere")), "nowhere")
    assert "estimated memory" in printed


def make_store(path: Path, cases: int, voxels: int) -> str:
    """A store of cases that show one structure, a cube of so many voxels along each axis."""
    create_store(path, "cubes", ("T1",), {1: "cube"})
    label = np.zeros((16, 16, 16), np.uint8)
    label[4 : 4 + voxels, 4 : 4 + voxels, 4 : 4 + voxels] = 1
    for position in range(cases):
        # Noise, because margins of one value would be cut off.
        image = label[None] + np.random.default_rng(position).random((1, 16, 16, 16), np.float32)
        write_case(path, f"case{position}", image, label, np.eye(4))
    finish_store(path)
    return str(path)


def test_too_few_cases(told, tmp_path):
    store = make_store(tmp_path / "store", 3, 5)
    fails(told(data=store), "no label in 5 training cases (at most 2)")


def test_a_structure_that_is_too_small_on_the_working_grid(told, tmp_path):
    fails(told(data=make_store(tmp_path / "store", 8, 1)), "use a larger volume.grid")


def test_too_few_cases_to_evaluate(told, tmp_path):
    store = make_store(tmp_path / "store", 8, 5)
    code, printed, _ = told("evaluation.contexts=9", data=store)
    assert code == 0
    assert "cubes/cube" in printed and "9 and 1 are needed" in printed
    named = [{"store": store, "structures": {"cube": [1]}}]
    fails(told("evaluation.contexts=9", data=named), "'cube'", "9 and 1 are needed")


def test_a_run_directory_that_cannot_be_written(told, tmp_path):
    (tmp_path / "file").touch()
    fails(told(run=str(tmp_path / "file" / "run")), "cannot write to", "is a file")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a place none can write to")
def test_a_run_directory_that_not_even_root_can_write(told):
    fails(told(run="/proc/runs/run"), "cannot write to /proc/runs/run")


def test_a_run_that_exists_needs_resume_and_the_same_settings(told, tmp_path):
    save_a_run(config_from_dict({**SETTINGS, "run": str(tmp_path / "run")}))
    fails(told(), "holds a run already; continue with --resume")
    fails(told("--resume", "seed=7"), "started with another seed")
    code, printed, _ = told("--resume", "train.keep_best=3")
    assert code == 0
    assert "ready: training from step 1" in printed


def test_a_run_goes_on_with_its_own_data_alone(told, tmp_path):
    store = make_store(tmp_path / "store", 8, 5)
    save_a_run(config_from_dict({**SETTINGS, "data": store, "run": str(tmp_path / "run")}))
    code, printed, _ = told("--resume", data=store)
    assert code == 0 and "ready: training from step 1" in printed
    write_case(store, "more", np.ones((1, 16, 16, 16)), np.ones((16, 16, 16), int), np.eye(4))
    finish_store(store)
    fails(told("--resume", data=store), "1 case new (more)", "--accept-data-changes")


def test_names_that_a_data_set_does_not_have(told, tmp_path):
    store = make_store(tmp_path / "store", 8, 5)
    data = [{"store": store, "structure_weights": {"ball": 2}}]
    fails(told("episode.structures=named", data=data), "['ball']", "it has ['cube']")
    fails(told(data=[{"store": store, "channels": ["T2"]}]), "['T2']", "it has ['T1']")


def test_a_run_without_a_sound_checkpoint(told, tmp_path):
    config = config_from_dict({**SETTINGS, "run": str(tmp_path / "run")})
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that of the damaged checkpoint, which is not the error
        fails(told("--resume"), "no checkpoint in")


def test_memory_that_does_not_suffice_with_what_would_help(told):
    printed = fails(
        told("--memory", "4.5"),
        "an estimated 5 GB do not fit a device's 4.5 GB",
        "model.context.mini_context=1",
        "model.context.remat=stage",
        "train.accumulate=8",
        "parallel.data=8",
        "parallel.space=2",
    )
    assert "does not fit" in printed
    code, printed, _ = told("--memory", "5.1")
    assert code == 0
    assert "fits narrowly" in printed


def test_averaged_parameters_take_the_memory_of_the_parameters(told):
    _, without, _ = told()
    _, printed, _ = told("train.ema=0.99")
    assert "averaged parameters" not in without
    assert number("averaged parameters", printed, 1) == number("│ parameters ", printed, 1)


def test_all_that_is_wrong_is_told_the_first_thing_first(told, tmp_path):
    _, _, error = told("--memory", "1", data=str(tmp_path / "nowhere"))
    first, second = error.splitlines()
    assert "nowhere" in first
    assert second.startswith("also: an estimated 5 GB")
