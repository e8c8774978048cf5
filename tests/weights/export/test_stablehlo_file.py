"""One StableHLO file: for every platform, for any number of contexts, for JAX alone."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from wsicl_jax.errors import CheckpointError, ExportError
from wsicl_jax.weights.export.stablehlo_file import run_stablehlo
from wsicl_jax.weights.export.verification import Sample
from wsicl_jax.weights.file_loading import load_weights


@pytest.fixture(scope="module")
def program(exported):
    return jax.export.deserialize(bytearray(exported("stablehlo").path.read_bytes()))


def test_one_file_is_for_all_platforms_and_any_number_of_contexts(program):
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert [str(aval.shape) for aval in program.in_avals] == [
        "(8, 6, 10)",
        "(contexts, 8, 6, 10)",
        "(contexts, 8, 6, 10)",
    ]
    assert str(program.out_avals[0].shape) == "(8, 6, 10)"


def test_accelerators_get_the_native_convolution_and_cpu_its_own(program):
    kernels = re.findall(
        r"stablehlo\.convolution\(.*: \(tensor<\S+>, tensor<([0-9x]*)xf32>\)", program.mlir_module()
    )
    ranks = [kernel.count("x") + 1 for kernel in kernels]
    # Every convolution that has a kernel of more than one voxel is there in both forms.
    assert ranks.count(5) == ranks.count(4) > 10


def test_file_runs_without_the_package_in_a_process_of_jax_alone(
    exported, trained, output_of_pytorch, tmp_path
):
    code = (
        "import sys, jax, numpy as np\n"
        "from pathlib import Path\n"
        "f = jax.export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))\n"
        "a = np.load(sys.argv[2])\n"
        "call = jax.jit(f.call, compiler_options={'xla_backend_optimization_level': 0})\n"
        "np.save(sys.argv[3], call(a['target'], a['images'], a['prompts']))\n"
        "assert not {'wsicl_jax', 'flax', 'optax'} & set(sys.modules)\n"
    )
    rng = np.random.default_rng(5)
    target, images, prompts = rng.random((8, 6, 10)), *rng.random((2, 3, 8, 6, 10))
    sample = Sample(*(x.astype(np.float32) for x in (target, images, prompts)))
    np.savez(tmp_path / "inputs.npz", **sample._asdict())
    files = [str(tmp_path / name) for name in ("inputs.npz", "output.npy")]
    command = [sys.executable, "-I", "-c", code, str(exported("stablehlo").path), *files]
    subprocess.run(command, check=True, cwd="/")
    expected = output_of_pytorch(trained.model, sample)
    np.testing.assert_allclose(np.load(files[1]), expected, rtol=0, atol=1e-5)


def test_file_that_does_not_run_is_told_with_the_last_line(tmp_path):
    (tmp_path / "m.hlo").write_bytes(b"nothing")
    volume = np.zeros((2, 2, 2), np.float32)
    with pytest.raises(ExportError, match=r"could not run the file: .*error"):
        list(run_stablehlo(tmp_path / "m.hlo", [Sample(volume, volume[None], volume[None])]))


def test_weights_cannot_be_taken_out_and_it_says_what_to_import_instead(exported, tmp_path):
    copy = tmp_path / "m.onnx"
    copy.write_bytes(exported("stablehlo").path.read_bytes())
    for path in (exported("stablehlo").path, copy):
        with pytest.raises(CheckpointError, match=r"StableHLO.*cannot be extracted.*safetensors"):
            load_weights(path)
