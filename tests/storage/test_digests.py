"""What was changed in JSON is noticed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsicl_jax.storage.digests import has_valid_digest, is_valid_line, to_line, with_digest

TEXT_LIKE_A_CHECKSUM = st.sampled_from(['"checksum": 1, ', 'x", "checksum": 2, "y'])
VALUES = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), TEXT_LIKE_A_CHECKSUM)
CONTENT = st.dictionaries(st.one_of(st.text(), TEXT_LIKE_A_CHECKSUM), VALUES)


def test_sealed_json_stays_sealed_when_written_and_read():
    sealed = with_digest({"step": 3, "scores": [0.1, float("inf")], "name": "µ"})
    assert has_valid_digest(json.loads(json.dumps(sealed)))


@pytest.mark.parametrize(
    "content", [None, [], {}, {"step": 3}, {**with_digest({"step": 3}), "step": 4}]
)
def test_changed_or_foreign_json_is_not_sealed(content):
    assert not has_valid_digest(content)


@given(content=CONTENT, data=st.data())
def test_a_line_that_counts_as_valid_is_sealed_json_and_no_changed_line_counts(content, data):
    line = to_line(with_digest({**content, "zz": 1}))
    assert has_valid_digest(json.loads(line))
    # A key before the checksum may look like one; the line is then parsed instead.
    assert is_valid_line(line) or "checksum" in "".join(map(str, [*content, *content.values()]))
    place = data.draw(st.integers(0, len(line) - 1))
    changed = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
    assert not is_valid_line(changed)


@pytest.mark.parametrize("line", [b"", b"{}", b'{"a": 1, "checksum": 12345, "b": 2}'])
def test_foreign_lines_are_not_valid(line):
    assert not is_valid_line(line)
