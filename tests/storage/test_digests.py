"""What was changed in JSON is noticed."""

import json

import pytest

from wsicl_jax.storage.digests import has_valid_digest, with_digest


def test_sealed_json_stays_sealed_when_written_and_read():
    sealed = with_digest({"step": 3, "scores": [0.1, float("inf")], "name": "µ"})
    assert has_valid_digest(json.loads(json.dumps(sealed)))


@pytest.mark.parametrize(
    "content", [None, [], {}, {"step": 3}, {**with_digest({"step": 3}), "step": 4}]
)
def test_changed_or_foreign_json_is_not_sealed(content):
    assert not has_valid_digest(content)
