"""The cache of compiled programs between runs."""

import os
from pathlib import Path

import jax

from wsicl_jax.model import ops

_SHORTEST_KEPT_SECONDS = 0.1


def keep_compiled_programs(*, simulated: bool = False) -> None:
    """Let XLA reuse what it compiled in earlier runs, from the user's cache directory.

    Not on a CPU whose convolutions are made in oneDNN, as XLA cannot keep such programs: in
    long runs they save more time than compiling takes. `simulated` devices stand for others,
    and their programs are kept.
    `JAX_COMPILATION_CACHE_DIR` names another directory, for which oneDNN is done without, or
    none if it is empty.

    Unless `simulated` this asks for the devices: other processes are to be joined before.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    if not simulated and jax.default_backend() == "cpu" and ops.cpu_convolution() == "oneDNN":
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(cache / "wsicl_jax"))
    # By default JAX keeps none that takes less than a second, and a start has dozens of those.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST_KEPT_SECONDS)
