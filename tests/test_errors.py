"""Errors that a user can mend."""

import pytest

from wsicl_jax.errors import DataError, located
from wsicl_jax.storage.atomic import why_full


def test_an_error_without_a_place_is_not_its_own_cause():
    with pytest.raises(DataError) as raised, located(""):
        raise DataError("too large")
    assert raised.value.__cause__ is not raised.value
    assert why_full(raised.value) is None
