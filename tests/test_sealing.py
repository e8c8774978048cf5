"""What was changed in JSON is noticed."""

import json

import pytest

from wsicl_jax.sealing import is_sealed, seal


def test_sealed_json_stays_sealed_when_written_and_read():
    sealed = seal({"step": 3, "scores": [0.1, float("inf")], "name": "µ"})
    assert is_sealed(json.loads(json.dumps(sealed)))


@pytest.mark.parametrize("content", [None, [], {}, {"step": 3}, {**seal({"step": 3}), "step": 4}])
def test_changed_or_foreign_json_is_not_sealed(content):
    assert not is_sealed(content)
