"""What the leading process finds out, told to all, so that all go the same way."""

import json
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jax.experimental import multihost_utils

from wsicl_jax import errors
from wsicl_jax.cluster import is_leader

T = TypeVar("T")


def from_leader(find_out: Callable[[], T]) -> T:
    """The result of `find_out`, run by the leading process; JSON, so a tuple comes as a list.

    All processes call this together. An error of use in the leader is raised in all of them.

    Raises:
        WsiclError: of the kind that `find_out` raised.
    """
    # The processes join for exchange before they wait, which is the longer of the two.
    multihost_utils.sync_global_devices("before the leader finds out")
    told = {}
    if is_leader():
        try:
            told = {"result": find_out()}
        except (errors.WsiclError, OSError) as error:
            kind = type(error) if hasattr(errors, type(error).__name__) else errors.WsiclError
            told = {"error": [kind.__name__, str(error)]}
    text = json.dumps(told).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)[:size]
    told = json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))
    if "error" in told:
        kind, message = told["error"]
        raise getattr(errors, kind)(message)
    return told["result"]
