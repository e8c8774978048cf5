"""Colours of structures, for formats that have them."""

import colorsys

_GOLDEN = 0.618034
"""Step around the colour circle that keeps any number of hues distinct."""


def colour_of(number: int) -> tuple[float, float, float]:
    """The colour of the structure with this number, from 0: red, green and blue from 0 to 1."""
    return colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.6, 0.9)
