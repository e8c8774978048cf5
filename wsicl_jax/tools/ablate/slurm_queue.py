"""Reads the state of unfinished jobs from `squeue`, which works without Slurm's accounting."""

import os
import subprocess

from wsicl_jax.errors import ConfigError

_SECONDS = 60


def jobs_in_queue() -> dict[str, str]:
    """State of each of the user's jobs, by number; of arrays as `12_3`.

    Raises:
        ConfigError: squeue does not work here.
    """
    lines = _squeue("--array", f"--user={os.getuid()}", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines if len(line.split()) == 2)


def job_state(number: str) -> str:
    """State of one job, such as RUNNING or COMPLETING; empty if it is in no queue.

    Raises:
        ConfigError: as `jobs_in_queue`.
    """
    return _squeue(f"--job={number}", "--format=%T").strip()


def _squeue(*options: str) -> str:
    try:
        return subprocess.run(
            ["squeue", "--noheader", *options],
            check=True,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        ).stdout
    except FileNotFoundError:
        raise ConfigError("squeue is not installed here") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"squeue gave no answer within {_SECONDS} s") from None
    except (OSError, subprocess.CalledProcessError) as error:
        message = (getattr(error, "stderr", "") or str(error)).strip()
        raise ConfigError(message.partition("\n")[0]) from None
