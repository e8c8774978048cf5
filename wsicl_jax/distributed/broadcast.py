"""JSON exchanged between the processes of a run, so that all decide alike."""

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
"""Most settings, and most processes of one value, in a message."""


def broadcast_from_leader(function: Callable[[], T]) -> T:
    """The result of `function`, run by the leading process alone, as JSON (tuples become lists).

    Collective: all processes call it. A user error in the leader is raised in all of them.

    Raises:
        WsiclError: of the class that `function` raised.
    """
    # Connect first: connecting times out sooner than waiting for the leader.
    multihost_utils.sync_global_devices("before the leader runs")
    outcome = {}
    if is_leader():
        try:
            outcome = {"result": function()}
        except (errors.WsiclError, OSError) as error:
            kind = type(error) if hasattr(errors, type(error).__name__) else errors.WsiclError
            outcome = {"error": [kind.__name__, str(error)]}
    text = json.dumps(outcome).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)[:size]
    outcome = json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))
    if "error" in outcome:
        kind, message = outcome["error"]
        raise getattr(errors, kind)(message)
    return outcome["result"]


def agree(settings: Mapping[str, Any]) -> None:
    """Check that all processes were started with equal settings; all processes call it.

    Raises:
        ConfigError: they differ; raised in all processes, with the differences.
    """
    multihost_utils.sync_global_devices("before settings are compared")
    if len(set(_from_all(digest_of(settings)))) > 1:
        differing = "; ".join(_differing(_from_all(dict(settings))))
        raise errors.ConfigError(
            f"the processes of this run were started with different settings: {differing}; start "
            "all of them with the same command, configuration and version of wsicl_jax"
        )


def _from_all(value: Any) -> list[Any]:
    """The JSON values of all processes, by process number."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(text))))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(text)] = text
    texts = np.reshape(multihost_utils.process_allgather(padded), (len(sizes), -1))
    return [json.loads(bytes(text[:size])) for text, size in zip(texts, sizes, strict=True)]


def _differing(settings: list[dict[str, Any]]) -> list[str]:
    """Each setting that differs, with its values and the processes of each value."""
    differences = []
    for name in dict.fromkeys(name for own in settings for name in own):
        processes = defaultdict(list)
        for number, own in enumerate(settings):
            processes[json.dumps(own.get(name))].append(number)
        if len(processes) > 1:
            values = (f"{value} in {_numbers(group)}" for value, group in processes.items())
            differences.append(f"{name} is {', '.join(values)}")
    more = len(differences) - _NAMED
    return differences[:_NAMED] + ([f"and {more} more"] if more > 0 else [])


def _numbers(processes: list[int]) -> str:
    numbers = ", ".join(map(str, processes[:_NAMED]))
    more = f" and {len(processes) - _NAMED} more" if len(processes) > _NAMED else ""
    return f"process{'es' * (len(processes) > 1)} {numbers}{more}"
