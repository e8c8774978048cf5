"""Directories that cannot be written to are told as such, before anything is computed for long."""

import pytest
from faults.conftest import VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_a_read_only_directory_is_told_in_one_line_that_names_it(read_only, wsicl, verb):
    told = wsicl(verb, *VERBS[verb](read_only))
    assert told.code == 2, told.err
    assert "Traceback" not in told.err
    (line,) = (line for line in told.err.splitlines() if line.startswith(f"wsicl {verb}: "))
    assert str(read_only.output) in line
    assert "there is no directory" not in line
