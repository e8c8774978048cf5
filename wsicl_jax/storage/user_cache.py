"""The user's folder of files that can be made again."""

import os
from pathlib import Path


def user_cache() -> Path | None:
    """`wsicl_jax` in `XDG_CACHE_HOME`, or in `~/.cache`; it may not exist yet.

    None if the user has no home directory.
    """
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "wsicl_jax"
    try:
        return Path.home() / ".cache" / "wsicl_jax"
    except RuntimeError:
        return None
