import pytest
from tiny_runs import tiny

from wsicl_jax.train.loop import train


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """A run that nobody interrupted: its directory, to be left as it is, and its network."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, train(tiny(run))
