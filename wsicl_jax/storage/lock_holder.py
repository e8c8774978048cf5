"""The record of a lock's holder, and whether that process runs on this machine."""

import json
import os
import socket
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

BEAT_SECONDS = 10.0
"""Interval at which a holder shows that it lives."""

SILENT_SECONDS = 40.0
"""After this time without a sign, a holder on another machine counts as dead."""

_SAME_START_SECONDS = 5.0
"""Tolerance for the start time of a process, which changes when the clock is set."""


def own_record() -> dict[str, Any]:
    """The record of this process, with a token of its own."""
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex,
    }


def parsed(content: bytes) -> dict[str, Any]:
    """The record in a lock; {} if it is damaged."""
    try:
        record = json.loads(content)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def is_here(record: dict[str, Any]) -> bool:
    """Whether the holder is, or was, a process of this machine."""
    return record.get("machine") == machine()


def runs(record: dict[str, Any]) -> bool:
    """Whether a holder of this machine still runs."""
    try:
        process = psutil.Process(record["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - record["started"]) < _SAME_START_SECONDS
    except psutil.AccessDenied:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def machine() -> str:
    """Scope in which process numbers are unique: host, boot and process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # not Linux
        return socket.gethostname()
    return f"{socket.gethostname()} {boot} {namespace}"


def describe(record: dict[str, Any]) -> str:
    """The holder in a message."""
    if "pid" not in record:
        return "which is just starting"
    return f"number {record['pid']} on {record.get('host')}, since {record.get('since')}"


def in_use(what: str, record: dict[str, Any], lock: object) -> str:
    """The message that a living process holds a lock."""
    return (
        f"{what} is in use by another process, {describe(record)}; wait for its end, or stop it "
        f"(the lock is {lock})"
    )


def taken_over(what: str, record: dict[str, Any]) -> str:
    """The message that another process has taken over a lock that this one held."""
    return (
        f"{what} was taken over by another process, {describe(record)}, while this one was "
        "suspended; this one writes nothing more"
    )
