"""Data: stores and their catalogues, data sets and their splits, image files, manifests.

The folders convert data sets to stores and make episodes of stores or of synthetic cohorts.
Nothing here knows a network's weights, a training loop or the command line.
"""
