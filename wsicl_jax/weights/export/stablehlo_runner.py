"""Runs an exported StableHLO file with JAX and NumPy alone, in a process of its own.

Called as `python -I stablehlo_runner.py FILE INPUTS.npz OUTPUTS`: writes OUTPUTS/I.npy for each
sample I of the inputs and a line on stdout when it is there.
"""

import sys
from pathlib import Path

import jax
import numpy as np


def main(file: str, inputs: str, outputs: str) -> None:
    """Run every sample; fails if anything of the package that wrote the file was imported."""
    exported = jax.export.deserialize(bytearray(Path(file).read_bytes()))
    call = jax.jit(exported.call)
    with np.load(inputs) as given:
        for number in range(len(given.files) // 3):
            sample = (given[f"{number}.{name}"] for name in ("target", "images", "prompts"))
            np.save(Path(outputs) / f"{number}.npy", np.asarray(call(*sample)))
            print(number, flush=True)
    foreign = {"wsicl_jax", "flax"} & {name.split(".")[0] for name in sys.modules}
    if foreign:
        raise ImportError(f"imported {foreign}")


if __name__ == "__main__":
    main(*sys.argv[1:])
