"""`wsicl demo`: trains a small network on synthetic data, scores it and draws figures.

Its settings are in `demo.py`.
"""
