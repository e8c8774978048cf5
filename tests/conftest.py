"""What all tests share: programs compiled once in a test session, also by its subprocesses."""

import os

# Programs of tests run for moments: a simpler optimization compiles them in two thirds of the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")

import hypothesis
import jax
import numpy as np
import pytest
from s3_server import s3, s3_server  # noqa: F401

# A busy machine is slow at times; no test promises a time for one example.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

_AGREEMENT = pytest.StashKey[dict[str, float]]()


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory):
    """A compilation cache that starts empty and ends with the session; of all its workers."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "compiled"
    folder.mkdir(exist_ok=True)
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield


@pytest.fixture
def agree(pytestconfig):
    """`agree(name, given, expected, bound)`: within `bound`, and the deviation is reported.

    With `relative`, the deviation is a share of the largest expected magnitude.
    """
    worst = pytestconfig.stash.setdefault(_AGREEMENT, {})

    def check(name: str, given, expected, bound: float, *, relative: bool = False) -> None:
        assert np.shape(given) == np.shape(expected)
        expected = np.asarray(expected)
        deviation = float(np.abs(np.asarray(given) - expected).max())
        if relative:
            deviation /= float(np.abs(expected).max())
        worst[name] = max(worst.get(name, 0.0), deviation)
        assert deviation <= bound

    return check


def pytest_sessionfinish(session):
    """A worker hands what it measured to the process that prints it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["agreement"] = session.config.stash.get(_AGREEMENT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """The process that prints takes what a worker has measured."""
    worst = node.config.stash.setdefault(_AGREEMENT, {})
    for name, deviation in getattr(node, "workeroutput", {}).get("agreement", {}).items():
        worst[name] = max(worst.get(name, 0.0), deviation)


def pytest_terminal_summary(terminalreporter, config):
    """The largest deviations from the reference implementation and from PyTorch."""
    worst = config.stash.get(_AGREEMENT, {})
    if worst:
        terminalreporter.section("largest deviations")
        for name, deviation in worst.items():
            terminalreporter.line(f"{name:<55} {deviation:.1e}")
