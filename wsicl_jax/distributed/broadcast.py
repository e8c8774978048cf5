"""What the processes of a run tell each other, so that all go the same way."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from jax.experimental import multihost_utils

from wsicl_jax import errors
from wsicl_jax.distributed.processes import is_leader
from wsicl_jax.storage.digests import digest_of

T = TypeVar("T")

_NAMED = 5
"""Most settings, or processes of one value, in a message."""


def broadcast_from_leader(find_out: Callable[[], T]) -> T:
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


def agree(settings: Mapping[str, Any]) -> None:
    """Make sure that all processes were started with equal settings; all call this together.

    Raises:
        ConfigError: they were not; in all processes, with what differs.
    """
    multihost_utils.sync_global_devices("before settings are compared")
    if len(set(_from_all(digest_of(settings)))) > 1:
        differing = "; ".join(_differing(_from_all(dict(settings))))
        raise errors.ConfigError(
            f"the processes of this run were started with different settings: {differing}; start "
            "all of them with the same command, configuration and version of wsicl_jax"
        )


def _from_all(told: Any) -> list[Any]:
    """What every process tells, in JSON, by the number of the process."""
    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(text)] = text
    texts = np.reshape(multihost_utils.process_allgather(padded), (len(sizes), -1))
    return [json.loads(bytes(text[:size])) for text, size in zip(texts, sizes, strict=True)]


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    """Each setting that is not the same everywhere, with its values and the processes of each."""
    told = []
    for name in dict.fromkeys(name for own in settings for name in own):
        processes = defaultdict(list)
        for number, own in enumerate(settings):
            processes[json.dumps(own.get(name))].append(number)
        if len(processes) > 1:
            values = (f"{value} in {_numbers(there)}" for value, there in processes.items())
            told.append(f"{name} is {', '.join(values)}")
    more = len(told) - _NAMED
    return told[:_NAMED] + ([f"and {more} more"] if more > 0 else [])


def _numbers(processes: list[int]) -> str:
    shown = ", ".join(map(str, processes[:_NAMED]))
    more = f" and {len(processes) - _NAMED} more" if len(processes) > _NAMED else ""
    return f"process{'es' * (len(processes) > 1)} {shown}{more}"
