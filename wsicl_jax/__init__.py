"""Weakly supervised in-context segmentation of 3D medical images, in JAX.

What it offers is imported on first use, so that `import wsicl_jax` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsicl_jax.inference.inputs.example import Example
    from wsicl_jax.inference.segmenter import Segmenter
    from wsicl_jax.weights.networks import load_model

__version__ = "0.1.0"
__all__ = ["Example", "Segmenter", "__version__", "load_model"]

_HOME = {
    "Example": "wsicl_jax.inference.inputs.example",
    "Segmenter": "wsicl_jax.inference.segmenter",
    "load_model": "wsicl_jax.weights.networks",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'wsicl_jax' has no attribute {name!r}")
