"""Axes, boxes and grids of volumes, resampling, and intensities.

Functions of arrays and affines alone; nothing here reads files or knows prompts.
"""
