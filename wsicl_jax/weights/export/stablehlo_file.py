"""Writes a network with its weights as a StableHLO program for every platform, and runs it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export, lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Float32

from wsicl_jax.errors import ExportError
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.model import ops
from wsicl_jax.model.dual_branch import DualBranch
from wsicl_jax.weights.export import stablehlo_runner
from wsicl_jax.weights.export.verification import Sample, in_float32

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms of each file, which holds a lowering of the convolutions for each."""


def write_stablehlo(path: Path, model: DualBranch, grid: Shape3) -> None:
    """Write the program from (target, context_images, context_prompts) to the score.

    All are float32: (x, y, z) on the working grid, which is fixed, (L, x, y, z) twice with any L
    from 1 on, and (x, y, z). Context images are processed one after another, so that only the
    images themselves need memory that grows with L.
    """
    (count,) = export.symbolic_shape("contexts", constraints=["contexts >= 1"])
    volume = jax.ShapeDtypeStruct(grid, jnp.float32)
    volumes = jax.ShapeDtypeStruct((count, *grid), jnp.float32)
    with ops.portable_lowering():
        function = jax.jit(_function_of(in_float32(model)))
        traced = export.export(function, platforms=PLATFORMS)(volume, volumes, volumes)
    path.write_bytes(traced.serialize())


def run_stablehlo(path: Path, samples: Sequence[Sample]) -> Iterator[Float[np.ndarray, "x y z"]]:
    """The outputs of a file, from a CPU process that imports JAX and NumPy alone."""
    with tempfile.TemporaryDirectory(prefix="wsicl_export_") as folder:
        inputs = Path(folder, "inputs.npz")
        named = {
            f"{number}.{name}": array
            for number, sample in enumerate(samples)
            for name, array in sample._asdict().items()
        }
        np.savez(inputs, **named)
        command = [sys.executable, "-I", str(stablehlo_runner.__file__), str(path.absolute())]
        errors = Path(folder, "errors")
        with (
            errors.open("w") as stderr,
            subprocess.Popen(
                [*command, str(inputs), folder],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
            ) as process,
        ):
            try:
                for line in process.stdout or ():
                    yield np.load(Path(folder, f"{int(line)}.npy"))
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            last = errors.read_text().strip().splitlines()[-1:]
            raise ExportError(f"JAX alone could not run the file: {' '.join(last)[:300]}")


def _function_of(model: DualBranch):
    def score(
        target: Float32[Array, "x y z"],
        context_images: Float32[Array, "context x y z"],
        context_prompts: Float32[Array, "context x y z"],
    ) -> Float32[Array, "x y z"]:
        # `DualBranch` divides the context set into parts, whose number must be known; here it is
        # symbolic.
        shortcuts, x = model.target_encoder(target[None, ..., None])

        def add(total, image_and_prompts):
            inputs = jnp.stack(image_and_prompts, axis=-1)[None]
            features = model.context_branch(inputs, shortcuts)
            return jax.tree.map(jnp.add, total, features), None

        one = jax.ShapeDtypeStruct((1, *target.shape, 2), jnp.float32)
        shapes = jax.eval_shape(lambda inputs: model.context_branch(inputs, shortcuts), one)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, _ = lax.scan(add, zeros, (context_images, context_prompts))
        count = jnp.asarray(context_images.shape[0], jnp.float32)
        means = jax.tree.map(lambda t: t / count, total)
        return model.target_decoder(x, shortcuts, means)[0, ..., 0]

    return score
