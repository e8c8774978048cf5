"""Whether convolutions can be computed in oneDNN, which jaxlib offers through no stable interface.

Tested versions of jaxlib are trusted. In any other one a small calculation is tried in a process
of its own (`onednn_trial`). Its result is kept in the user's cache, for this processor and this
version: later runs on the machine choose the same lowering, and do not wait.
"""

import functools
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib

from wsicl_jax import __version__
from wsicl_jax.storage.user_cache import user_cache

TESTED_JAXLIB = ("0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0", "0.12.0.1")
"""Versions of jaxlib in which convolutions and gradients were compared with XLA's own."""

_PATIENCE_SECONDS = 300.0
"""Time of a trial after which it has failed; it takes about a second."""

_CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGFPE)


def usable(dtype: jnp.dtype) -> bool:
    """Whether this process can compute convolutions of a number format in oneDNN.

    Not with a cache of compiled programs (`jax_compilation_cache_dir`): XLA cannot store a program
    with such a call.
    """
    kept_on_disk = jax.config.jax_compilation_cache_dir and jax.config.jax_enable_compilation_cache
    # Results in bfloat16 with few channels are wrong.
    return dtype == jnp.float32 and not kept_on_disk and available()


def available() -> bool:
    """Whether jaxlib on this machine computes right convolutions in oneDNN."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return jaxlib.__version__ in TESTED_JAXLIB or _passes_trial()


@functools.cache
def _passes_trial() -> bool:
    """The result of a trial with this version of jaxlib on this processor."""
    folder = user_cache()
    kept = folder / _file_name() if folder else None
    result = _read(kept) if kept else None
    if result is None:
        result = _tried()
        if result and kept:
            _keep(kept, result)
    return bool(result and result["usable"])


def _file_name() -> str:
    """One for each version and processor, since machines may share a home directory."""
    processor = ""
    with suppress(OSError):
        processor = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
    kind = [line for line in processor.splitlines() if line.startswith(("model name", "flags"))]
    digest = hashlib.sha256("\n".join(kind).encode()).hexdigest()[:16]
    return f"onednn-{__version__}-jaxlib-{jaxlib.__version__}-{digest}.json"


def _read(path: Path) -> dict | None:
    try:
        return _result(path.read_text(errors="replace"))
    except (OSError, ValueError):  # none yet, or damaged
        return None


def _result(text: str) -> dict:
    """What a trial has printed.

    Raises:
        ValueError: this is no result of a trial.
    """
    from wsicl_jax.storage.documents import parse_json  # on demand, as below: often not needed

    result = parse_json(text)
    if not isinstance(result, dict) or not isinstance(result.get("usable"), bool):
        raise ValueError("it is no result of a trial")
    return result


def _keep(path: Path, result: dict) -> None:
    from wsicl_jax.storage.atomic import write_whole

    # Without a place to write, the next process tries again.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(result).encode())


def _tried() -> dict | None:
    """The result of a trial now; None, with a warning, if it could not be made."""
    command = [sys.executable, "-P", "-m", "wsicl_jax.model.ops.onednn_trial"]
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"usable": False, "reason": f"it did not end within {_PATIENCE_SECONDS:g} s"}
    except OSError as error:
        why = str(error)
    else:
        if -done.returncode in _CRASHES:
            name = signal.Signals(-done.returncode).name
            return {"usable": False, "reason": f"the process ended with {name}"}
        with suppress(ValueError):
            return _result(_last_line(done.stdout))
        why = _last_line(done.stderr) or f"exit status {done.returncode}"
    warnings.warn(
        f"oneDNN could not be tried with jaxlib {jaxlib.__version__}, and convolutions are slower "
        f"without it: {why}",
        stacklevel=2,
    )
    return None


def _environment() -> dict[str, str]:
    """Variables for the trial: no settings of this process, whose result would hold for all."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    # Also accelerators stay untouched.
    return kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
