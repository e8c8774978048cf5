"""Damaged logs of runs: a run goes on with every mutant, or says why not."""

import json
import warnings

import pytest
from fuzz import failures

from wsicl_jax.train.log import RunLog, read_log

COUNTS = [50, pytest.param(2000, marks=pytest.mark.slow)]
WORDS = (b'"step": "3"', b'"step": -1', b'"step": true', b"5", b"[]", b"NaN", b"\xff", b'{"step":')
LOG = "".join(
    json.dumps({"step": step, "loss": 1 / step, "data/left/box": 0.5}) + "\n"
    for step in range(1, 20)
).encode()


def resume(path):
    """Read a log and go on with it from step 10."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_log(path.parent)
        with RunLog(path.parent, 10, leader=True) as log:
            log.write(11, {"loss": 1.0})
    for line in path.read_text().splitlines():
        assert json.loads(line)["step"] <= 11


@pytest.mark.parametrize("count", COUNTS)
def test_a_run_goes_on_with_a_damaged_log(tmp_path, count):
    found = failures(resume, [{"log.jsonl": LOG}], tmp_path, count=count, words=WORDS)
    assert not found, "\n".join(map(str, found))
