"""What tests of oneDNN share."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture
def no_programs_kept():
    """JAX keeps no compiled programs: oneDNN would not be usable else."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
