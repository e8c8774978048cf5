"""The processes of a run: joining, the leader, and the end when another process is lost."""

import atexit
import ctypes
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax

from wsicl_jax.errors import ConfigError, TrainingError, WsiclError

HEARTBEAT_SECONDS = 30
"""A process that sends no heartbeat for this time counts as lost."""

JOIN_SECONDS = 300
"""How long processes wait for each other at the start of a run."""

PEER_LOST = 69
"""Exit code if another process was lost (EX_UNAVAILABLE of sysexits.h)."""

_SAME_ERROR_SECONDS = 1.0
_ABORT_SECONDS = 10.0

_JOBSET_PORT = 8476


class PeerLostError(TrainingError):
    """Another process of the run has ended, or sent no heartbeat for `HEARTBEAT_SECONDS`."""

    exit_code = PEER_LOST


class Cluster(NamedTuple):
    """How the processes of a run connect."""

    name: str
    joining: Mapping[str, Any]
    """Arguments of `jax.distributed.initialize`; JAX detects the others."""


def find_cluster(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Cluster | None:
    """The cluster of this process; None: it runs alone.

    The options take precedence. Without them, the environment (`os.environ`) decides: a TPU pod,
    a Kubernetes JobSet as in `launch/jobset.yaml`, or a Slurm step (`srun`).

    Args:
        coordinator: `host:port` of process 0.
        num_processes: how many processes train together.
        process_id: the number of this process, from 0.

    Raises:
        ConfigError: only some of the three are given, or a value is out of range.
    """
    environment = os.environ if environment is None else environment
    options = {
        "--coordinator": coordinator,
        "--num-processes": num_processes,
        "--process-id": process_id,
    }
    missing = [name for name, value in options.items() if value is None]
    if len(missing) < len(options):
        if missing:
            raise ConfigError(f"{', '.join(options)} belong together; add {', '.join(missing)}")
        return _by_address("the options", coordinator, num_processes, process_id)
    # JAX itself puts "tpu" there on a TPU VM, unless JAX_PLATFORMS says otherwise.
    if "tpu" in (jax.config.jax_platforms or "").split(","):
        return Cluster("TPU", {})
    if environment.get("JOBSET_NAME"):
        return _jobset(environment)
    if "SLURM_STEP_NUM_TASKS" in environment:
        tasks = _integer(environment, "SLURM_STEP_NUM_TASKS")
        return Cluster("Slurm", {"cluster_detection_method": "slurm"}) if tasks > 1 else None
    return None


def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = JOIN_SECONDS,
) -> None:
    """Connect this process with the others of its cluster; call before any device is used.

    Arguments as of `find_cluster`; without a cluster, the process stays alone. If not all
    processes join within `timeout` seconds, JAX's C++ code aborts the process, which then prints
    the reason and exits with code 2.

    Raises:
        ConfigError: the description of the cluster is incomplete, or it cannot be joined.
    """
    cluster = find_cluster(coordinator, num_processes, process_id)
    if cluster is None:
        return
    # JAX's handler would ignore SIGTERM until training starts.
    jax.config.update("jax_enable_preemption_service", False)
    late = (
        f"the processes did not find each other within {timeout} s (by {cluster.name}); start all "
        "of them, with one coordinator address that all can reach, or with a longer --join-timeout"
    )
    undo = _report_abort(late, _exit_code(ConfigError()))
    try:
        jax.distributed.initialize(
            **cluster.joining,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        if cluster.name == "TPU" and "coordinator_address should be defined" in str(error):
            return  # the TPU of a single machine
        raise ConfigError(f"cannot join by {cluster.name}: {_first_line(error)}") from error
    finally:
        undo()
    if cluster.name == "Slurm" and _sees_only_its_own_gpus(os.environ):
        # JAX selected the GPU with the task's number on its node. That is right only if every task
        # sees all GPUs of the node.
        for option in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(option, "all")


@contextmanager
def watch_peers() -> Iterator[None]:
    """End this process with a message if another one of the run is lost during the block.

    If a process is lost, the next exchange with it fails, or JAX's C++ code aborts this process
    within `HEARTBEAT_SECONDS`. In the second case the process prints the reason and exits with
    code `PEER_LOST`, without returning here. After any error, the end of the interpreter does not
    wait for other processes, which may wait for this one. No effect on a process that runs alone.

    Raises:
        PeerLostError: an exchange with another process failed.
    """
    if not jax.distributed.is_initialized():
        yield
        return
    undo = _report_abort(_lost("see JAX's message above"), PEER_LOST)
    try:
        yield
        jax.distributed.shutdown()
    except BaseException as error:
        lost = _is_of_a_peer(error)
        reported = PeerLostError(_lost(_first_line(error))) if lost else error
        _exit_without_waiting(reported)
        if lost:
            raise reported from error
        raise
    undo()


def is_leader() -> bool:
    """Whether this is the process that writes what only one may write."""
    return jax.process_index() == 0


def _by_address(name: str, coordinator: str, count: int, index: int) -> Cluster:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"the coordinator is {coordinator!r}; expected HOST:PORT of process 0")
    if count < 1:
        raise ConfigError(f"there cannot be {count} processes; expected 1 or more")
    if not 0 <= index < count:
        raise ConfigError(f"there is no process {index} of {count}; expected 0 to {count - 1}")
    joining = {
        "coordinator_address": coordinator,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",  # otherwise Slurm's variables select one GPU
    }
    return Cluster(name, joining)


def _jobset(environment: Mapping[str, str]) -> Cluster:
    """Every pod of a replicated job is a process, numbered job by job."""
    name, job = environment["JOBSET_NAME"], environment.get("JOBSET_REPLICATED_JOB")
    if not job:
        raise ConfigError("JOBSET_NAME is set, but not JOBSET_REPLICATED_JOB; see jobset.yaml")
    jobs = _integer(environment, "JOBSET_REPLICAS")
    pods = _integer(environment, "JOBSET_PODS_PER_JOB", default=1)
    pod = _integer(environment, "JOB_COMPLETION_INDEX")
    if not 0 <= pod < pods:
        raise ConfigError(
            f"JOB_COMPLETION_INDEX is {pod}, but JOBSET_PODS_PER_JOB is {pods}; set it to the "
            "completions and parallelism of the job template"
        )
    port = _integer(environment, "JAX_COORDINATOR_PORT", default=_JOBSET_PORT)
    return _by_address(
        "JobSet",
        f"{name}-{job}-0-0.{name}:{port}",
        jobs * pods,
        _integer(environment, "JOBSET_JOB_INDEX") * pods + pod,
    )


def _sees_only_its_own_gpus(environment: Mapping[str, str]) -> bool:
    one_per_node = environment.get("SLURM_STEP_NUM_TASKS") == environment.get(
        "SLURM_STEP_NUM_NODES"
    )
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return one_per_node or (visible != "" and "," not in visible)


def _integer(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, "" if default is None else str(default))
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{name} is {value!r}; expected an integer") from None


_OF_A_PEER = re.compile(
    r"gloo|nccl|rccl|coordination.?service|heartbeat|barrier|connection (closed|reset)",
    re.IGNORECASE,
)
"""Messages of JAX and Orbax when an exchange between processes fails; they have no own type."""


def _is_of_a_peer(error: BaseException | None) -> bool:
    if error is None:
        return False
    if isinstance(error, WsiclError):  # such as a failed checkpoint
        return _is_of_a_peer(error.__cause__)
    return isinstance(error, RuntimeError | ValueError) and bool(_OF_A_PEER.search(str(error)))


def _lost(reason: str) -> str:
    return (
        f"another process of this run has ended or stopped answering ({reason}); see its last "
        "message, then start all of them again with --resume"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _exit_code(error: BaseException) -> int:
    """The exit code of the command line for an error; 1: a bug, with a traceback."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return getattr(error, "exit_code", 2 if isinstance(error, WsiclError | OSError) else 1)


class _Abort:
    """What to do when JAX's C++ code aborts the process."""

    message: str | None = None
    code = 134
    handler: Any = None


_abort = _Abort()


def _report_abort(message: str, code: int) -> Callable[[], None]:
    """Let an abort by C++ code end with this message and exit code; returns a function to undo it.

    JAX's coordination service calls `abort()` when it notices a lost process. A Python callback
    instead of it crashes in jaxlib 0.10.2 (std::bad_cast). Python's own signal handlers would
    never run, because C++ does not return to the interpreter.
    """
    try:
        set_handler = ctypes.CDLL(None).signal
    except (AttributeError, OSError, TypeError):  # not POSIX: the exit code is that of abort()
        return lambda: None
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_end_instead_of_abort)
    _abort.message, _abort.code, _abort.handler = message, code, handler
    before = set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    return lambda: set_handler(signal.SIGABRT, before)


def _end_instead_of_abort(_: int) -> None:
    if _abort.message is None:  # reported already: let the main thread end the process
        time.sleep(_ABORT_SECONDS)
    else:
        os.write(2, f"\nwsicl train: {_abort.message}\n".encode())
    _end(_abort.code)


def _exit_without_waiting(error: BaseException) -> None:
    """Let the interpreter end without waiting for other processes; JAX would wait for minutes."""
    _abort.message, _abort.code = None, _exit_code(error)
    if not isinstance(error, PeerLostError):
        # If all processes have this error, let all report it before they notice a lost one.
        time.sleep(_SAME_ERROR_SECONDS)
    # The last registered function runs first: before JAX's own.
    atexit.register(_flush_and_end, _abort.code)


def _flush_and_end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    _end(code)


def _end(code: int) -> None:
    for child in multiprocessing.active_children():
        child.kill()  # otherwise the loader's workers outlive this process
    os._exit(code)
