import numpy as np
import pytest
from evaluate.small_evaluations import GRID, some_model, write_store

from wsicl_jax.evaluate import predictor as network


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Ten cases with two structures; to be left as it is."""
    return write_store(tmp_path_factory.mktemp("stores") / "two_blocks")


@pytest.fixture(scope="session")
def model():
    return some_model()


@pytest.fixture(scope="package", autouse=True)
def four_at_once():
    """Batches of four episodes; else they would be filled up to a hundred on so small a grid."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "_VOXELS_AT_ONCE", 4 * int(np.prod(GRID)))
        yield
