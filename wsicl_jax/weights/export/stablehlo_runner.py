"""A script that runs an exported StableHLO file with JAX and NumPy alone.

`python -I stablehlo_runner.py FILE INPUTS.npz OUTPUTS` writes OUTPUTS/I.npy for each sample I of
the inputs, and then I as a line on stdout.
"""

import sys
from pathlib import Path

import jax
import numpy as np


def main(file: str, inputs: str, outputs: str) -> None:
    """Run every sample.

    Raises:
        ImportError: the file needed this package or Flax.
    """
    exported = jax.export.deserialize(bytearray(Path(file).read_bytes()))
    call = jax.jit(exported.call)
    with np.load(inputs) as arrays:
        for number in range(len(arrays.files) // 3):
            sample = (arrays[f"{number}.{name}"] for name in ("target", "images", "prompts"))
            np.save(Path(outputs) / f"{number}.npy", np.asarray(call(*sample)))
            print(number, flush=True)
    needed = {"wsicl_jax", "flax"} & {name.split(".")[0] for name in sys.modules}
    if needed:
        raise ImportError(f"the file needed {needed}")


if __name__ == "__main__":
    main(*sys.argv[1:])
