"""Weakly supervised in-context segmentation of 3D medical images, in JAX.

`load_model` is imported on first use, so that `import wsicl_jax` stays light.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsicl_jax.checkpoint import load_model

__version__ = version("wsicl_jax")
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    if name == "load_model":
        from wsicl_jax.checkpoint import load_model

        return load_model
    raise AttributeError(f"module 'wsicl_jax' has no attribute {name!r}")
