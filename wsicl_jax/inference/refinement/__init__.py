"""Coarse-to-fine refinement: tiles at full resolution, and the composition of the final masks.

Only what depends on tiles or on scores at full resolution belongs here; the order of the steps is
in `inference.task`.
"""
