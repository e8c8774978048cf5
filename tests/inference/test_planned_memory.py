import json
import subprocess
import sys

import numpy as np
import pytest

from wsicl_jax.errors import DataError
from wsicl_jax.inference.memory_plan import plan

LARGE = (400, 300, 200)


def planned(**changes):
    settings = {
        "structures": 1,
        "tiles": 0,
        "tile_voxels": 64**3,
        "probabilities": False,
        "program_bytes": 10**8,
        "steps": "the whole",
    }
    return plan(LARGE, **{**settings, **changes})


def test_a_plan_grows_with_what_is_requested():
    least = planned().peak_bytes
    network = planned(program_bytes=10**10).peak_bytes
    many = planned(structures=20, probabilities=True, program_bytes=10**10)
    assert least < network < many.peak_bytes
    voxels = int(np.prod(LARGE))
    assert many.peak_bytes - network >= 2 * 20 * voxels


def test_a_plan_that_needs_more_than_is_allowed_is_refused_and_says_what_for():
    planned().check(1000.0)
    planned().check(None)
    message = r"needs \d+\.\d\d GB \(the process so far .*max_memory_gb is 0.5; allow more"
    with pytest.raises(DataError, match=message):
        planned().check(0.5)


SEGMENT = """
import json, re
import numpy as np
from flax import nnx
from wsicl_jax.config import InferenceConfig, ModelConfig, VolumeConfig
from wsicl_jax.data.images import Volume
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.segmenter import Segmenter
from wsicl_jax.model.dual_branch import DualBranch

model = DualBranch(ModelConfig(channels=(4, 8)), rngs=nnx.Rngs(0))
segmenter = Segmenter(model, VolumeConfig(grid=(16, 16, 16)), InferenceConfig(refine=True))
small = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
task = segmenter.task({n: [Example(small, spacing_mm=(1, 1, 1), points=[(9, 9, 9)])] for n in "ab"})
task.segment(small, spacing_mm=(1, 1, 1))
plan = task.plan((300, 250, 200), np.eye(4), probabilities=True)
image = np.random.default_rng(1).integers(0, 1000, (300, 250, 200), dtype=np.int16)
found = task.segment(image, spacing_mm=(1, 1, 1), probabilities=True)
assert found.label_map.shape == image.shape
# Not what getrusage says, which begins with what the parent process held.
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps([peak, plan.peak_bytes, image.nbytes]))
"""


def test_segmenting_a_large_image_stays_within_what_was_planned():
    run = subprocess.run(
        [sys.executable, "-c", SEGMENT], capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stderr
    peak, limit, given = json.loads(run.stdout.splitlines()[-1])
    assert peak <= limit + given
    # The plan is not so cautious that it means nothing.
    assert peak >= 0.4 * limit
