"""The cache of compiled programs between runs."""

import os

import jax

from wsicl_jax.model import ops
from wsicl_jax.storage.user_cache import user_cache

_MIN_COMPILE_SECONDS = 0.1


def keep_compiled_programs(*, simulated: bool = False) -> None:
    """Let XLA reuse programs of earlier runs, from the user's cache directory.

    Not on a CPU with oneDNN convolutions: XLA cannot store such programs, and in long runs they
    save more time than compilation takes. `simulated` devices stand for accelerators, and their
    programs are stored. `JAX_COMPILATION_CACHE_DIR` names another directory, which turns oneDNN
    off; if it is empty, there is no cache.

    Unless `simulated`, this initializes the devices: join other processes before.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    if not simulated and jax.default_backend() == "cpu" and ops.cpu_convolution() == "oneDNN":
        return
    if (cache := user_cache()) is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))
    # JAX's default skips programs that compile in less than a second; a start has dozens.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
