"""Segmentation with a trained network: a context set and targets in, results out.

`segmenter` is the entry, `task` has the order of the steps. Nothing here trains or scores.
"""
